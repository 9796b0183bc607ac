"""Prints a config: its keys with their values and what each means.

    igerg config --config=configs/pretrain.py:small [--config.KEY=VALUE …]
    igerg config --config=configs/finetune.py --diff
    igerg config --checkpoint=small --diff --base=configs/pretrain.py:small

The default is configs/pretrain.py; --checkpoint prints the config that a checkpoint was trained
with. The comments are those of configs/pretrain.py, which sets every key. --diff prints only the
keys that differ from --base.
Exit codes: 0; 2 = a mistake in the command or its files, named in one message.
"""

import functools

from absl import flags

from igerg_jax import environment
from igerg_jax.run import command_line, config_files, config_keys


def define_flags(argv: list[str]) -> flags.FlagValues:
    values = command_line.new_flags(argv)
    help_text = "Print what differs from --base."
    flags.DEFINE_boolean("diff", False, help_text, flag_values=values)
    help_text = "With --diff: the config file to compare with, and its preset."
    flags.DEFINE_string("base", config_files.DEFAULT, help_text, flag_values=values)
    help_text = "Print its config: a workdir, a checkpoint, or the name of a model such as small."
    flags.DEFINE_string("checkpoint", None, help_text, flag_values=values)
    return values


def run(argv: list[str]) -> None:
    """Runs a command line. Raises UserError if it is wrong."""
    argv = command_line.with_recorded_config(argv)
    if command_line.argument(argv, "config") is None:
        argv = [argv[0], f"--config={config_files.DEFAULT}", *argv[1:]]
    values = command_line.parse(argv, define_flags)
    if values.diff:
        print(config_keys.differences(values.config, config_files.load(values.base)))
    else:
        print(config_keys.describe(values.config))


main = functools.partial(command_line.main, doc=__doc__, define_flags=define_flags, run=run)

if __name__ == "__main__":
    environment.run(main)

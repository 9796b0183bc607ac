"""A config file for --config whose "preset" is FILE[:PRESET], where FILE may have a ":".

ml_collections takes what follows the first ":" for the preset; `command_line.with_config_path` puts
this file before the path of such a file.
"""

from ml_collections import ConfigDict

from igerg_jax.run import config_files


def get_config(argument: str) -> ConfigDict:
    """The config of a file. Raises UserError as `config_files.load` does."""
    return config_files.load(argument)

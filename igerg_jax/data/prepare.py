"""Prepares datasets: tokenised turns that can be read at random, written to disk once.

    igerg prepare --config=configs/pretrain.py [--config.data.dataset=meld ...]
    igerg prepare --config=... --short_side=256 # scales images down; training needs the key too
    igerg prepare --config=... --tokenizer     # only trains the tokenizer
    igerg prepare --config=... --verify        # changes nothing

Prepares every dataset that the config names, in one process per core (config.data.prepare_workers),
and prints the counts. Training prepares whatever is not prepared yet. After a kill, the same
command continues: finished parts are kept. docs/data.md lists the files that each dataset needs,
`igerg_jax.data.folders` says where the result is stored.

Exit codes: 0; 2 = a user error, in one message: files that are missing, damaged (--verify names
them and deletes nothing) or inconsistent, or a wrong flag.
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict

from igerg_jax import environment
from igerg_jax.data import (
    builders,
    config_checks,
    folders,
    mixtures,
    parts,
    raw_files,
    tokenizers,
    trained_tokenizers,
    writer,
)
from igerg_jax.data.prepared import Prepared
from igerg_jax.errors import UserError
from igerg_jax.run import command_line

_MAX_LISTED = 10  # damaged files that a message names
_COLUMNS = ("turns", "windows", "images", "missing_images", "broken_images", "labelled_turns")


def prepare(config: ConfigDict) -> Prepared:
    """Builds, tokenises and writes what is missing, and opens all of it.

    Returns config.data.dataset; the others are in its `datasets`. Several processes of one machine
    may call it at once.

    Raises:
      UserError: unknown dataset, missing source, unreadable or untrainable tokenizer.
    """
    data = config.data
    tokenizer = trained_tokenizers.find(data)
    bases = _write_missing_turns(data, folders.dataset_names(data))
    tokenizer = tokenizer or trained_tokenizers.find_or_train(data, bases)
    opened = {}
    for name, base in bases.items():
        with folders.locked_if_missing(base / tokenizer.digest) as missing:
            if missing:
                writer.tokens(base, tokenizer, data.tokenizer.kind, _workers(data))
        parts.check_copy(base / tokenizer.digest)
        opened[name] = Prepared(name, base / tokenizer.digest, data)
    prepared = opened[data.dataset]
    prepared.datasets = opened
    return prepared


def _write_missing_turns(data: ConfigDict, names: list[str]) -> dict[str, pathlib.Path]:
    """Writes the turns of the datasets that lack them; returns {dataset: its folder}."""
    bases = {name: folders.of_dataset(data, name) for name in names}
    is_first = not any((base / "turns").is_dir() for base in bases.values())
    if is_first and {*names} >= {*folders.dataset_names(data)}:  # else the labels may be of others
        builders.check_labels(names, builders.options_of(data))
    for name, base in bases.items():
        options = builders.options_of(data)
        with folders.locked_if_missing(base / "turns") as missing:
            if missing:
                writer.turns(name, options, base, _workers(data), data.short_side)
        if not missing:
            raw_files.warn_if_changed(name, options, base / "turns")
        parts.check_copy(base / "turns")
    return bases


def _workers(data: ConfigDict) -> int:
    return data.prepare_workers or parts.cores()


def prepare_tokenizer(config: ConfigDict) -> tuple[tokenizers.Tokenizer, pathlib.Path]:
    """The tokenizer that `prepare` would use, and its file; trains it if necessary.

    Reads only the texts that it is trained on, and tokenises nothing. Raises UserError like
    `prepare`.
    """
    data = config.data
    tokenizer = trained_tokenizers.find(data)
    if tokenizer is None:
        bases = _write_missing_turns(data, list(trained_tokenizers.corpus_weights(data)))
        tokenizer = trained_tokenizers.find_or_train(data, bases)
    return tokenizer, trained_tokenizers.path_of(data, tokenizer)


def verify(config: ConfigDict) -> int:
    """Checks checksums and counts of everything prepared for a config; returns how many datasets.

    Raises:
      UserError: something is not prepared, or damaged; the message names the files.
    """
    data = config.data
    tokenizer = trained_tokenizers.find(data)
    damaged: list[str] = []
    bases = {name: folders.of_dataset(data, name) for name in folders.dataset_names(data)}
    for name, base in bases.items():
        folder = base / (tokenizer.digest if tokenizer else "no tokenizer")
        if not (base / "turns").is_dir() or not folder.is_dir():
            raise UserError(
                f"dataset '{name}' is not prepared in '{base}': run this without --verify first"
            )
        damaged += writer.verify(base, folder)
    if damaged:
        more = f"; and {len(damaged) - _MAX_LISTED} more" if len(damaged) > _MAX_LISTED else ""
        raise UserError(
            f"damaged: {'; '.join(damaged[:_MAX_LISTED])}{more}. Nothing was changed: remove the "
            f"folder 'turns' or '{tokenizer.digest}' that holds them, and prepare again"
        )
    return len(bases)


def table(prepared: Prepared) -> str:
    """The counts of what is prepared, one line per split."""
    rows = [("dataset", "split", *(name.replace("_", " ") for name in _COLUMNS))]
    for dataset, opened in prepared.datasets.items():
        for split, counts in opened.summary["splits"].items():
            rows.append((dataset, split, *(f"{counts[name]:,}" for name in _COLUMNS)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = ["<", "<"] + [">"] * len(_COLUMNS)
    lines = ([f"{c:{a}{w}}" for c, a, w in zip(row, aligned, widths, strict=True)] for row in rows)
    return "\n".join(map("  ".join, lines))


_SHORT_FLAGS = {
    "data_dir": "Folder that is written to",
    "manual_dir": "Folder with the files that you must download",
}
_SWITCHES = {
    "tokenizer": "Only train the tokenizer (config.data.tokenizer: an existing path, or "
    "model_type, vocab_size, byte_fallback and mixture) and print its file.",
    "verify": "Only check checksums and counts of what is prepared.",
}


def define_flags(argv: list[str]) -> flags.FlagValues:
    """The flags of one command line."""
    values = command_line.new_flags(argv)
    for name, what in _SHORT_FLAGS.items():
        text = f"{what}: short for --config.data.{name}."
        flags.DEFINE_string(name, None, text, flag_values=values)
    text = "Pixels that the shorter side of images is scaled down to: --config.data.short_side."
    flags.DEFINE_integer("short_side", None, text, flag_values=values)
    for name, text in _SWITCHES.items():
        flags.DEFINE_boolean(name, False, text, flag_values=values)
    return values


def run(values: flags.FlagValues) -> None:
    """Executes parsed flags; results go to stdout. Raises UserError."""
    config = values.config
    for name in (*_SHORT_FLAGS, "short_side"):
        if values[name].value is not None:
            config.data[name] = values[name].value
    if values.verify and values.tokenizer:
        raise UserError("--verify and --tokenizer do not go together")
    config_checks.check(config.data)
    mixtures.check_names(config)
    if values.verify:
        count = verify(config)
        print(f"verified {count} dataset{'s' if count > 1 else ''}")
    elif values.tokenizer:
        tokenizer, path = prepare_tokenizer(config)
        print(f"{path}: {tokenizer.vocab_size:,} ids, digest {tokenizer.digest}")
    else:
        prepared = prepare(config)
        print(table(prepared))
        print(f"in {folders.root(config.data)}, tokenizer {prepared.tokenizer.digest}")


def main(argv: list[str]) -> int:
    """Runs a command line (the program's name first) and returns its exit code."""
    return command_line.main(
        argv, __doc__, define_flags, lambda a: run(command_line.parse(a, define_flags))
    )


if __name__ == "__main__":
    environment.run(main)

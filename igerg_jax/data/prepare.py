"""From datasets' names to tokenised, randomly readable turns on disk, written once.

    python -m igerg_jax.data.prepare --config=configs/pretrain.py [--config.data.dataset=meld ...]
    python -m igerg_jax.data.prepare --config=... --tokenizer     # trains it, tokenises nothing
    python -m igerg_jax.data.prepare --config=... --verify        # changes nothing

Prepares every dataset that the config names, in as many processes as there are cores
(config.data.prepare_workers), and prints what there is. Training does the same where it was not
done yet. Killed, it goes on where it was: finished parts are kept. docs/data.md says which files a
dataset needs.

    <data_dir>/prepared/<dataset>/<version>/turns/        words, labels, images
    <data_dir>/prepared/<dataset>/<version>/<digest>/     the words as ids of one tokenizer
    <data_dir>/prepared/tokenizers/                       what was trained, and on what

Exit codes: 0; 2 = something to mend, told in one message: files that are missing, damaged (with
--verify, which names them and deletes nothing) or contradict each other, or a wrong flag.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from igerg_jax.data import builders, mixtures, parts, store, tokenizers, write
from igerg_jax.data.prepared import Prepared, Split, Window
from igerg_jax.errors import UserError
from igerg_jax.run import command_line

__all__ = ["Prepared", "Split", "Window", "dataset_names", "prepare"]

# Nothing here imports TensorFlow; TFDS only where a dataset comes from it.
EVERYTHING = "all"  # config.data.tokenizer.mixture: every dataset that the config names
_SHOWN = 10  # damaged files that a message names
_COLUMNS = ("turns", "windows", "images", "missing_images", "broken_images", "labelled_turns")


def dataset_names(data: ConfigDict) -> list[str]:
    """All datasets that config.data names: its own first, then those of its mixtures."""
    mixed = [name for mixture in data.mixtures.values() for name in mixture.datasets]
    return list(dict.fromkeys([data.dataset, *mixed]))


def prepare(config: ConfigDict) -> Prepared:
    """Builds, tokenises and writes what is not there yet, and opens it.

    Reads `config.data`: dataset and mixtures, data_dir ("~" is the home folder), manual_dir,
    labels, tokenizer, train_split, prepare_workers, context_turns and response_tokens. Several
    processes of one machine may call it at once.

    Returns:
      config.data.dataset; the others in its `datasets`.

    Raises:
      UserError: unknown dataset, missing source, unreadable or untrainable tokenizer.
    """
    data = config.data
    tokenizer = _known_tokenizer(data)
    bases = _turns_of(data, dataset_names(data))
    tokenizer = tokenizer or _trained_tokenizer(data, bases)
    opened = {}
    for name, base in bases.items():
        folder = base / tokenizer.digest
        if not folder.is_dir():
            with _locked(base):
                if not folder.is_dir():
                    write.tokens(base, tokenizer, data.tokenizer.kind, _workers(data))
        opened[name] = Prepared(name, folder, data)
    prepared = opened[data.dataset]
    prepared.datasets = opened
    return prepared


def prepare_tokenizer(config: ConfigDict) -> tuple[tokenizers.Tokenizer, pathlib.Path]:
    """The tokenizer that `prepare` takes, and its file; trains it where it is not there yet.

    Only what it is trained on is read, and nothing is tokenised. Raises UserError as `prepare`.
    """
    data = config.data
    tokenizer = _known_tokenizer(data)
    tokenizer = tokenizer or _trained_tokenizer(data, _turns_of(data, list(_texts_of(data))))
    path = pathlib.Path(data.tokenizer.path or _note(data).with_name(f"{tokenizer.digest}.model"))
    return tokenizer, path


def verify(config: ConfigDict) -> int:
    """Re-reads all that is prepared for a config: checksums, then counts. Changes nothing.

    Returns:
      How many datasets there are.

    Raises:
      UserError: something is not prepared, or damaged; the message names the files.
    """
    data = config.data
    tokenizer = _known_tokenizer(data)
    wrong: list[str] = []
    folders = {name: base_folder(data, name) for name in dataset_names(data)}
    for name, base in folders.items():
        folder = base / (tokenizer.digest if tokenizer else "no tokenizer")
        if not (base / "turns").is_dir() or not folder.is_dir():
            raise UserError(
                f"dataset '{name}' is not prepared in '{base}': run this without --verify first"
            )
        wrong += write.verify(base, folder, _workers(data))
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UserError(
            f"damaged: {'; '.join(wrong[:_SHOWN])}{more}. Nothing was changed: remove the folder "
            f"'turns' or '{tokenizer.digest}' that holds them, and prepare again"
        )
    return len(folders)


def base_folder(data: ConfigDict, dataset: str) -> pathlib.Path:
    """Where `dataset` lies: keyed by its version and by where its raw files and labels are."""
    version = f"{builders.version(dataset)}-{write.FORMAT}"
    manual_dir = data.manual_dir if builders.needs_files(dataset) else ""
    sources = [manual_dir, data.labels.path]
    if any(sources):
        places = [str(pathlib.Path(s).expanduser().resolve()) if s else "" for s in sources]
        if data.labels.path:
            places.append(str(data.labels.min_confidence))
        version += f"-{hashlib.sha256(json.dumps(places).encode()).hexdigest()[:8]}"
    return _root(data) / dataset / version


def _root(data: ConfigDict) -> pathlib.Path:
    if "://" in data.data_dir:
        raise UserError(
            f"config.data.data_dir '{data.data_dir}': data are prepared on a local disk, then "
            "copied to a bucket (gcloud storage rsync -r)"
        )
    return pathlib.Path(data.data_dir).expanduser() / "prepared"


def _workers(data: ConfigDict) -> int:
    return data.prepare_workers or parts.cores()


def _write_turns(data: ConfigDict, dataset: str, base: pathlib.Path) -> None:
    options = builders.options_of(data)
    with _locked(base):
        if not (base / "turns").is_dir():
            write.turns(dataset, options, base, _workers(data))


def _turns_of(data: ConfigDict, names: list[str]) -> dict[str, pathlib.Path]:
    """{dataset: its folder}, its turns written where they were not."""
    bases = {name: base_folder(data, name) for name in names}
    for name, base in bases.items():
        if not (base / "turns").is_dir():
            _write_turns(data, name, base)
    return bases


def _tokenizers(data: ConfigDict) -> pathlib.Path:
    return _root(data) / "tokenizers"


def _note(data: ConfigDict) -> pathlib.Path:
    """The file that says which tokenizer these settings trained."""
    t = data.tokenizer
    made_from = [str(base_folder(data, name).relative_to(_root(data))) for name in _texts_of(data)]
    settings = [made_from, data.train_split, t.vocab_size, t.byte_fallback, t.max_sentences]
    if t.mixture != EVERYTHING and t.mixture:
        settings.append(data.mixtures[t.mixture].datasets.to_dict())
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    return _tokenizers(data) / f"{t.kind}-{t.model_type}-{t.vocab_size}-{key}.digest"


def _known_tokenizer(data: ConfigDict) -> tokenizers.Tokenizer | None:
    kind = data.tokenizer.kind
    if data.tokenizer.path:
        return tokenizers.load(kind, pathlib.Path(data.tokenizer.path).expanduser())
    note = _note(data)
    if not note.exists():
        return None
    return tokenizers.load(kind, note.with_name(f"{note.read_text().strip()}.model"))


def _texts_of(data: ConfigDict) -> dict[str, float]:
    """{dataset: weight} of what the tokenizer is trained on."""
    mixture = data.tokenizer.mixture
    if mixture == EVERYTHING:
        return dict.fromkeys(dataset_names(data), 1.0)
    if not mixture:
        return {data.dataset: 1.0}
    if mixture not in data.mixtures:
        known = ", ".join((*data.mixtures, EVERYTHING))
        raise UserError(
            f"config.data.tokenizer.mixture '{mixture}' is no mixture; there are: {known}"
        )
    return data.mixtures[mixture].datasets.to_dict()


def _trained_tokenizer(data: ConfigDict, bases: dict[str, pathlib.Path]) -> tokenizers.Tokenizer:
    with _locked(_tokenizers(data)):
        return _known_tokenizer(data) or _train_tokenizer(data, bases)


def _train_tokenizer(data: ConfigDict, bases: dict[str, pathlib.Path]) -> tokenizers.Tokenizer:
    settings = data.tokenizer
    if settings.kind != "sentencepiece":
        raise UserError(
            f"a '{settings.kind}' tokenizer can't be trained: set config.data.tokenizer.path"
        )
    weights = _texts_of(data)
    share = settings.max_sentences / sum(weights.values())
    texts: list[str] = []
    for name, weight in weights.items():
        texts += _sample(name, bases[name], data.train_split, int(share * weight))
    if not texts:
        raise UserError(
            f"{', '.join(weights)}: no words to train a tokenizer on; set config.data.tokenizer."
            "path to one that is there, or config.data.tokenizer.mixture to datasets with words"
        )
    print(f"training a tokenizer on {len(texts)} texts of {', '.join(weights)}", file=sys.stderr)
    tokenizer = tokenizers.train_sentencepiece(
        texts, settings.model_type, settings.vocab_size, settings.byte_fallback
    )
    note = _note(data)
    model = note.with_name(f"{tokenizer.digest}.model")
    for path, save in ((model, tokenizer.save), (note, lambda p: p.write_text(tokenizer.digest))):
        unfinished = parts.unfinished(path)
        save(unfinished)
        unfinished.replace(path)
    return tokenizer


def _sample(dataset: str, base: pathlib.Path, split: str, most: int) -> list[str]:
    """At most so many texts of a split, spread evenly over it; blank ones are left out."""
    folder = base / "turns" / split
    if not folder.is_dir():
        known = ", ".join(sorted(p.name for p in (base / "turns").iterdir() if p.is_dir()))
        raise UserError(
            f"dataset '{dataset}' has no split '{split}' (config.data.train_split); "
            f"there are: {known}"
        )
    turns = store.TurnStore(folder, None)
    chosen = np.flatnonzero(turns.text_bytes() > 0)
    if len(chosen) > most:
        chosen = chosen[np.arange(most) * len(chosen) // most]
    return [turns.text(i) for i in chosen]


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Makes the folder, and lets one process of this machine at a time into the block."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a")
    except OSError as error:
        raise UserError(
            f"cannot write to '{folder}' (config.data.data_dir): {error.strerror}"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def table(prepared: Prepared) -> str:
    """What is prepared, a line a split, for a person to read."""
    rows = [("dataset", "split", *(name.replace("_", " ") for name in _COLUMNS))]
    for dataset, opened in prepared.datasets.items():
        for split, counts in opened.summary["splits"].items():
            rows.append((dataset, split, *(f"{counts[name]:,}" for name in _COLUMNS)))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        names = [cell.ljust(width) for cell, width in zip(row[:2], wide, strict=False)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], wide[2:], strict=True)]
        return "  ".join((*names, *numbers))

    return "\n".join(map(line, rows))


def define_flags(argv: list[str]) -> flags.FlagValues:
    """The flags of one command line."""
    values = command_line.new_flags(argv)
    for name, what in (
        ("data_dir", "Folder that is written to"),
        ("manual_dir", "Folder with the files that a person must fetch"),
    ):
        text = f"{what}: short for --config.data.{name}."
        flags.DEFINE_string(name, None, text, flag_values=values)
    flags.DEFINE_boolean(
        "tokenizer",
        False,
        "Only make the tokenizer (config.data.tokenizer: an existing path, or model_type, "
        "vocab_size, byte_fallback and mixture) and print its file.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "verify", False, "Only re-read checksums and counts of what is there.", flag_values=values
    )
    return values


def run(values: flags.FlagValues) -> None:
    """Does what parsed flags ask for; results go to stdout. Raises UserError."""
    config = values.config
    for name in ("data_dir", "manual_dir"):
        if values[name].value is not None:
            config.data[name] = values[name].value
    if values.verify and values.tokenizer:
        raise UserError("--verify and --tokenizer do not go together")
    mixtures.check_names(config)
    if values.verify:
        count = verify(config)
        print(f"all is well: {count} dataset{'s' if count > 1 else ''}")
    elif values.tokenizer:
        tokenizer, path = prepare_tokenizer(config)
        print(f"{path}: {tokenizer.vocab_size:,} ids, digest {tokenizer.digest}")
    else:
        prepared = prepare(config)
        print(table(prepared))
        print(f"in {_root(config.data)}, tokenizer {prepared.tokenizer.digest}")


def main(argv: list[str]) -> int:
    """Runs a command line (the program's name first) and returns its exit code."""
    return command_line.main(
        argv, __doc__, define_flags, lambda a: run(command_line.parse(a, define_flags))
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))

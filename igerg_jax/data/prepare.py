"""From a dataset's name to tokenised, randomly readable turns on disk, written once.

    <data_dir>/tfds/...                               what the TFDS builder writes
    <data_dir>/prepared/<dataset>/<version>/
        sentencepiece-unigram-4096.digest             which tokenizer that setting trained
        <tokenizer digest>/tokenizer.model, summary.json, <split>/ (see igerg_jax.data.store)

A folder named by a digest is complete: it is written under another name and then renamed. Nothing
here imports TensorFlow, and TFDS only when something has to be built.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from igerg_jax.data import builders, store
from igerg_jax.data import tokenizer as tokenizers
from igerg_jax.data.progress import progress
from igerg_jax.errors import UserError

_FORMAT = 1  # of what `store` writes; older folders are then made anew beside the new ones
_READ_TURNS = 512  # examples asked of TFDS at once


@dataclasses.dataclass(frozen=True)
class Window:
    """Some turns of an episode and the turn that answers them.

    The previous turns come oldest first; an image is JPEG bytes, or None where a turn has none.
    """

    turn_texts: tuple[str, ...]
    turn_emotions: tuple[int, ...]
    turn_images: tuple[bytes | None, ...]
    response_text: str
    response_emotion: int
    response_image: bytes | None


class Split:
    """A split's windows: one for every turn that has a turn before it in its episode.

    Attributes:
      name: of the split.
      turns: the store that holds each turn once.
      response_turn: int64[windows], the turn (number in the store) that window i ends with.
      num_turns, num_windows: how many there are.
    """

    def __init__(self, name: str, folder: pathlib.Path, context_turns: int):
        self.name = name
        self.turns = store.TurnStore(folder)
        self.response_turn = np.flatnonzero(self.turns.turn_in_episode > 0)
        self.num_turns = len(self.turns)
        self.num_windows = len(self.response_turn)
        self._context_turns = context_turns

    def turn_range(self, i: int) -> tuple[int, int]:
        """Returns (first, last) of window i: numbers in the store; `last` is the response."""
        last = int(self.response_turn[i])
        return last - min(self._context_turns, int(self.turns.turn_in_episode[last])), last

    def window(self, i: int) -> Window:
        """Reads window i (0 <= i < num_windows)."""
        first, last = self.turn_range(i)
        numbers = range(first, last + 1)
        texts = [self.turns.text(n) for n in numbers]
        emotions = [int(self.turns.emotion[n]) for n in numbers]
        shown = [n for n in numbers if self.turns.image[n] != store.NO_IMAGE]
        images = dict(zip(shown, self.turns.read_images(self.turns.image[shown]), strict=True))
        jpegs = [images.get(n) for n in numbers]
        return Window(
            turn_texts=tuple(texts[:-1]),
            turn_emotions=tuple(emotions[:-1]),
            turn_images=tuple(jpegs[:-1]),
            response_text=texts[-1],
            response_emotion=emotions[-1],
            response_image=jpegs[-1],
        )


class Prepared:
    """A prepared dataset.

    Attributes:
      dataset, version: what was prepared.
      tokenizer: the one its tokens come from.
      folder: where it lies.
    """

    def __init__(self, config: ConfigDict, folder: pathlib.Path):
        self.dataset = config.data.dataset
        self.version = builders.version(config.data.dataset)
        self.folder = folder
        self.tokenizer = tokenizers.load(config.data.tokenizer.kind, folder / "tokenizer.model")
        self.summary = json.loads((folder / "summary.json").read_text())
        self._context_turns = config.data.context_turns
        self._response_tokens = config.data.response_tokens
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split:
        """Returns a split by name. Raises UserError when there is none of that name."""
        if name not in self.summary["splits"]:
            known = ", ".join(self.summary["splits"])
            raise UserError(f"dataset '{self.dataset}' has no split '{name}'; there are: {known}")
        if name not in self._splits:
            self._splits[name] = Split(name, self.folder / name, self._context_turns)
        return self._splits[name]

    def response_token_counts(self, name: str) -> np.ndarray:
        """Returns int64[V]: how often each id occurs in a split's responses.

        Responses are cut as in a batch: `response_tokens` of them, EOS kept last.
        """
        turns = self.split(name).turns
        kept = self._response_tokens - 1
        counts_V = np.zeros(self.tokenizer.vocab_size, np.int64)
        responses = 0
        for tokens, at in zip(turns.all_tokens(), turns.turn_in_episode, strict=True):
            if at > 0:
                np.add.at(counts_V, tokens[:kept], 1)
                responses += 1
        counts_V[self.tokenizer.special.eos] += responses
        return counts_V


def prepare(config: ConfigDict) -> Prepared:
    """Builds, tokenises and writes what is not there yet, and opens it.

    Reads `config.data`: dataset, data_dir ("~" is the home folder), tokenizer, train_split,
    context_turns and response_tokens. Several processes of one machine may call it at once.

    Raises:
      UserError: unknown dataset, missing source, unreadable or untrainable tokenizer.
    """
    data = config.data
    root = pathlib.Path(data.data_dir).expanduser()
    base = root / "prepared" / data.dataset / f"{builders.version(data.dataset)}-{_FORMAT}"
    folder = _find(base, data.tokenizer)
    if folder is None:
        try:
            base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write to config.data.data_dir '{root}': {error.strerror}"
            ) from error
        with _locked(base / "lock"):
            folder = _find(base, data.tokenizer) or _write(config, root, base)
    return Prepared(config, folder)


def _find(base: pathlib.Path, tokenizer: ConfigDict) -> pathlib.Path | None:
    if tokenizer.path:
        path = pathlib.Path(tokenizer.path).expanduser()
        digest = tokenizers.load(tokenizer.kind, path).digest
    else:
        note = base / _note_name(tokenizer)
        if not note.exists():
            return None
        digest = note.read_text().strip()
    folder = base / digest
    return folder if folder.is_dir() else None


def _note_name(tokenizer: ConfigDict) -> str:
    return f"{tokenizer.kind}-{tokenizer.model_type}-{tokenizer.vocab_size}.digest"


def _write(config: ConfigDict, root: pathlib.Path, base: pathlib.Path) -> pathlib.Path:
    """Makes and returns the complete folder of (dataset, version, tokenizer)."""
    data = config.data
    sources = _build(data.dataset, root / "tfds")
    if data.train_split not in sources:
        known = ", ".join(sources)
        raise UserError(
            f"dataset '{data.dataset}' has no split '{data.train_split}' "
            f"(config.data.train_split); there are: {known}"
        )
    tokenizer = _tokenizer(data.tokenizer, sources[data.train_split])
    folder = base / tokenizer.digest
    if not folder.is_dir():
        partial = pathlib.Path(tempfile.mkdtemp(prefix="partial-", dir=base))
        try:
            splits = {}
            for name, source in sources.items():
                (partial / name).mkdir()
                splits[name] = store.write(partial / name, _turns(name, source, tokenizer))
            tokenizer.save(partial / "tokenizer.model")
            summary = {"dataset": data.dataset, "tokenizer": tokenizer.digest, "splits": splits}
            (partial / "summary.json").write_text(json.dumps(summary, indent=1))
            partial.chmod(0o755)  # mkdtemp's is private
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    if not data.tokenizer.path:
        unfinished = base / f"{tokenizer.digest}.note"
        unfinished.write_text(tokenizer.digest)
        unfinished.replace(base / _note_name(data.tokenizer))
    return folder


def _tokenizer(config: ConfigDict, train_source: Any) -> tokenizers.Tokenizer:
    if config.path:
        return tokenizers.load(config.kind, pathlib.Path(config.path).expanduser())
    if config.kind != "sentencepiece":
        raise UserError(
            f"a '{config.kind}' tokenizer can't be trained: set config.data.tokenizer.path"
        )
    texts = [
        text for example in _examples(train_source, "reading text") if (text := _text(example))
    ]
    return tokenizers.train_sentencepiece(texts, config.model_type, config.vocab_size)


def _build(dataset: str, data_dir: pathlib.Path) -> dict[str, Any]:
    """Builds the TFDS dataset if it is absent; returns {split: random-access source}."""
    import tensorflow_datasets as tfds

    builder = builders.make(dataset, str(data_dir))
    tfds.disable_progress_bar()  # ours tell more, and stay readable in a log
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
        builder.download_and_prepare()
    skip = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    return {name: builder.as_data_source(name, decoders=skip) for name in builder.info.splits}


def _examples(source: Any, label: str) -> Iterator[dict]:
    chunks = [
        range(at, min(at + _READ_TURNS, len(source))) for at in range(0, len(source), _READ_TURNS)
    ]
    for chunk in progress(chunks, label, f"block of {_READ_TURNS} turn"):
        yield from source.__getitems__(list(chunk))


def _text(example: dict) -> str:
    return example["text"].decode()


def _turns(name: str, source: Any, tokenizer: tokenizers.Tokenizer) -> Iterator[store.Turn]:
    for example in _examples(source, f"preparing {name}"):
        text = _text(example)
        yield store.Turn(
            text=text,
            tokens=tokenizer.encode(text),
            emotion=int(example["emotion"]),
            turn_in_episode=int(example["turn"]),
            image=example.get("image"),
        )


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Lets one process of this machine at a time into the block."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

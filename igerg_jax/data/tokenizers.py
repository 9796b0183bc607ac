"""Text to token ids and back.

`Tokenizer` is the interface. There are two kinds: SentencePiece, which can be trained here, and
byte-level BPE, for models initialised from BART (`igerg_jax.data.byte_level_bpe`). Text is
tokenised when a dataset is prepared and when a prompt is read, never in an input graph.
"""

from __future__ import annotations

import hashlib
import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import sentencepiece

from igerg_jax import storage
from igerg_jax.batch import SENTENCEPIECE_IDS, SpecialIds
from igerg_jax.data.byte_level_bpe import ByteLevelBpeTokenizer
from igerg_jax.errors import UserError, check_known, check_text

MASK_PIECE = "<mask>"
TRAINABLE = "sentencepiece"  # the one of `KINDS` that is trained here
MODEL_TYPES = ("unigram", "bpe")  # config.data.tokenizer.model_type


class Vocabulary(Protocol):
    """What a model needs of a tokenizer.

    Attributes:
      vocab_size: the number of ids; every id is below it.
      special: the ids with a role.
      digest: 16 hex digits that change whenever the ids of any text do.
    """

    vocab_size: int
    special: SpecialIds
    digest: str

    def save(self, path: pathlib.Path) -> None:
        """Writes the one file that `read` and `load` read."""


class Tokenizer(Vocabulary, Protocol):
    """A vocabulary with words."""

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, without any special id."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids`; special ids are dropped."""

    def piece(self, token: int) -> str:
        """Returns the piece of an id, special ids included."""


class SentencePieceTokenizer:
    """A SentencePiece model whose special ids are `SENTENCEPIECE_IDS`."""

    def __init__(self, proto: bytes):
        """`proto` is a serialised model. Raises ValueError for none, or other special ids."""
        if not proto:  # SentencePiece only logs it, for every call
            raise ValueError("it is empty")
        self._proto = proto
        self._model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        self.special = SENTENCEPIECE_IDS
        self.vocab_size: int = self._model.get_piece_size()
        self.digest = hashlib.sha256(proto).hexdigest()[:16]
        model, s = self._model, self.special
        ids = range(self.vocab_size)
        self._dropped = frozenset(i for i in ids if model.is_control(i) or model.is_unknown(i))
        actual = (model.pad_id(), model.bos_id(), model.eos_id(), model.unk_id())
        actual += (model.piece_to_id(MASK_PIECE),)
        wanted = (s.pad, s.bos, s.eos, s.unk, s.mask)
        if actual != wanted or not model.is_control(s.mask):
            raise ValueError(
                f"ids of pad, bos, eos, unk and {MASK_PIECE} are {actual}, expected {wanted}"
            )

    @classmethod
    def read(cls, path: pathlib.Path) -> SentencePieceTokenizer:
        """Reads a model's file. Raises OSError, RuntimeError or ValueError."""
        return cls(path.read_bytes())

    def encode(self, text: str) -> list[int]:
        check_text(text)
        return self._model.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self._model.decode([int(i) for i in ids if int(i) not in self._dropped])

    def piece(self, token: int) -> str:
        return self._model.id_to_piece(int(token))

    def save(self, path: pathlib.Path) -> None:
        path.write_bytes(self._proto)


def load(kind: str, path: pathlib.Path) -> Tokenizer:
    """Reads a tokenizer of a kind in `KINDS` (config.data.tokenizer.kind).

    Raises:
      UserError: it cannot be read, is of another kind, or lacks a special token.
    """
    check_known(kind, sorted(KINDS), f"config.data.tokenizer.kind is '{kind}'")
    if not path.is_dir():
        storage.check_regular_file(path)
    try:
        return KINDS[kind].read(path)
    except OSError as error:
        where = error.filename or path
        raise UserError(f"cannot read the tokenizer '{where}': {error.strerror}") from error
    except (RuntimeError, ValueError) as error:
        others = ", ".join(sorted(KINDS.keys() - {kind}))
        raise UserError(
            f"'{path}' is not a {kind} model that fits: {error} (config.data.tokenizer.kind may "
            f"also be: {others})"
        ) from error


def read(path: pathlib.Path) -> Tokenizer:
    """Reads what a tokenizer's `save` wrote, of either kind. Raises UserError as `load`."""
    if not path.is_dir():
        storage.check_regular_file(path)
    try:
        with path.open("rb") as file:
            is_json = file.read(1) == b"{"
    except OSError as error:
        raise UserError(f"cannot read the tokenizer '{path}': {error.strerror}") from error
    return load("byte_level_bpe" if is_json else "sentencepiece", path)


def train_sentencepiece(
    sentences: Sequence[str], model_type: str, vocab_size: int, byte_fallback: bool = True
) -> SentencePieceTokenizer:
    """Trains a model, deterministically for the same sentences in the same order.

    With `byte_fallback` every byte is a piece, so that no text is unknown; that takes the first 261
    ids. `model_type` is one of `MODEL_TYPES`; `vocab_size` includes the special ids.

    Raises:
      UserError: SentencePiece fails, for instance because the text has too few words.
    """
    special = SENTENCEPIECE_IDS
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=out,  # a path would become part of the model and so of its digest
            model_type=model_type,
            vocab_size=vocab_size,
            pad_id=special.pad,
            bos_id=special.bos,
            eos_id=special.eos,
            unk_id=special.unk,
            control_symbols=[MASK_PIECE],  # control: a user's text can't spell it
            byte_fallback=byte_fallback,
            character_coverage=0.9995,
            num_threads=1,  # another order of summation would give another model
            minloglevel=2,
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[-1]
        raise UserError(
            f"cannot train a SentencePiece model (config.data.tokenizer: model_type="
            f"'{model_type}', vocab_size={vocab_size}) on {len(sentences)} texts: {reason}"
        ) from error
    return SentencePieceTokenizer(out.getvalue())


# {config.data.tokenizer.kind: its class}
KINDS: dict[str, type] = {
    "sentencepiece": SentencePieceTokenizer,
    "byte_level_bpe": ByteLevelBpeTokenizer,
}

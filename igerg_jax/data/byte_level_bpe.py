"""Byte-level BPE (of GPT-2, RoBERTa and BART), read with the `tokenizers` library.

Every byte is a piece, so no text is unknown, and decoding inverts encoding. A text cannot contain
a special token: "</s>" in a text is encoded like any other characters.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import tokenizers

from igerg_jax import storage
from igerg_jax.batch import SpecialIds
from igerg_jax.data import text_repair
from igerg_jax.errors import check_text

VOCABULARY, MERGES, COMBINED = "vocab.json", "merges.txt", "tokenizer.json"
# {role: BART's token}; as in BART, the decoder starts from EOS.
ROLES = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
# Parts of a tokenizer.json that are not applied here: they concern special tokens and padding.
_LEFT_OUT = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}


class ByteLevelBpeTokenizer:
    """A tokenizer.json with a BPE model over bytes and BART's special tokens."""

    def __init__(self, content: bytes):
        """Of a tokenizer.json. Raises ValueError if not, or if it lacks a special token."""
        self._content = content
        definition = _parse(content)
        named = _special_tokens(definition)
        plain = definition | _LEFT_OUT
        plain["model"] = plain["model"] | {"dropout": None}  # of merges: only for training
        try:
            self._model = tokenizers.Tokenizer.from_str(json.dumps(plain))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(str(error)) from error
        vocabulary = self._model.get_vocab()
        lacking = set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) - vocabulary.keys()
        if lacking:
            raise ValueError(f"{len(lacking)} of the 256 bytes have no piece: not byte-level")
        ids = {role: named.get(token, vocabulary.get(token)) for role, token in ROLES.items()}
        if absent := [ROLES[role] for role, number in ids.items() if number is None]:
            raise ValueError(f"its vocabulary lacks {', '.join(absent)}")
        self.special = SpecialIds(**ids, decoder_start=ids["eos"])
        self.vocab_size: int = max(*vocabulary.values(), *named.values()) + 1
        self.digest = _digest(plain, named, self.special)
        self._names = {i: token for token, i in named.items()}
        self._names |= {ids[role]: token for role, token in ROLES.items()}

    @classmethod
    def read(cls, path: pathlib.Path) -> ByteLevelBpeTokenizer:
        """Reads a tokenizer.json; a vocab.json with its merges.txt; or a folder of either.

        Raises OSError for a missing file, ValueError for one of another form.
        """
        if path.is_dir():
            combined = path / COMBINED
            path = combined if combined.exists() else path / VOCABULARY
        if path.name == MERGES or path.name.endswith(f"-{MERGES}"):
            path = path.with_name(path.name.replace(MERGES, VOCABULARY))
        content = path.read_bytes()
        if not path.name.endswith(VOCABULARY):
            return cls(content)
        merges = path.with_name(path.name.replace(VOCABULARY, MERGES))
        return cls(_join(_parse_json(content), merges.read_text(encoding="utf-8")))

    def encode(self, text: str) -> list[int]:
        check_text(text)
        return self._model.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        # Invalid UTF-8, which a model may generate, becomes U+FFFD.
        return self._model.decode([int(i) for i in ids if int(i) not in self._names])

    def piece(self, token: int) -> str:
        if int(token) in self._names:
            return self._names[int(token)]
        return self._model.decode([int(token)]).replace(" ", "▁")

    def save(self, path: pathlib.Path) -> None:
        path.write_bytes(self._content)


def _parse_json(content: bytes) -> Any:
    try:
        return storage.from_json(content)
    except ValueError as error:  # UnicodeDecodeError too
        raise ValueError("it is not JSON") from error


def _parse(content: bytes) -> dict[str, Any]:
    """A tokenizer.json's content. Raises ValueError if it is not byte-level BPE."""
    definition = _parse_json(content)
    if not isinstance(definition, dict) or not isinstance(definition.get("model"), dict):
        raise ValueError(f"it is JSON, but not a {COMBINED}: it has no model")
    kind = definition["model"].get("type")
    if kind != "BPE":
        raise ValueError(f"its model is {kind}, not BPE")
    for part in ("pre_tokenizer", "decoder"):
        if '"ByteLevel"' not in json.dumps(definition.get(part)):
            raise ValueError(f"its {part} is not byte-level")
    return definition


def _special_tokens(definition: dict[str, Any]) -> dict[str, int]:
    """{token: id} of the tokens added to the model's vocabulary.

    Raises ValueError if some are ordinary words, which no merge would produce.
    """
    added = definition.get("added_tokens") or []
    keys = {"content", "id", "special"}
    if not all(isinstance(token, dict) and keys <= token.keys() for token in added):
        raise ValueError(f"its added_tokens are not all of {', '.join(sorted(keys))}")
    words = [t["content"] for t in added if not t["special"] and t["content"] not in ROLES.values()]
    if words:
        raise ValueError(f"ordinary words were added to its vocabulary ({', '.join(words[:3])} …)")
    return {token["content"]: token["id"] for token in added}


def _digest(plain: dict[str, Any], named: dict[str, int], special: SpecialIds) -> str:
    """Hash of all that determines the ids; equal for tokenizer.json and vocab.json + merges.txt."""
    unused = ("unk_token", "fuse_unk")  # nothing is unknown
    model = {name: value for name, value in plain["model"].items() if value and name not in unused}
    # Older files write a merge as "a b", newer ones as ["a", "b"].
    model["merges"] = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", [])]
    model["vocab"] = sorted((model["vocab"] | named).items())
    pre_tokenizer = {"use_regex": True, **plain["pre_tokenizer"], "trim_offsets": True}
    parts = [model, plain.get("normalizer"), pre_tokenizer, dataclasses.asdict(special)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _join(vocabulary: Any, merges: str) -> bytes:
    """The tokenizer.json of a vocab.json {piece: id} and a merges.txt ("a b" per line)."""
    if not isinstance(vocabulary, dict) or not all(isinstance(i, int) for i in vocabulary.values()):
        raise ValueError(f"it is JSON, but not a {VOCABULARY}: it does not map pieces to ids")
    lines = text_repair.lines(merges)[1 if merges.startswith("#version") else 0 :]
    pairs = [tuple(line.split(" ")) for line in lines if line]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"its {MERGES} has a line that is not two pieces")
    try:
        joined = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, pairs))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(str(error)) from error
    joined.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    joined.decoder = tokenizers.decoders.ByteLevel()
    joined.add_special_tokens([token for token in ROLES.values() if token in vocabulary])
    if ROLES["bos"] in vocabulary and ROLES["eos"] in vocabulary:
        sep, cls = ((ROLES[role], vocabulary[ROLES[role]]) for role in ("eos", "bos"))
        joined.post_processor = tokenizers.processors.RobertaProcessing(
            sep, cls, add_prefix_space=False
        )
    return joined.to_str().encode()

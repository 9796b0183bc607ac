"""The contract between data and everything else: what a batch holds.

Every objective, evaluator and sampler gets a dict of arrays with the names below. Letters,
used as name suffixes throughout the models and losses:

    B  examples in the global batch      D  model width
    N  images in a window                V  vocabulary size
    K  visual tokens per image           H  attention heads
    S  context tokens                    C  emotions (7)
    T  response tokens                   L  any sequence length (1 + N*K + S in the encoder)
    F  width of a precomputed image feature vector
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

# Ids are in the order of the original work's label files; every dataset's labels map to them.
EMOTIONS = ("surprise", "fear", "disgust", "joy", "sadness", "anger", "neutral")
EMOTION_ID = {name: i for i, name in enumerate(EMOTIONS)}
NUM_EMOTIONS = len(EMOTIONS)
NEUTRAL = EMOTION_ID["neutral"]
UNKNOWN = -1  # not labelled; such a row adds 0 to a loss's sum and to its count


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens. They come from the tokenizer, never from constants elsewhere."""

    pad: int
    bos: int
    eos: int
    unk: int
    mask: int
    decoder_start: int


# What `igerg_jax.data.tokenizers` assigns when it trains a SentencePiece model, and what
# synthetic batches use. BART's decoder starts from EOS; so does ours.
SENTENCEPIECE_IDS = SpecialIds(pad=0, bos=1, eos=2, unk=3, mask=4, decoder_start=2)


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """Static sizes of a batch. Exactly one of `image_size` and `feature_dim` is positive."""

    batch_size: int  # B
    images: int  # N
    context_tokens: int  # S
    response_tokens: int  # T
    image_size: int  # pixels per side, 0 with precomputed features
    feature_dim: int  # F, 0 with pixels
    groups: tuple[str, ...] = ()  # mixtures that have their own arrays: "<group>/<name>"

    @classmethod
    def of(cls, settings: Any, batch_size: int) -> BatchSpec:
        """The sizes under `config.data`; one image per turn, the response's too."""
        return cls(
            batch_size=batch_size,
            images=settings.context_turns + 1,
            context_tokens=settings.context_tokens,
            response_tokens=settings.response_tokens,
            image_size=0 if settings.feature_dim else settings.image_size,
            feature_dim=settings.feature_dim,
            groups=mixed_groups(settings),
        )

    @classmethod
    def by_length(cls, settings: Any, batch_size: int) -> list[BatchSpec]:
        """The sizes of training batches: those of `length_buckets`, shortest first, and `of`."""
        full = cls.of(settings, batch_size)
        shorter = [
            dataclasses.replace(full, context_tokens=context, response_tokens=response)
            for context, response in settings.length_buckets
        ]
        return [*shorter, full]

    @property
    def lengths(self) -> tuple[int, int]:
        """S and T."""
        return self.context_tokens, self.response_tokens

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Returns the complete contract, {array name: (shape, dtype)}."""
        b, n, s, t = self.batch_size, self.images, self.context_tokens, self.response_tokens
        boolean, integer = np.dtype(np.bool_), np.dtype(np.int32)
        features = ((b, n, self.feature_dim), np.dtype(np.float32))
        pixels = ((b, n, self.image_size, self.image_size, 3), np.dtype(np.uint8))
        one_group: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            **({"features": features} if self.feature_dim else {"images": pixels}),
            "image_mask": ((b, n), boolean),  # True = real
            "image_turn": ((b, n), integer),  # 0 = oldest turn in the window
            "image_emotion": ((b, n), integer),  # UNKNOWN = no label
            "sequence_emotion": ((b,), integer),
            "context": ((b, s), integer),  # each turn ends with EOS; PAD on the right
            "context_turn": ((b, s), integer),  # 0 at PAD, where the mask hides it
            "response": ((b, t), integer),  # EOS last, then PAD
            "response_emotion": ((b,), integer),
        }
        grouped = {f"{g}/{name}": kind for g in self.groups for name, kind in one_group.items()}
        return one_group | grouped


def mixed_groups(settings: Any) -> tuple[str, ...]:
    """The mixtures in `config.data` whose batches only certain objectives read."""
    return tuple(name for name, mixture in settings.mixtures.items() if mixture.objectives)


def lengths(batch: dict[str, Any]) -> tuple[int, int]:
    """S and T of a batch."""
    return batch["context"].shape[1], batch["response"].shape[1]


def group_of(batch: dict[str, Any], group: str) -> dict[str, Any]:
    """The batch as the objectives of one group read it, without the prefix in the names.

    An array that the group lacks is the main group's, "".
    """
    prefix = f"{group}/"
    grouped = {
        n.removeprefix(prefix): a for n, a in batch.items() if group and n.startswith(prefix)
    }
    main = {name: array for name, array in batch.items() if "/" not in name}
    return main | grouped


def check(batch: dict[str, np.ndarray], spec: BatchSpec) -> None:
    """Raises ValueError for the first array that is missing, extra, or of wrong shape or dtype."""
    expected = spec.shapes()
    for name in sorted(expected.keys() | batch.keys()):
        if name not in batch:
            raise ValueError(f"batch: array '{name}' is missing")
        if name not in expected:
            raise ValueError(f"batch: array '{name}' is not part of the contract")
        actual = (tuple(batch[name].shape), np.dtype(batch[name].dtype))
        if actual != expected[name]:
            raise ValueError(f"batch: '{name}' is {actual}, the contract requires {expected[name]}")


def synthetic(spec: BatchSpec, special: SpecialIds, vocab_size: int, seed: int) -> dict:
    """A random batch of NumPy arrays that obeys the contract; a pure function of its arguments."""
    rng = np.random.default_rng(seed)
    b, n, s, t = spec.batch_size, spec.images, spec.context_tokens, spec.response_tokens
    words = np.setdiff1d(np.arange(vocab_size), dataclasses.astuple(special))

    def tokens(length):
        used_b = rng.integers(2, length + 1, size=b)
        ids = words[rng.integers(len(words), size=(b, length))]
        at = np.arange(length)
        ids = np.where(at == used_b[:, None] - 1, special.eos, ids)
        return np.where(at < used_b[:, None], ids, special.pad)

    def emotions(*shape):
        return rng.integers(0, NUM_EMOTIONS, size=shape)

    context = tokens(s)
    images_b = rng.integers(1, n + 1, size=b)
    image_mask = np.arange(n) < images_b[:, None]
    turns = np.minimum(np.arange(s) * n // s, images_b[:, None] - 1)
    batch = {
        "image_mask": image_mask,
        "image_turn": np.where(image_mask, np.arange(n), 0),
        "image_emotion": np.where(image_mask, emotions(b, n), UNKNOWN),
        "sequence_emotion": emotions(b),
        "context": context,
        "context_turn": np.where(context == special.pad, 0, turns),
        "response": tokens(t),
        "response_emotion": emotions(b),
    }
    if spec.feature_dim:
        batch["features"] = rng.standard_normal((b, n, spec.feature_dim), dtype=np.float32)
    else:
        batch["images"] = rng.integers(0, 256, size=(b, n, spec.image_size, spec.image_size, 3))
    ungrouped = dataclasses.replace(spec, groups=())
    batch = {name: batch[name].astype(dtype) for name, (_, dtype) in ungrouped.shapes().items()}
    for number, group in enumerate(spec.groups, 1):
        group_arrays = synthetic(ungrouped, special, vocab_size, seed + number)
        batch |= {f"{group}/{name}": array for name, array in group_arrays.items()}
    return batch

"""Similarity of meaning: BERTScore (Zhang et al. 2020) with an encoder's weights from a folder.

Needs PyTorch and transformers, the "parity" extra; nothing is downloaded. L = tokens of a text,
special ones included; D = width of the encoder.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from igerg_jax import storage
from igerg_jax.errors import UserError

BATCH = 64  # texts


class Embedded(NamedTuple):
    """A text, as an encoder sees it."""

    unit_LxD: np.ndarray  # hidden states of the last layer, each of length 1
    real_L: np.ndarray  # bool, not a special token


class Similarity:
    """F1 of texts against references by an encoder of transformers, or a model's encoder."""

    def __init__(self, folder: str):
        from transformers import AutoModel, AutoTokenizer

        path = storage.local_path(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = AutoModel.from_pretrained(path, local_files_only=True).eval()
        self._encoder = model.get_encoder() if model.config.is_encoder_decoder else model

    def __call__(self, texts: Sequence[str], references: Sequence[str]) -> float:
        """The mean over pairs, -1..1 and in practice 0..1; NaN when there are none."""
        if not texts:
            return math.nan
        pairs = zip(self._embedded(texts), self._embedded(references), strict=True)
        return float(np.mean([f1(*pair) for pair in pairs]))

    def _embedded(self, texts: Sequence[str]) -> list[Embedded]:
        import torch

        found = []
        for start in range(0, len(texts), BATCH):
            given = self._tokenizer(
                [text.strip() for text in texts[start : start + BATCH]],
                return_tensors="pt",
                return_special_tokens_mask=True,
                padding=True,
                truncation=True,
            )
            special_BxL = given.pop("special_tokens_mask").numpy().astype(bool)
            with torch.inference_mode():
                hidden_BxLxD = self._encoder(**given).last_hidden_state.float().numpy()
            for hidden_LxD, special_L, mask_L in zip(
                hidden_BxLxD, special_BxL, given["attention_mask"].numpy(), strict=True
            ):
                kept = mask_L > 0
                unit_LxD = hidden_LxD / np.linalg.norm(hidden_LxD, axis=-1, keepdims=True)
                found.append(Embedded(unit_LxD[kept], ~special_L[kept]))
        return found


def f1(text: Embedded, reference: Embedded) -> float:
    """Each token counts with its most similar one in the other text; special tokens do not count,
    but may be that one, as in the authors' code. 0 where either has none that count."""
    if not text.real_L.any() or not reference.real_L.any():
        return 0.0
    cosine_LxL = text.unit_LxD @ reference.unit_LxD.T
    precision = cosine_LxL.max(1)[text.real_L].mean()
    recall = cosine_LxL.max(0)[reference.real_L].mean()
    total = precision + recall
    return float(2 * precision * recall / total) if total else 0.0


def check(config: Any) -> None:
    """Raises UserError where `evaluate.similarity_weights` names what cannot be used."""
    folder = config.evaluate.similarity_weights
    if not folder:
        return
    if not (storage.local_path(folder) / "config.json").is_file():
        raise UserError(
            f"evaluate.similarity_weights={folder!r} is no folder of a transformers model: it has "
            "no config.json"
        )
    if missing := [n for n in ("torch", "transformers") if not importlib.util.find_spec(n)]:
        raise UserError(
            f"evaluate.similarity_weights needs {' and '.join(missing)}: pip install -r "
            "requirements-parity.txt, or leave it empty"
        )


def of_config(config: Any) -> Similarity | None:
    """None where `evaluate.similarity_weights` names no folder. Raises UserError as `check`."""
    check(config)
    folder = config.evaluate.similarity_weights
    return Similarity(folder) if folder else None

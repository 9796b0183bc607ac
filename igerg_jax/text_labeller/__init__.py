"""Labellers of texts besides the lexicon, trained on labels by people.

They share nothing with the lexicon, which labels the embedded data, nor with a run's own judge, so
a model that has only learnt to please one of those does not score well with them. There are two
kinds: `linear`, TF-IDF and logistic regression, and `network`, a convolutional network over words.
`igerg_jax.tools.train_text_labeller` trains them; here they are read from arrays (.npz, no pickle)
and applied with NumPy.

Evaluation reads texts with up to two of them, the second and third labeller besides the lexicon.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from etils import epath

from igerg_jax import storage
from igerg_jax.batch import EMOTIONS
from igerg_jax.errors import UserError
from igerg_jax.text_labeller.linear import Linear
from igerg_jax.text_labeller.network import Network
from igerg_jax.text_labeller.reading import TextLabeller

__all__ = ["ORDINALS", "Linear", "Network", "TextLabeller", "of_config", "read", "summary", "write"]

ORDINALS = ("second", "third")  # labellers of an evaluation, in the order of their files
# {what the file says it is: its class}
KINDS: dict[str, type[Linear | Network]] = {"linear": Linear, "network": Network}


def write(path: epath.PathLike, labeller: TextLabeller) -> None:
    """Writes a labeller's file, a compressed .npz."""
    (kind,) = (name for name, of in KINDS.items() if isinstance(labeller, of))
    arrays = {
        "kind": np.array(kind),
        "emotions": np.array(EMOTIONS),
        "held_out": np.array(json.dumps(labeller.held_out)),
        **labeller.arrays(),
    }
    with storage.replacing(epath.Path(path)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # NumPy's stubs


def read(path: epath.PathLike) -> TextLabeller:
    """Reads the file of a labeller.

    Raises:
      UserError: there is no such file, or `write` did not write it.
    """
    path = epath.Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"there is no text labeller '{path}' (evaluate.text_labeller): train one with "
            "python -m igerg_jax.tools.train_text_labeller"
        )
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            if tuple(arrays["emotions"]) != EMOTIONS:
                raise ValueError(f"its emotions are {', '.join(arrays['emotions'])}")
            # Before there were two kinds, files did not name theirs.
            kind = arrays["kind"].item() if "kind" in arrays else "linear"
            if kind not in KINDS:
                raise ValueError(f"it is of the kind '{kind}', which this version does not know")
            return KINDS[kind].of_arrays(arrays, storage.from_json(arrays["held_out"].item()))
    except Exception as error:  # of many types: zlib's, NumPy's, the zip file's
        raise UserError(
            f"'{path}' is not a file of igerg_jax.tools.train_text_labeller ({error}); train it "
            "again"
        ) from error


def of_config(config: Any) -> dict[str, TextLabeller]:
    """{ordinal: the labeller} of the files that `config.evaluate.text_labeller` names.

    Raises:
      UserError: as for `read`, and for more files than there are `ORDINALS`.
    """
    paths = [path.strip() for path in config.evaluate.text_labeller.split(",") if path.strip()]
    if len(paths) > len(ORDINALS):
        raise UserError(f"evaluate.text_labeller names {len(paths)} files; {len(ORDINALS)} at most")
    return {ordinal: read(path) for ordinal, path in zip(ORDINALS, paths, strict=False)}


def summary(labellers: dict[str, TextLabeller]) -> dict[str, Any]:
    """What summary.json says of labellers: {ordinal: {kind: held-out figures}}."""
    return {ordinal: {each.kind: each.held_out} for ordinal, each in labellers.items()}

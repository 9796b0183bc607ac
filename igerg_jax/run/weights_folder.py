"""Weights folders: a trained model's parameters, to share, without the optimizer's state.

    model.safetensors   the parameters, by our names, usually in bfloat16
    run.json            step, seed, tokenizer digest and config, as a checkpoint records them
    tokenizer.model     the tokenizer of the model's text
    image_domain.json   statistics of its training images (`igerg_jax.data.image_domain`), if known
    files.json          checksums of these (`igerg_jax.manifests`); older folders have none
    README.md           the model card

--checkpoint and --config.init_from accept a weights folder. `igerg weights export
--format=safetensors` writes one. Those that come with this package are referred to by name.
"""

import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from igerg_jax import manifests, storage
from igerg_jax.errors import UserError

ARRAYS_FILE, RUN_FILE, CARD_FILE = "model.safetensors", "run.json", "README.md"
# What the rest of this package reads in a run record.
_RECORD = {"step": int, "tokenizer_digest": str, "config": dict}
SHIPPED = epath.Path(__file__).parent.parent / "pretrained"  # one weights folder per name


def shipped(name: epath.PathLike) -> epath.Path | None:
    """The weights folder of this package called `name`; None if there is none."""
    name = os.fspath(name)
    return SHIPPED / name if name in shipped_names() else None


def shipped_names() -> list[str]:
    """The names of all weights folders of this package."""
    return sorted(folder.name for folder in SHIPPED.glob("*") if is_weights_folder(folder))


def is_weights_folder(path: epath.Path) -> bool:
    """Whether `path` holds parameters and the record of their run."""
    return (path / ARRAYS_FILE).exists() and (path / RUN_FILE).exists()


def write(
    folder: epath.Path, arrays: Mapping[str, np.ndarray], run: dict[str, Any], dtype: Any
) -> None:
    """Writes parameters {name: array}, cast to `dtype`, and the record of their run."""
    cast = {name: array.astype(dtype, order="C") for name, array in arrays.items()}
    (folder / ARRAYS_FILE).write_bytes(safetensors.numpy.save(cast, metadata={"format": "np"}))
    (folder / RUN_FILE).write_text(json.dumps(run, indent=2) + "\n")


def seal(folder: epath.Path) -> None:
    """Writes the checksums of the files in `folder`, except the card; to be called last."""
    manifests.write(folder, without=(CARD_FILE,))


@functools.lru_cache
def check(folder: epath.Path) -> None:
    """Raises UserError if a file of `folder` is missing or changed, as far as there are checksums.

    A folder that was found intact is not read again.
    """
    if not (folder / manifests.FILE).exists():
        return
    if problems := manifests.damage(folder):
        raise UserError(
            f"the weights folder '{folder}' is damaged: {'; '.join(problems[:3])}. Fetch or "
            "export it again"
        )


def read_run(folder: epath.Path) -> dict[str, Any]:
    """The run record that was passed to `write`. Raises UserError if it is damaged."""
    storage.check_regular_file(folder / RUN_FILE)
    try:
        found = storage.from_json((folder / RUN_FILE).read_text())
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        wrong = [name for name, kind in _RECORD.items() if not isinstance(found.get(name), kind)]
        if wrong:
            raise ValueError(f"it lacks {', '.join(wrong)}")
    except ValueError as error:
        raise UserError(f"'{folder / RUN_FILE}' is damaged ({error}); fetch it again") from error
    return found


def read_arrays(folder: epath.Path) -> dict[str, np.ndarray]:
    """{name: array} in the stored dtype. Raises UserError if the file is damaged or remote."""
    if storage.is_bucket(folder):
        raise UserError(f"copy the weights folder '{folder}' to a local disk first")
    try:
        return safetensors.numpy.load_file(folder / ARRAYS_FILE)
    except safetensors.SafetensorError as error:
        raise UserError(f"'{folder / ARRAYS_FILE}' is damaged ({error}); fetch it again") from error


def read_params(folder: epath.Path, wanted: Any) -> Any:
    """The parameters that `wanted` describes (nested dicts of ShapeDtypeStruct with shardings),
    cast to its dtypes and placed on its shardings."""
    stored = read_arrays(folder)

    def place(name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        array = stored[name].astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

    flat = flatten_dict(wanted, sep="/")
    return unflatten_dict({name: place(name, leaf) for name, leaf in flat.items()}, sep="/")

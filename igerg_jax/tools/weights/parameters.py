"""Reads a checkpoint's parameters as NumPy arrays, and writes checkpoints of only parameters."""

from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict

from igerg_jax.run import checkpoint, integrity, weights_folder, workdirs
from igerg_jax.run.checkpoint import STATE
from igerg_jax.run.integrity import RUN


def write(folder: epath.PathLike, params: Any, config: Any, tokenizer_digest: str) -> None:
    """Writes nested dicts of NumPy arrays as the checkpoint of step 0 in the workdir `folder`.

    It holds only parameters, and not necessarily all of the model's: training can start from it
    (`checkpoint.load_params`), but not resume.

    Args:
      tokenizer_digest: "" = unknown; runs' tokenizers are then not compared with it.
    """
    # No copies, since the arrays do not change during the save; compression hardly shrinks weights.
    handler = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, handler))
    arrays = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)
    manager = ocp.CheckpointManager(
        checkpoint.absolute(folder) / workdirs.CHECKPOINTS,
        options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
        item_handlers={STATE: arrays, RUN: ocp.JsonCheckpointHandler()},
    )
    items = {STATE: ocp.args.PyTreeSave({"params": params})}
    items[RUN] = ocp.args.JsonSave(checkpoint.run_record(config, 0, tokenizer_digest))
    with manager:
        manager.save(0, args=ocp.args.Composite(**items))
    integrity.write_list(checkpoint.absolute(folder) / workdirs.CHECKPOINTS, 0)


def read(path: epath.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(`checkpoint.read_run`, {name: array}) of a checkpoint's parameters, on the host.

    The arrays are the moving average if there is one.

    Args:
      path: as for `checkpoint.find`.

    Raises:
      UserError: there is no checkpoint.
    """
    folder = checkpoint.find(path)
    if weights_folder.is_weights_folder(folder):
        return weights_folder.read_run(folder), weights_folder.read_arrays(folder)
    with integrity.reading(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(folder / STATE).item_metadata.tree
        part = "ema_params" if tree.get("ema_params") else "params"
        wanted = {part: tree[part]}
        host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        restored = reader.restore(
            folder / STATE,
            args=ocp.args.PyTreeRestore(item=wanted, restore_args=host, partial_restore=True),
        )
    return checkpoint.read_run(folder), flatten_dict(restored[part], sep="/")

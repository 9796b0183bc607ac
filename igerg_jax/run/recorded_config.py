"""A config file for --config that returns the config which a checkpoint was trained with.

    igerg generate --checkpoint=small --context="Hi!"

`command_line.with_recorded_config` uses it for --checkpoint without --config. Its "preset" is the
checkpoint: a workdir, one of its checkpoints, a weights folder, or the name of one that comes with
igerg_jax.
"""

import os
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from igerg_jax import storage
from igerg_jax.errors import UserError
from igerg_jax.run import config_files, full_config, weights_folder, workdirs


def for_this_version(recorded: Any, file: epath.PathLike) -> ConfigDict:
    """The config that a run recorded in `file`, with the keys of this version
    (`full_config.completed`). Raises UserError."""
    full = config_files.load_full()
    return ConfigDict(full_config.completed(recorded, full, os.fspath(file)))


def get_config(checkpoint: str) -> ConfigDict:
    """Returns the config recorded with `checkpoint`. Raises UserError if there is none, or if it is
    damaged."""
    folder = storage.parse_path(checkpoint)
    if not folder.exists():
        folder = weights_folder.shipped(checkpoint) or folder
    if weights_folder.is_weights_folder(folder):
        file = folder / weights_folder.RUN_FILE
        return for_this_version(weights_folder.read_run(folder)["config"], file)
    # A workdir, its checkpoints folder, or the folder of one step.
    for place in (folder, folder.parent, folder.parent.parent):
        if folder.exists() and (place / workdirs.CONFIG_FILE).exists():
            file = place / workdirs.CONFIG_FILE
            return for_this_version(workdirs.read_config(file), file)
    raise UserError(
        f"there is no config beside '{checkpoint}'; name a workdir, one of its checkpoints, a "
        f"weights folder, or one of {', '.join(weights_folder.shipped_names())}"
    )

"""The config that a checkpoint was trained with, for evaluating it and answering with it.

    python main.py --config=configs/trained.py:runs/pretrain-local --mode=evaluate
    python main.py --checkpoint=small --mode=generate --context="Hi!"  # may be left out then

The "preset" is a workdir, one of its checkpoints, a weights folder, or the name of a model that
comes with igerg_jax. Keys that are newer than the checkpoint have the values of `pretrain.py`.
"""

import json

from ml_collections import ConfigDict

from configs import pretrain
from igerg_jax.run import weights_folder, workdirs


def get_config(checkpoint: str) -> ConfigDict:
    """Returns the config recorded with `checkpoint`. Raises ValueError where there is none."""
    config = pretrain.get_config()
    config.data.mixtures = ConfigDict()
    config.update(_stored(checkpoint))
    return config


def _stored(checkpoint: str) -> dict:
    folder = workdirs.parse(checkpoint)
    if not folder.exists():
        folder = weights_folder.shipped(checkpoint) or folder
    if weights_folder.is_weights_folder(folder):
        return weights_folder.read_run(folder)["config"]
    # A workdir, its checkpoints folder, or the folder of one step.
    for place in (folder, folder.parent, folder.parent.parent):
        if (place / workdirs.CONFIG_FILE).exists():
            return json.loads((place / workdirs.CONFIG_FILE).read_text())
    raise ValueError(
        f"there is no config beside '{checkpoint}'; name a workdir, one of its checkpoints, a "
        f"weights folder, or one of {', '.join(weights_folder.shipped_names())}"
    )

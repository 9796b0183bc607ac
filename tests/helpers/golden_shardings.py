"""How every parameter of every preset is sharded; `shardings.json` records it.

python tests/helpers/golden_shardings.py     # rewrites the file after an intended change
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

from igerg_jax.training import train_state

FILE = pathlib.Path(__file__).parent / "shardings.json"
MESH = dict(dcn=1, data=2, fsdp=2, tensor=2)


def shardings(preset: str) -> dict[str, str]:
    """Returns {parameter: shape and mesh axes}."""
    import jax

    from configs import pretrain
    from igerg_jax.batch import SENTENCEPIECE_IDS
    from igerg_jax.parallel import sharding

    config = pretrain.get_config(preset)
    config.mesh.update(MESH)
    setup = train_state.set_up_training(config, config.data.tokenizer.vocab_size, SENTENCEPIECE_IDS)
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(setup.abstract_state.params):
        axes = sharding.spec_text(leaf.sharding.spec, len(leaf.shape))
        found["/".join(key.key for key in path)] = f"{'x'.join(map(str, leaf.shape))} ({axes})"
    return found


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path.insert(0, str(FILE.parent.parent))
    from configs import pretrain

    whole = {preset: shardings(preset) for preset in pretrain.PRESETS}
    FILE.write_text(json.dumps(whole, indent=0, sort_keys=True) + "\n")

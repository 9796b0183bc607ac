"""Each file of the newest checkpoint in turn cut, emptied, changed or removed."""

import shutil

import damage
import numpy as np
import pytest
import small_runs
from etils import epath
from test_kills import make_config

from igerg_jax import manifests
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.data import datasets
from igerg_jax.run import checkpoint
from igerg_jax.training import train_state

pytestmark = pytest.mark.slow
STEPS = (4, 8)
# Orbax writes these last and restores without what is in them.
UNLISTED = ("_CHECKPOINT_METADATA", "commit_success.txt")


def test_training_goes_on_from_the_newest_whole_checkpoint(tmp_path, tried):
    config = make_config()
    config.train.steps = STEPS[-1]
    with small_runs.started(config, tmp_path / "whole") as (run,):
        assert run.wait() == 0, run.said()
    whole = tmp_path / "whole" / "run" / "checkpoints"
    expected = {step: small_runs.state(whole / str(step)) for step in STEPS}
    setup = train_state.set_up_training(config, config.data.tokenizer.vocab_size, SENTENCEPIECE_IDS)
    files, count = sorted(manifests.list_files(whole / str(STEPS[-1]))), 0
    for name in files:
        for fault, inflict in damage.FAULTS.items():
            workdir = tmp_path / "damaged"
            shutil.copytree(whole, workdir / "checkpoints")
            inflict(workdir / "checkpoints" / str(STEPS[-1]) / name)
            checkpoints = checkpoint.Checkpoints(epath.Path(workdir), config, datasets.SYNTHETIC)
            state = checkpoints.restore(setup.abstract_state)
            checkpoints.close()
            wanted = STEPS[-1] if name in UNLISTED else STEPS[0]
            assert int(state.step) == wanted, (name, fault)
            for path, value in leaves(state).items():
                np.testing.assert_array_equal(value, expected[wanted][path], err_msg=path)
            set_aside = (workdir / "damaged_checkpoints" / str(STEPS[-1])).exists()
            assert set_aside == (wanted == STEPS[0]), (name, fault)
            shutil.rmtree(workdir)
            count += 1
    assert count == len(files) * len(damage.FAULTS) > 40
    what = f"a file of the newest checkpoint cut, emptied, changed or removed ({len(files)} files)"
    tried(what, "0", count, "goes on from the one before, bit for bit")


def leaves(state) -> dict[str, np.ndarray]:
    """By the names that `small_runs.state` gives them: Orbax restores fields as keys."""
    import dataclasses

    import jax

    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    found = jax.tree_util.tree_leaves_with_path(fields)
    return {"".join(map(_key, path)): np.asarray(leaf) for path, leaf in found}


def _key(entry) -> str:
    """One part of a name; a field of a named tuple looks like a key of a dictionary."""
    return f"[{entry.name!r}]" if hasattr(entry, "name") else str(entry)

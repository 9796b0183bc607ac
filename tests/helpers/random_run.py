"""The workdir of a model that was drawn at random, not trained."""

import pathlib

import jax
import small
from etils import epath

from igerg_jax.data.prepare import prepare
from igerg_jax.data.prepared import Prepared
from igerg_jax.run import checkpoint
from igerg_jax.run.workdirs import TOKENIZER_FILE
from igerg_jax.training import train_state


def save(config, workdir: pathlib.Path) -> Prepared:
    """Leaves a checkpoint and a tokenizer in `workdir`; returns the config's dataset."""
    prepared = prepare(config)
    tokenizer = prepared.tokenizer
    setup = train_state.set_up_training(
        config, tokenizer.vocab_size, tokenizer.special, jax.devices()[:1]
    )
    params = small.make_params(setup.model, small.make_batch(config, batch_size=1), spread=0.5)
    checkpoints = checkpoint.Checkpoints(epath.Path(workdir), config, tokenizer.digest)
    checkpoints.save(train_state.new_state(config, setup.optimizer, params))
    checkpoints.close()
    tokenizer.save(workdir / TOKENIZER_FILE)
    return prepared

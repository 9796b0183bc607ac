"""Masked words meet the vocabulary up to a bound."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from igerg_jax.models import igerg
from igerg_jax.objectives import OBJECTIVES, masked_multimodal
from igerg_jax.objectives.base import Context


@pytest.mark.parametrize("max_fraction", [0.25, 0.5])
def test_no_more_than_max_fraction_of_a_row_meets_the_vocabulary(max_fraction):
    config = small.make_config()
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    settings = dict(mask_fraction=0.9, max_fraction=max_fraction)
    rows_B = jnp.arange(len(batch["context"]))
    context = Context(model, batch, rows_B, settings, 0, jax.random.key(0), params=params)
    encoder_input = OBJECTIVES["masked_multimodal"].encoder_input(context)
    text_BxSxD = np.random.default_rng(0).standard_normal((8, 12, 16)).astype(np.float32)
    context = dataclasses.replace(
        context,
        encoder_input=encoder_input,
        encoding=igerg.Encoded(None, None, None, None, jnp.asarray(text_BxSxD)),
    )
    masked_B = np.asarray(encoder_input.drawn).sum(1)
    tokens_B = (batch["context"] != small.SPECIAL.pad).sum(1)
    limit_B = np.ceil(max_fraction * tokens_B)
    assert (masked_B > limit_B).sum() > 2, "or the bound has nothing to do"
    count = masked_multimodal.predict_masked(context).count
    assert count == np.minimum(masked_B, limit_B).sum()

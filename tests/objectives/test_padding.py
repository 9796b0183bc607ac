"""What an example teaches does not depend on how far it is padded: losses, metrics, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from igerg_jax.objectives import combination

SHORT, FULL = (9, 5), (12, 8)  # tokens of a context and of a response
CONFIG = small.make_config(
    data__context_tokens=FULL[0],
    data__response_tokens=FULL[1],
    data__length_buckets=(SHORT,),
    # So many that max_fraction has something to do, and that spans meet.
    objectives__masked_multimodal__mask_fraction=0.6,
    objectives__text_denoising__mask_fraction=0.5,
    objectives__text_denoising__mean_span_tokens=1.0,
)
MODEL = small.make_model(CONFIG)
ROWS = 8


def short_batch() -> dict[str, np.ndarray]:
    """Rows with as many tokens as a short batch has room for, and with fewer."""
    config = CONFIG.copy_and_resolve_references()
    config.data.context_tokens, config.data.response_tokens = SHORT
    return small.make_batch(config, seed=4, batch_size=ROWS)


def padded(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    assert small.SPECIAL.pad == 0  # as a turn is, there
    room = {"context": 0, "context_turn": 0, "response": 1}
    more = {name: ((0, 0), (0, FULL[i] - SHORT[i])) for name, i in room.items()}
    return {n: np.pad(array, more[n]) if n in more else array for n, array in batch.items()}


BATCH = short_batch()
PARAMS = small.make_params(MODEL, BATCH)


@jax.jit
def gradient(params, one_row, row):
    """The gradient of the sum of an example's terms; the terms and metrics."""

    def loss(params):
        found = combination.sums(CONFIG, MODEL, params, one_row, jax.random.key(0), 3, row[None])
        return sum(term.scale * term.loss_sum for term in found[0].values()), found

    return jax.grad(loss, has_aux=True)(params)


@functools.cache
def results(row: int, pads: bool):
    batch = padded(BATCH) if pads else BATCH
    one_row = {name: array[row : row + 1] for name, array in batch.items()}
    return gradient(PARAMS, one_row, jnp.int32(row))


@pytest.mark.parametrize("row", range(ROWS))
def test_an_example_teaches_the_same_in_a_batch_of_any_size(row):
    (short, short_sums), (full, full_sums) = results(row, False), results(row, True)
    # Of the largest: the contrast is a small difference of two likelihoods of the response.
    largest = max(1, small.largest(short_sums))
    small.assert_trees_close(full_sums, short_sums, rtol=1e-6, atol=1e-6 * largest)
    for name, value in small.flat(full).items():
        np.testing.assert_allclose(
            value,
            small.flat(short)[name],
            rtol=0,
            atol=1e-6 * max(1, small.largest(full)),
            err_msg=name,
        )


def test_the_rows_reach_every_bound():
    tokens_B = (BATCH["context"] != small.SPECIAL.pad).sum(1)
    assert tokens_B.max() == SHORT[0] and tokens_B.min() < SHORT[0]
    assert small.largest([results(row, True)[0] for row in range(ROWS)]) > 0.1
    counts = [
        results(row, True)[1][0][("masked_multimodal", "tokens")].count for row in range(ROWS)
    ]
    assert max(counts) == np.ceil(0.25 * SHORT[0])

"""Responses drawn inside a training step, for objectives that learn from what the model says.

`igerg_jax.decoding` has what responses are generated with; this is its plainest case.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from igerg_jax.models.igerg import Encoded, Igerg
from igerg_jax.models.layers import DecodingStep


def sample(
    model: Igerg,
    params: Any,
    encoded: Encoded,
    emotion_BxC: jax.Array,
    keys_B: jax.Array,
    max_tokens: int,
) -> jax.Array:
    """One response per row, int32 [B, T = `max_tokens`]: EOS, then PAD.

    Tokens are drawn from the model's own distribution without PAD, BOS, UNK and MASK; at the last
    position EOS is forced. There is no gradient.

    Args:
      encoded: of the context and the images.
      emotion_BxC: as for `Igerg.decode`.
      keys_B: one key per row.
    """
    params, encoded, emotion_BxC = jax.lax.stop_gradient((params, encoded, emotion_BxC))
    apply = functools.partial(model.apply, {"params": params})
    special, table_VxD = model.special, params["token_embedding"]
    never = jnp.array(sorted({special.pad, special.bos, special.unk, special.mask}))

    def choose(hidden_Bx1xD, position, done_B):
        logits_BxV = jnp.einsum(
            "bd,vd->bv",
            hidden_Bx1xD[:, 0],
            table_VxD.astype(hidden_Bx1xD.dtype),
            preferred_element_type=jnp.float32,
        )
        logits_BxV = logits_BxV.at[:, never].set(-jnp.inf)
        step_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, position)
        token_B = jax.vmap(jax.random.categorical)(step_keys_B, logits_BxV)
        token_B = jnp.where(position == max_tokens - 1, special.eos, token_B)
        token_B = jnp.where(done_B, special.pad, token_B).astype(jnp.int32)
        return token_B, done_B | (token_B == special.eos)

    def step(state, position):
        token_B, done_B, cache = state
        at = DecodingStep.of_paths(position, jnp.zeros((rows, 1, max_tokens), jnp.int32))
        given = token_B[:, None], at, cache, encoded.mask_BxL, emotion_BxC
        hidden_Bx1xD, cache = apply(*given, method="decode_step")
        token_B, done_B = choose(hidden_Bx1xD, position, done_B)
        return (token_B, done_B, cache), token_B

    rows = encoded.mask_BxL.shape[0]
    start_Bx1 = jnp.full((rows, 1), special.decoder_start, jnp.int32)
    given = start_Bx1, encoded.hidden_BxLxD, encoded.mask_BxL, emotion_BxC, max_tokens
    hidden_Bx1xD, cache = apply(*given, method="start_decoding")
    first_B, done_B = choose(hidden_Bx1xD, 0, jnp.zeros((rows,), bool))
    _, later_TxB = jax.lax.scan(step, (first_B, done_B, cache), jnp.arange(1, max_tokens))
    return jnp.concatenate([first_B[:, None], later_TxB.T], axis=1)

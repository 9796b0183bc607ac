"""Transformer layers against plain NumPy, and the ways to stack them."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import NamedSharding, PartitionSpec

from configs import pretrain
from igerg_jax.errors import UserError
from igerg_jax.models import layers
from igerg_jax.models.attention import Attention
from igerg_jax.models.settings import (
    ATTENTION,
    BART_EPSILON,
    REMAT_POLICIES,
    StackSettings,
    check_heads,
)
from igerg_jax.parallel import sharding

B, L, M, D, H, W = 2, 5, 4, 12, 3, 20  # here W is the MLP's width


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# A layer in float64 NumPy, one head and one example at a time.


def np_norm(x, p):
    p = jax.tree.map(np.asarray, p)
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + BART_EPSILON) * p["scale"] + p["bias"]


def np_attention(x_BxLxD, memory_BxMxD, mask_BxLxM, p):
    out = np.zeros(x_BxLxD.shape)
    for b in range(len(x_BxLxD)):
        for h in range(H):
            q, k, v = (
                side[b] @ p[name]["kernel"][:, h] + p[name]["bias"][h]
                for name, side in (
                    ("query", x_BxLxD),
                    ("key", memory_BxMxD),
                    ("value", memory_BxMxD),
                )
            )
            scores = q @ k.T / math.sqrt(D // H)
            weights = np.where(mask_BxLxM[b], np.exp(scores - scores.max(-1, keepdims=True)), 0)
            weights = weights / weights.sum(-1, keepdims=True)
            out[b] += weights @ v @ p["out"]["kernel"][h]
    return out + p["out"]["bias"]


def np_mlp(x, p):
    h = x @ p["in"]["kernel"] + p["in"]["bias"]
    h = 0.5 * h * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    return h @ p["out"]["kernel"] + p["out"]["bias"]


def np_residual(x, norm, inner, norm_first):
    return x + inner(np_norm(x, norm)) if norm_first else np_norm(x + inner(x), norm)


def np_encoder_layer(x, mask_BxL, p, norm_first):
    mask = np.broadcast_to(mask_BxL[:, None], (len(x), x.shape[1], x.shape[1]))
    x = np_residual(
        x,
        p["self_attention_residual"]["norm"],
        lambda h: np_attention(h, h, mask, p["self_attention"]),
        norm_first,
    )
    return np_residual(x, p["mlp_residual"]["norm"], lambda h: np_mlp(h, p["mlp"]), norm_first)


def np_decoder_layer(x, memory, mask_BxM, p, norm_first):
    b, t = x.shape[:2]
    causal = np.broadcast_to(np.tril(np.ones((t, t), bool)), (b, t, t))
    cross = np.broadcast_to(mask_BxM[:, None], (b, t, memory.shape[1]))
    inners = (
        ("self_attention", lambda h: np_attention(h, h, causal, p["self_attention"])),
        ("cross_attention", lambda h: np_attention(h, memory, cross, p["cross_attention"])),
        ("mlp", lambda h: np_mlp(h, p["mlp"])),
    )
    for name, inner in inners:
        x = np_residual(x, p[f"{name}_residual"]["norm"], inner, norm_first)
    return x


SETTINGS = StackSettings(
    layers=2,
    heads=H,
    mlp_width=W,
    dropout_rate=0.0,
    norm_first=True,
    norm_epsilon=BART_EPSILON,
    gelu="exact",
    dtype=jnp.float32,
    scan_layers=True,
    remat="none",
    attention="xla",
)


def settings(**changes) -> StackSettings:
    return dataclasses.replace(SETTINGS, **changes)


def mask_of(lengths, size):
    return np.arange(size)[None] < np.asarray(lengths)[:, None]


def layer_of(params, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf[index], np.float64), params)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_is_its_numpy_twin(norm_first, attention):
    x, mask = normal(B, L, D), mask_of([L, 3], L)
    module = layers.Encoder(settings(norm_first=norm_first, attention=attention))
    params = small.make_params(module, x, mask)
    actual = jax.jit(module.apply)({"params": params}, x, mask)
    expected = x.astype(np.float64)
    for index in range(2):
        expected = np_encoder_layer(expected, mask, layer_of(params["layers"], index), norm_first)
    if norm_first:
        expected = np_norm(expected, params["norm"])
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("norm_first", [True, False])
def test_decoder_is_its_numpy_twin(norm_first, attention):
    x, memory, mask = normal(B, L, D), normal(B, M, D, seed=1), mask_of([2, M], M)
    module = layers.Decoder(settings(norm_first=norm_first, attention=attention))
    rest = (memory, mask, None, None)
    params = small.make_params(module, x, *rest, keep_cache=False)
    run = jax.jit(lambda p: module.apply({"params": p}, x, *rest, keep_cache=False)[0])
    expected = x.astype(np.float64)
    for index in range(2):
        layer = layer_of(params["layers"], index)
        expected = np_decoder_layer(expected, memory, mask, layer, norm_first)
    if norm_first:
        expected = np_norm(expected, params["norm"])
    np.testing.assert_allclose(run(params), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
def test_rows_that_share_an_encoded_row_decode_as_if_each_had_its_own(attention):
    x, memory, mask = normal(B * 3, L, D), normal(B, M, D, seed=1), mask_of([2, M], M)
    module = layers.Decoder(settings(attention=attention))
    params = small.make_params(module, x[:B], memory, mask, None, None, keep_cache=False)

    def value_and_gradient(repeats):
        def loss(params, memory):
            of_rows = (jnp.repeat(each, repeats, axis=0) for each in (memory, mask))
            y, _ = module.apply({"params": params}, x, *of_rows, None, None, keep_cache=False)
            return (y * normal(*x.shape, seed=2)).sum(), y

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, memory)

    small.assert_trees_close(value_and_gradient(1), value_and_gradient(3), 1e-4, 1e-5)


def encoder_value_and_gradient(**changes):
    x, mask = normal(B, L, D), mask_of([L, 3], L)
    module = layers.Encoder(settings(**changes))
    params = small.make_params(module, x, mask)
    target = normal(B, L, D, seed=2)
    loss = lambda p: (module.apply({"params": p}, x, mask) * target).sum()  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def plain():
    return encoder_value_and_gradient()


@pytest.mark.parametrize(
    "change",
    [
        {"remat": "full"},
        {"remat": "dots"},
        {"scan_layers": False},
        {"attention": "fused"},
        {"attention": "fused", "remat": "full"},
    ],
    ids=str,
)
def test_how_layers_are_stacked_changes_no_gradient(plain, change):
    small.assert_trees_close(encoder_value_and_gradient(**change), plain, 1e-4, 1e-5)


def backward_count(word: str, remat: str, **changes) -> int:
    """How often the gradient's program, of an encoder of one layer, has `word`."""
    x, mask = normal(B, L, D), mask_of([L, 3], L)
    module = layers.Encoder(settings(layers=1, remat=remat, **changes))
    params = small.make_params(module, x, mask)
    loss = lambda p: module.apply({"params": p}, x, mask).sum()  # noqa: E731
    return str(jax.make_jaxpr(jax.grad(loss))(params)).count(word)


def test_remat_repeats_what_its_name_does_not_keep():
    count = {remat: backward_count("dot_general", remat) for remat in REMAT_POLICIES}
    assert count["none"] == count["all_dots"] < count["dots"] < count["full"], count


def test_what_the_kernel_made_is_kept_with_the_products():
    """The kernel is no product to JAX: by the products' policies alone it would run again."""
    count = {
        remat: backward_count("platform_index", remat, attention="fused")
        for remat in REMAT_POLICIES
    }
    assert count["dots"] == count["all_dots"] == count["full"] - 1, count


def test_moments_of_layer_norms_are_kept_with_the_products():
    """Else the sums over the width are computed again, from activations read again."""
    count = {remat: backward_count(" rsqrt ", remat) for remat in REMAT_POLICIES}
    assert count["none"] == count["dots"] == count["all_dots"] == count["full"] - 2, count


@pytest.mark.parametrize("heads", [5, 0, -1])
def test_heads_that_do_not_fit(heads):
    with pytest.raises(UserError, match=f"width={D} does not divide into heads={heads}"):
        check_heads("text", D, heads)


def test_attention_refuses_an_input_that_does_not_divide_into_its_heads():
    module, x = Attention(settings(heads=5)), normal(B, L, D)
    with pytest.raises(ValueError, match="does not divide into 5"):
        jax.eval_shape(lambda: module.init(jax.random.key(0), x, x, None))


def test_masked_keys_are_never_read():
    x, mask = normal(B, L, D), mask_of([L, 3], L)
    module = layers.Encoder(settings(layers=1))
    params = small.make_params(module, x, mask)
    run = jax.jit(module.apply)
    other = np.where(mask[..., None], x, 1e3 * normal(B, L, D, seed=3))
    first, second = (np.asarray(run({"params": params}, x, mask)) for x in (x, other))
    np.testing.assert_array_equal(first[mask], second[mask])


def test_dropout_is_on_exactly_with_a_key_and_differs_by_layer():
    x, mask = np.ones((B, L, D), np.float32), mask_of([L, L], L)
    module = layers.Encoder(settings(dropout_rate=0.5))
    # Each layer adds its MLP's output bias, which dropout doubles or drops, and nothing else.
    params = jax.tree.map(np.zeros_like, small.make_params(module, x, mask))
    params["layers"]["mlp"]["out"]["bias"] += 1.0
    params["norm"]["scale"] += 1.0
    run = jax.jit(lambda key: module.apply({"params": params}, x, mask, rngs={"dropout": key}))
    first = np.asarray(run(jax.random.key(0)))
    np.testing.assert_array_equal(first, run(jax.random.key(0)))
    assert (first != run(jax.random.key(1))).any()
    # Dropped in both layers, in one, in none: masks that the layers share would give two values.
    assert max(len(np.unique(row)) for row in first.reshape(-1, D)) == 3
    off = jax.jit(lambda: module.apply({"params": params}, x, mask))()
    assert len(np.unique(off)) == 1


def test_bfloat16_stays_near_float32():
    x, mask = normal(B, L, D), mask_of([L, 3], L)
    module = layers.Encoder(settings())
    params = small.make_params(module, x, mask)
    low = layers.Encoder(settings(dtype=jnp.bfloat16))
    run = jax.jit(lambda p: low.apply({"params": p}, x.astype(jnp.bfloat16), mask))
    actual, exact = run(params), jax.jit(module.apply)({"params": params}, x, mask)
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_allclose(actual.astype(np.float32), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("prng", ["threefry2x32", "rbg"])
def test_each_device_draws_dropout_for_its_own_rows_alone(prng):
    """A generator that XLA cannot divide would make the whole batch's bits on every device."""
    mesh = sharding.make_mesh(dict(dcn=1, data=2, fsdp=4, tensor=1))
    x = np.ones((64, 16, 32), np.float32)

    class Drop(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.dropout(self, 0.25, x)

    def drop(x):
        return Drop().apply({}, x, rngs={"dropout": jax.random.key(0, impl=prng)})

    rows = NamedSharding(mesh, PartitionSpec(("dcn", "data", "fsdp")))
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.rules(pretrain.get_config())):
        compiled = jax.jit(drop, in_shardings=rows, out_shardings=rows).lower(x).compile()
    assert "[64,16,32]" not in compiled.as_text()
    y = np.asarray(compiled(jax.device_put(x, rows)))
    assert np.unique(y).tolist() == pytest.approx([0.0, 1 / 0.75])
    assert abs((y == 0).mean() - 0.25) < 0.01
    assert len(np.unique((y == 0).reshape(64, -1), axis=0)) == 64  # no two devices draw alike
    if prng == "threefry2x32":
        np.testing.assert_array_equal(y, jax.jit(drop)(x))

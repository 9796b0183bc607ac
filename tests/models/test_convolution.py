"""`convolve` is XLA's convolution, and so are its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igerg_jax.models import convolution

NUMBERS = ("NHWC", "HWIO", "NHWC")
SQUARE = ((1, 1), (1, 1))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def value_and_grads(function, x, kernel):
    """Of the sum of the outputs' sines, so that every output's gradient differs."""
    return jax.value_and_grad(lambda *a: jnp.sin(function(*a)).sum(), (0, 1))(x, kernel)


# As ResNets have them, ViT's stems, an odd size, and a side that the stride leaves a rest of.
@pytest.mark.parametrize(
    "side, channels, kernel, stride, padding",
    [
        (8, (4, 6), 3, 1, SQUARE),
        (8, (4, 6), 3, 2, SQUARE),
        (8, (4, 6), 1, 2, ((0, 0), (0, 0))),
        (16, (3, 8), 7, 2, ((3, 3), (3, 3))),
        (9, (3, 8), 3, 2, "SAME"),
        (16, (3, 5), 4, 4, "SAME"),
        (7, (3, 5), 3, 2, "VALID"),
    ],
)
@pytest.mark.parametrize("images_per_chunk", [1, 2, 6])
def test_it_is_xlas(side, channels, kernel, stride, padding, images_per_chunk, monkeypatch):
    x, kernel = normal(6, side, side, channels[0]), normal(kernel, kernel, *channels, seed=1)
    strides = (stride, stride)
    native = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, strides, padding, dimension_numbers=NUMBERS
    )
    places = native(x, kernel).shape[1:3]
    summed = kernel[..., 0].size * places[0] * places[1]
    monkeypatch.setattr(convolution, "_PATCH_NUMBERS", summed * images_per_chunk)
    assert convolution.is_one_cpu()
    got = value_and_grads(lambda x, k: convolution.convolve(x, k, strides, padding), x, kernel)
    want = value_and_grads(native, x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


@pytest.mark.parametrize("images, most, chunks", [(12, 5, 3), (12, 12, 1), (7, 3, 7), (128, 8, 16)])
def test_chunks_are_equal_and_as_large_as_allowed(images, most, chunks):
    assert convolution._chunks(images, most) == chunks


def test_gradients_in_bfloat16_are_summed_in_float32(monkeypatch):
    monkeypatch.setattr(convolution, "_PATCH_NUMBERS", 1)  # one image per chunk
    x, kernel = jnp.ones((512, 1, 1, 1), jnp.bfloat16), jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    loss = lambda k: convolution.convolve(x, k, (1, 1), "VALID").sum()  # noqa: E731
    gradient = jax.grad(loss)(kernel)
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient[0, 0, 0, 0]) == 512  # 256 where 1 is added in bfloat16

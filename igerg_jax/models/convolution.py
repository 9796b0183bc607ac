"""2-D convolutions with a gradient that a CPU computes fast.

XLA computes the gradient by the kernel as a convolution whose window is as large as the image. Its
CPU library does that at a tenth of the speed of a matrix product, or less (`python -m
benchmarks.arithmetic`). Here it is one product per chunk of images, with patches that fit a core's
cache.

I = images, H and W = height and width, C = channels, D = channels of the output, K = height and
width of the kernel, S = K * K * C.
"""

import functools

import jax
import jax.numpy as jnp

from igerg_jax.models.partitioning import is_one_cpu

_PATCH_NUMBERS = 1 << 20  # of one chunk: 4 MiB in float32
_native = functools.partial(
    jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC")
)


def convolve(x_IxHxWxC: jax.Array, kernel_KxKxCxD: jax.Array, strides, padding, **unused):
    """Linen's `conv_general_dilated` where nothing is dilated or grouped.

    Args:
      padding: "SAME", "VALID", or (before, after) of H and of W.
    """
    del unused
    if not is_one_cpu():
        return _native(x_IxHxWxC, kernel_KxKxCxD, strides, padding)
    if isinstance(padding, str):
        sizes = x_IxHxWxC.shape[1:3], kernel_KxKxCxD.shape[:2]
        padding = jax.lax.padtype_to_pads(*sizes, strides, padding)
    return _convolve(tuple(strides), tuple(padding), x_IxHxWxC, kernel_KxKxCxD)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(strides, padding, x, kernel):
    return _native(x, kernel, strides, padding)


def _forward(strides, padding, x, kernel):
    return _native(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, kept, dy_IxHxWxD):
    x_IxHxWxC, kernel_KxKxCxD = kept
    by_x = jax.linear_transpose(lambda x: _native(x, kernel_KxKxCxD, strides, padding), x_IxHxWxC)
    (dx_IxHxWxC,) = by_x(dy_IxHxWxD)
    *kernel_size, _, outputs = kernel_KxKxCxD.shape
    summed = kernel_KxKxCxD.size // outputs

    def add_chunk(total_DxS, chunk):
        x, dy = chunk
        patches = _patches(x, kernel_size, strides, padding, dy.shape[1:3])
        product = jnp.matmul(
            dy.reshape(-1, outputs).T,
            patches.reshape(-1, summed),
            preferred_element_type=total_DxS.dtype,
        )
        return total_DxS + product, None

    per_image = dy_IxHxWxD.shape[1] * dy_IxHxWxD.shape[2] * summed
    chunks = _chunks(x_IxHxWxC.shape[0], most=max(_PATCH_NUMBERS // per_image, 1))
    split = [a.reshape(chunks, -1, *a.shape[1:]) for a in (x_IxHxWxC, dy_IxHxWxD)]
    total_DxS, _ = jax.lax.scan(add_chunk, jnp.zeros((outputs, summed), jnp.float32), split)
    gradient = total_DxS.T.reshape(kernel_KxKxCxD.shape)
    return dx_IxHxWxC, gradient.astype(kernel_KxKxCxD.dtype)


_convolve.defvjp(_forward, _backward)


def _chunks(images: int, most: int) -> int:
    """How many equal chunks of at most `most` images there are."""
    return next(n for n in range(1, images + 1) if images % n == 0 and images // n <= most)


def _patches(x, kernel_size, strides, padding, places):
    """[I, *places, S]: what the kernel sees at each place, in the order of its weights."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    ends = [(n - 1) * stride + 1 for n, stride in zip(places, strides, strict=True)]
    shifted = [
        x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
        for i in range(kernel_size[0])
        for j in range(kernel_size[1])
    ]
    return jnp.concatenate(shifted, axis=-1)

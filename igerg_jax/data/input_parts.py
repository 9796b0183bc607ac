"""What Python hands to the code that decodes images: the encoded ones, and how each is to look.

`igerg_jax.data.input_graph` (TensorFlow) and `igerg_jax.data.input_threads` (NumPy) do so, with
the same result.
"""

from collections.abc import Callable

import numpy as np

from igerg_jax.batch import BatchSpec
from igerg_jax.data.augment import Recipe

# config.data.image_backend: `input_graph`, and two of `input_threads`.
TENSORFLOW, NUMPY, OPENCV = BACKENDS = ("tensorflow", "numpy", "opencv")
# config.data.preprocessing; IMAGENET ignores the recipes.
AUGMENT, IMAGENET = PREPROCESSING = ("augment", "imagenet")

EMPTY, RATIOS = 0, (1, 2, 4, 8)  # a slot without an image; the decoder's downscaling factors
ERASED = 127  # mid-grey

# {name: (dtype, shape of a row)}: one row per image slot, B * N.
PARTS = {
    "jpeg": ("string", []),
    "branch": ("int32", []),  # EMPTY, or 1 + the recipe's halvings
    "crop": ("int32", [4]),
    "flip": ("bool", []),
    "colour": ("float32", [3, 3]),
    "offset": ("float32", []),
    "erase": ("int32", [4]),
}

# A step's number -> the batch's arrays in the contract's order, but instead of `images` those of
# `PARTS` at the end.
Fetch = Callable[[np.ndarray], tuple[np.ndarray, ...]]


def given_names(spec: BatchSpec) -> list[str]:
    """The arrays that a `Fetch` returns as they are."""
    return [name for name in spec.shapes() if name != "images"]


def parts(
    jpegs_M: np.ndarray, recipe: Recipe, image_mask_BxN: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Arranges the M images of a batch, object[M] of bytes, by slot: the arrays of `PARTS`.

    The images and the recipe have the order of the mask's True entries.
    """

    def spread(values: np.ndarray, empty: object) -> np.ndarray:
        out = np.full((image_mask_BxN.size, *values.shape[1:]), empty, values.dtype)
        out[image_mask_BxN.ravel()] = values
        return out

    return (
        spread(jpegs_M, b""),
        spread(recipe.halvings + np.int32(1), EMPTY),
        spread(recipe.crop, 0),
        spread(recipe.flip, False),
        # Transposed, for RGB @ colour.
        spread(recipe.colour.transpose(0, 2, 1), 0),
        spread(recipe.offset, 0),
        spread(recipe.erase, 0),
    )

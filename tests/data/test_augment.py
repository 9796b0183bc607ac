"""Augmentation recipes: what is cropped and erased lies inside, and depends on the place alone."""

import functools

import numpy as np
import pytest
from ml_collections import ConfigDict

from igerg_jax.data import augment


@pytest.mark.parametrize(("height", "width"), [(40, 90), (90, 40), (64, 64)])
def test_without_a_crop_training_takes_squares_of_full_size_from_anywhere(height, width):
    """As evaluation does from the centre: a picture must not be squashed in one of the two."""
    count, side = 200, min(height, width)
    sizes = np.tile([height, width], (count, 1))
    settings = ConfigDict(
        dict(
            crop_min_area=1.0,
            flip=False,
            colour_jitter=0.0,
            erase_probability=0.0,
            erase_max_area=0.2,
        )
    )
    positions, slots = np.arange(count), np.zeros(count, int)
    crop = augment.random_recipe(sizes, 0, positions, slots, side, settings).crop
    assert (crop[:, 2:] == side).all() and (crop[:, :2] >= 0).all()
    assert (crop[:, :2] + crop[:, 2:] <= sizes).all()
    corners = np.unique(crop[:, :2], axis=0)
    longest = max(height, width) - side
    assert longest == 0 or (len(corners) > 20 and np.ptp(corners, axis=0).max() > 0.8 * longest)
    centred = augment.plain_recipe(sizes[:1], side).crop
    np.testing.assert_array_equal(centred[0, 2:], crop[0, 2:])


def test_crops_stay_inside_and_recipes_depend_on_nothing_but_position_and_slot(tiny_config):
    rng = np.random.default_rng(0)
    sizes = rng.integers(8, 900, size=(500, 2))
    positions, slots = np.arange(500) // 5, np.arange(500) % 5
    made = augment.random_recipe(sizes, 0, positions, slots, 64, tiny_config.data.augment)
    top, left, height, width = made.crop.T
    scale = 2**made.halvings
    assert min(top.min(), left.min()) >= 0 and min(height.min(), width.min()) >= 1
    assert (top + height <= -(-sizes[:, 0] // scale)).all()
    assert (left + width <= -(-sizes[:, 1] // scale)).all()
    # What is left to the resizing is less than a factor of two, or the decoder's limit is met.
    shortest = np.minimum(height, width)
    assert ((shortest < 2 * 64 + 1) | (made.halvings == 3)).all()
    assert 0.4 < made.flip.mean() < 0.6
    one = slice(123, 124)
    alone = augment.random_recipe(
        sizes[one], 0, positions[one], slots[one], 64, tiny_config.data.augment
    )
    for name in ("crop", "halvings", "flip", "colour", "offset", "erase"):
        np.testing.assert_array_equal(getattr(made, name)[one], getattr(alone, name))
    assert len(np.unique(made.colour[:, 0, 0])) == 500
    assert not made.erase.any()


@pytest.mark.parametrize("max_area", [0.01, 0.3, 1.0])
def test_erased_rectangles_stay_inside_and_change_nothing_else(tiny_config, max_area):
    sizes, positions, slots = np.full((2000, 2), 48), np.arange(2000), np.zeros(2000, int)
    settings = tiny_config.data.augment
    make = functools.partial(augment.random_recipe, sizes, 0, positions, slots, 48)
    plain = make(settings)
    settings.update(erase_probability=0.25, erase_max_area=max_area)
    made = make(settings)
    for name in ("crop", "flip", "colour", "offset"):
        np.testing.assert_array_equal(getattr(made, name), getattr(plain, name))
    erased = made.erase[:, 2] > 0
    assert abs(erased.mean() - 0.25) < 0.03
    top, left, height, width = made.erase[erased].T
    assert min(top.min(), left.min()) >= 0 and min(height.min(), width.min()) >= 1
    assert max((top + height).max(), (left + width).max()) <= 48
    assert (height * width).max() <= max(max_area * 48**2 + 48, 1)  # sides are rounded

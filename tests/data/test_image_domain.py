"""Images that are unlike the training data's: what is calibrated, kept, and noticed."""

import json

import numpy as np
import pytest
from etils import epath

from igerg_jax.data import image_domain
from igerg_jax.errors import UserError


def drawn(count: int, seed: int) -> np.ndarray:
    """Flat colours with a disc, as a drawing has them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32]
    images = np.empty((count, 32, 32, 3), np.uint8)
    for image in images:
        image[...] = rng.integers(100, 200, 3)
        centre, radius = rng.integers(10, 22, 2), rng.integers(6, 12)
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
        image[disc] = rng.integers(0, 255, 3)
    return images


@pytest.fixture(scope="module")
def domain():
    return image_domain.calibrate(drawn(500, 0), drawn(500, 1), 0.02)


def test_as_many_held_out_images_are_strange_as_was_said(domain):
    assert domain.outside(drawn(500, 1)).mean() == pytest.approx(0.02, abs=0.002)
    assert domain.outside(drawn(2000, 2)).mean() < 0.05


def test_noise_shading_and_little_contrast_are_strange(domain):
    images = drawn(200, 3)
    noise = np.random.default_rng(0).integers(-20, 20, images.shape)
    shading = np.linspace(-40, 40, 32)[:, None, None]
    for changed in (images + noise, images + shading, images * 0.02 + 200):
        changed = np.clip(changed, 0, 255).astype(np.uint8)
        assert domain.outside(changed).mean() > 0.9


def test_a_file_gives_back_what_was_written(domain, tmp_path):
    folder = epath.Path(tmp_path)
    assert image_domain.read(folder) is None
    image_domain.write(domain, folder)
    again, images = image_domain.read(folder), drawn(50, 4)
    np.testing.assert_allclose(again.distances(images), domain.distances(images), rtol=1e-3)
    assert (again.threshold, again.images) == (domain.threshold, domain.images)
    for content in ('{"mean": [1]}', "[]", "{", json.dumps({"mean": "x", "scale": 1})):
        (folder / image_domain.FILE).write_text(content)
        with pytest.raises(UserError, match=r"image_domain\.json'"):
            image_domain.read(folder)


def test_a_few_strange_ones_among_many_are_no_news(domain):
    assert domain.expected(1) == 0
    assert 0.02 * 1000 < domain.expected(1000) < 0.1 * 1000

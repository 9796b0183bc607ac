"""Whether images are like those that a model was trained on: a distance with a threshold.

It is the Mahalanobis distance of an image's statistics (colour, contrast, size and frequency of
steps between pixels) from those of training images. A given share of held-out images exceeds the
threshold. The model's own features do not serve: a tower that was trained on drawn faces maps
photographs onto them (docs/reliability.md has the figures).

    <workdir or weights folder>/image_domain.json    what `Domain` holds
"""

import dataclasses
import json
import math
import os
import shlex
from typing import Any

import numpy as np
from etils import epath

from igerg_jax import storage
from igerg_jax.errors import UserError

FILE = "image_domain.json"
_SCALES = (1, 2, 4)  # distances in pixels between those that are compared
_RIDGE = 0.01  # added to the correlations, as a share of their diagonal
_MIN_STEP = 2 / 255  # smaller steps count as none
_TINY = 1e-3


@dataclasses.dataclass(frozen=True)
class Domain:
    """The statistics of training images, and the distance that few held-out ones exceed.

    Attributes:
      mean: float64[F]; scale: float64[F], the standard deviations.
      precision: float64[F, F], the inverse of the statistics' correlations.
      threshold: of the distance.
      false_alarms: the share of held-out images that exceed it.
      images: how many were used, {"training": n, "held_out": n}.
    """

    mean: np.ndarray
    scale: np.ndarray
    precision: np.ndarray
    threshold: float
    false_alarms: float
    images: dict[str, int]

    def distances(self, images_NxHxWx3: np.ndarray) -> np.ndarray:
        """float64[N], of uint8 images as the model is shown them."""
        z_NxF = (statistics(images_NxHxWx3) - self.mean) / self.scale
        return np.sqrt(np.einsum("nf,fg,ng->n", z_NxF, self.precision, z_NxF))

    def outside(self, images_NxHxWx3: np.ndarray) -> np.ndarray:
        """bool[N]: whether each is unlike the training images."""
        return self.distances(images_NxHxWx3) > self.threshold

    def expected(self, images: int) -> float:
        """How many of `images` images may be outside by chance, with a margin; 0 for one image."""
        mean = images * self.false_alarms
        return 3 * mean + 3 * math.sqrt(mean) if images > 1 else 0

    def warning(self, outside: int, images: int) -> str:
        """The line to print if `outside` of `images` images are unlike the training images."""
        verb = "is" if outside == 1 else "are"
        return (
            f"warning: {outside} of {images} images {verb} unlike those that the model was trained "
            f"on ({self.false_alarms:.0%} of held-out ones are): the emotions seen there mean "
            "little"
        )


def calibrate(
    training_NxHxWx3: np.ndarray, held_out_NxHxWx3: np.ndarray, false_alarms: float
) -> Domain:
    """The domain of training images; the share `false_alarms` of held-out ones is outside."""
    x_NxF = statistics(training_NxHxWx3)
    mean, scale = x_NxF.mean(0), x_NxF.std(0) + _TINY
    z_NxF = (x_NxF - mean) / scale
    correlations = z_NxF.T @ z_NxF / len(z_NxF)
    precision = np.linalg.inv((1 - _RIDGE) * correlations + _RIDGE * np.eye(len(mean)))
    images = {"training": len(training_NxHxWx3), "held_out": len(held_out_NxHxWx3)}
    domain = Domain(mean, scale, precision, np.inf, false_alarms, images)
    threshold = float(np.quantile(domain.distances(held_out_NxHxWx3), 1 - false_alarms))
    return dataclasses.replace(domain, threshold=threshold)


def statistics(images_NxHxWx3: np.ndarray) -> np.ndarray:
    """float64[N, F]: mean and log standard deviation of each colour; mean and standard deviation of
    saturation; and of the steps between grey pixels, at each scale and in each direction, the logs
    of mean and median, and the share below `_MIN_STEP`."""
    x = images_NxHxWx3.astype(np.float64) / 255
    saturation = x.max(-1) - x.min(-1)
    columns = [*x.mean((1, 2)).T, *np.log(x.std((1, 2)) + _TINY).T]
    columns += [saturation.mean((1, 2)), saturation.std((1, 2))]
    grey = x.mean(-1)
    for scale in _SCALES:
        coarse = grey[:, ::scale, ::scale]
        for axis in (1, 2):
            steps = np.abs(np.diff(coarse, axis=axis)).reshape(len(x), -1)
            columns += [np.log(steps.mean(1) + _TINY), np.log(np.median(steps, 1) + _TINY)]
            columns.append((steps < _MIN_STEP).mean(1))
    return np.stack(columns, axis=1)


def unknown(checkpoint: epath.PathLike) -> str:
    """The line to print where the domain of a model that is shown images is not known."""
    return (
        "note: whether images are unlike those that the model was trained on is not known; python "
        f"-m igerg_jax.tools.calibrate_images --checkpoint={shlex.quote(os.fspath(checkpoint))} "
        "makes it known"
    )


def write(domain: Domain, folder: epath.Path) -> None:
    """Writes `FILE`."""
    values = {
        name: value.round(6).tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(domain).items()
    }
    storage.write_text(folder / FILE, json.dumps(values) + "\n")


def read(folder: epath.Path) -> Domain | None:
    """What `write` wrote; None where nothing was. Raises UserError if it is damaged."""
    values: dict[str, Any] = storage.read_json_object(folder / FILE)
    if not values:
        return None
    arrays = ("mean", "scale", "precision")
    try:
        domain = Domain(**values | {name: np.array(values[name], float) for name in arrays})
        numbers = (domain.threshold, domain.false_alarms, *domain.images.values())
        if not all(isinstance(number, int | float) for number in numbers):
            raise ValueError("not a number")
        np.linalg.cholesky(domain.precision)  # a distance needs a positive definite matrix
        pixels = np.zeros((1, 8, 8, 3), np.uint8)
        if not (np.isfinite(domain.distances(pixels)).all() and domain.scale.min() > 0):
            raise ValueError("its numbers do not define a distance")
        return domain
    except (AttributeError, KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
        raise UserError(f"'{folder / FILE}' is damaged ({error}): remove it") from error

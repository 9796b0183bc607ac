"""Other libraries' loaders for benchmarks/input_pipeline.py; each yields uint8 batches of images.

They decode in full, take a random crop of aspects up to 4/3, resize
it without antialiasing like ours, mirror half of the images, and jitter brightness, contrast and
saturation. One worker process per core.
"""

import pathlib
import random
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageEnhance

from igerg_jax.data import augment

ENDLESS = 10**7  # images of an epoch, so that no time is lost between epochs


class Stills:
    """A map-style dataset of JPEG files, each finished by `load`: path -> uint8 image."""

    def __init__(self, folder: str, load: Callable):
        self._paths = sorted(pathlib.Path(folder, "stills").rglob("*.jpg"))
        self._load = load

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, i: int):
        return self._load(self._paths[i % len(self._paths)])


class Pillow:
    """What torchvision's transforms do to Pillow images."""

    draft = False  # whether the decoder may halve an image whose crop is large enough

    def __init__(self, settings, side: int):
        self._settings, self._side = settings, side

    def __call__(self, path: pathlib.Path) -> np.ndarray:
        image = Image.open(path)
        left, top, width, height = _random_crop(*image.size, self._settings.crop_min_area)
        if self.draft:
            full = image.size
            shrink = min(width, height) / self._side
            image.draft("RGB", (int(full[0] / shrink), int(full[1] / shrink)))
            scale = image.size[0] / full[0]
            left, top, width, height = (int(v * scale) for v in (left, top, width, height))
        image = image.convert("RGB").crop((left, top, left + width, top + height))
        image = image.resize((self._side, self._side), Image.Resampling.BILINEAR)
        if self._settings.flip and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        jitter = self._settings.colour_jitter
        enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
        for enhance in random.sample(enhancers, k=len(enhancers)):
            image = enhance(image).enhance(random.uniform(1 - jitter, 1 + jitter))
        return np.array(image)


class PillowDraft(Pillow):
    """The same, decoded at a reduced scale where the crop allows."""

    draft = True


class TurboJpeg:
    """libjpeg-turbo and OpenCV: 8-bit resize and mirroring, one colour matrix as in ours."""

    def __init__(self, settings, side: int):
        self._settings, self._side = settings, side

    def __call__(self, path: pathlib.Path) -> np.ndarray:
        import cv2
        import simplejpeg

        image = simplejpeg.decode_jpeg(path.read_bytes(), fastdct=True)
        height, width = image.shape[:2]
        left, top, width, height = _random_crop(width, height, self._settings.crop_min_area)
        image = image[top : top + height, left : left + width]
        image = cv2.resize(image, (self._side, self._side), interpolation=cv2.INTER_LINEAR)
        if self._settings.flip and random.random() < 0.5:
            image = cv2.flip(image, 1)
        jitter = self._settings.colour_jitter
        factors = (np.array([random.uniform(1 - jitter, 1 + jitter)]) for _ in range(3))
        colour, offset = augment.colour_matrix(*factors)
        return cv2.transform(image, np.column_stack([colour[0], np.repeat(offset, 3)]))


class TorchVision:
    """libjpeg-turbo and torchvision.transforms.v2 on uint8 tensors."""

    def __init__(self, settings, side: int):
        from torchvision.transforms import v2

        jitter = settings.colour_jitter
        scale = (settings.crop_min_area, 1.0)
        self._transform = v2.Compose(
            [
                v2.RandomResizedCrop(side, scale, (3 / 4, 4 / 3), antialias=False),
                v2.RandomHorizontalFlip(0.5 if settings.flip else 0.0),
                v2.ColorJitter(jitter, jitter, jitter),
            ]
        )

    def __call__(self, path: pathlib.Path):
        import simplejpeg
        import torch

        image = simplejpeg.decode_jpeg(path.read_bytes(), fastdct=True)
        return self._transform(torch.from_numpy(image).permute(2, 0, 1))


def torch_loader(dataset: Stills, batch_size: int, workers: int) -> Iterator:
    """Batches from PyTorch's DataLoader."""
    import torch
    from torch.utils.data import DataLoader, RandomSampler

    torch.set_num_threads(1)
    sampler = RandomSampler(dataset, replacement=True, num_samples=ENDLESS)
    return iter(DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers))


def grain_loader(dataset: Stills, batch_size: int, workers: int) -> Iterator:
    """Batches from Grain, made in worker processes."""
    from absl import flags
    from grain import MapDataset, MultiprocessingOptions

    flags.FLAGS.mark_as_parsed()  # Grain reads its own
    order = MapDataset.range(ENDLESS).seed(0).shuffle()
    images = order.map(dataset.__getitem__).to_iter_dataset().batch(batch_size)
    return iter(images.mp_prefetch(MultiprocessingOptions(num_workers=workers)))


def _random_crop(width: int, height: int, min_area: float) -> tuple[int, int, int, int]:
    """(left, top, width, height)."""
    area = width * height * random.uniform(min_area, 1)
    ratio = (4 / 3) ** random.uniform(-1, 1)
    crop_width = min(round((area * ratio) ** 0.5), width)
    crop_height = min(round((area / ratio) ** 0.5), height)
    left = random.randint(0, width - crop_width)
    return left, random.randint(0, height - crop_height), crop_width, crop_height

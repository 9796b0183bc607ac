"""Vision towers: what turns an image, or its precomputed features, into visual tokens.

A tower is a file with two classes, an import here, and a row in `TOWERS`:

    Settings    a frozen dataclass: the keys of `config.model.vision` that the tower reads, by
                their names, and `dtype`; `check(image_size, feature_dim)` raises UserError where
                the data do not fit (pixels per side; entries of precomputed vectors, 0 = pixels)
    a module    whose one field is `settings: Settings`; it maps uint8 images [I, side, side, 3]
                or float32 features [I, F] to visual tokens [I, K, W], of any width W

Letters as in `igerg_jax.batch`; I = images of a batch, flattened (B * N); P = patches; W = the
tower's own width.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from igerg_jax.models.settings import select
from igerg_jax.models.vision import features, resnet, resnet50, vit

# model.vision.kind -> the tower's settings, and the tower
TOWERS: dict[str, tuple[type, type[nn.Module]]] = {
    "vit": (vit.Settings, vit.PooledViT),
    "resnet": (resnet.Settings, resnet.ResNet),
    "resnet50": (resnet50.Settings, resnet50.ResNet50),
    "features": (features.Settings, features.FeatureTower),
}


def build(
    vision: Mapping[str, Any], dtype: jnp.dtype, image_size: int, feature_dim: int
) -> nn.Module:
    """The tower that `config.model.vision` describes, for images or features of these sizes.

    Raises:
      UserError: the tower refuses its settings or the data.
    """
    settings_type, module = TOWERS[vision["kind"]]
    settings = select(settings_type, vision, dtype=dtype)
    settings.check(image_size, feature_dim)
    return module(settings)

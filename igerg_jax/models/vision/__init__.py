"""Vision towers: what turns an image, or its precomputed features, into visual tokens.

A tower is a file with two classes and `TOWER = (Settings, module)`, and a line in `MODULES`:

    Settings    a frozen dataclass: the keys of `config.model.vision` that the tower reads, by
                their names, and `dtype`; `check(image_size, feature_dim)` raises UserError where
                the data do not fit (pixels per side; entries of precomputed vectors, 0 = pixels)
    a module    whose one field is `settings: Settings`; it maps uint8 images [I, side, side, 3]
                or float32 features [I, F] to visual tokens [I, K, W], of any width W

Letters as in `igerg_jax.batch`; I = images of a batch, flattened (B * N); P = patches; W = the
tower's own width.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from igerg_jax.models.settings import select

# {model.vision.kind: module with a `TOWER`}
MODULES = {
    "vit": "igerg_jax.models.vision.vit",
    "resnet": "igerg_jax.models.vision.resnet",
    "resnet50": "igerg_jax.models.vision.resnet50",
    "features": "igerg_jax.models.vision.features",
}

# {model.vision.kind: the tower's settings, and the tower}
TOWERS: dict[str, tuple[type, type[nn.Module]]] = {
    name: importlib.import_module(module).TOWER for name, module in MODULES.items()
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

"""TFDS builder of `coco_captions`."""

from __future__ import annotations

import tensorflow_datasets as tfds

from igerg_jax.data.builders import coco_captions, turns_builder


class Builder(turns_builder.TurnsBuilder, skip_registration=True):
    """One example a turn."""

    PACKAGE = coco_captions
    VERSION = tfds.core.Version(coco_captions.VERSION)
    BUILDER_CONFIGS = turns_builder.configs(coco_captions)

"""TFDS builder of `fer2013`."""

from __future__ import annotations

import tensorflow_datasets as tfds

from igerg_jax.data.builders import fer2013, turns_builder


class Builder(turns_builder.TurnsBuilder, skip_registration=True):
    """One example a face."""

    PACKAGE = fer2013
    VERSION = tfds.core.Version(fer2013.VERSION)
    BUILDER_CONFIGS = turns_builder.configs(fer2013)
    MANUAL_DOWNLOAD_INSTRUCTIONS = fer2013.INFO.files

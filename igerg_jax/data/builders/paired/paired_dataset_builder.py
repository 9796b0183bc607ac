"""TFDS builder of `paired`."""

from __future__ import annotations

import tensorflow_datasets as tfds

from igerg_jax.data.builders import paired, turns_builder


class Builder(turns_builder.TurnsBuilder, skip_registration=True):
    """One example a turn."""

    PACKAGE = paired
    VERSION = tfds.core.Version(paired.VERSION)
    BUILDER_CONFIGS = turns_builder.configs(paired)
    MANUAL_DOWNLOAD_INSTRUCTIONS = paired.INFO.files

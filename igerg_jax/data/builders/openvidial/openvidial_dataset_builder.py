"""TFDS builder of `openvidial`."""

from __future__ import annotations

import tensorflow_datasets as tfds

from igerg_jax.data.builders import openvidial, turns_builder


class Builder(turns_builder.TurnsBuilder, skip_registration=True):
    """One example a turn."""

    PACKAGE = openvidial
    VERSION = tfds.core.Version(openvidial.VERSION)
    BUILDER_CONFIGS = turns_builder.configs(openvidial)
    MANUAL_DOWNLOAD_INSTRUCTIONS = openvidial.INFO.files

"""TFDS builder of `empathetic_dialogues`."""

from __future__ import annotations

import tensorflow_datasets as tfds

from igerg_jax.data.builders import empathetic_dialogues, turns_builder


class Builder(turns_builder.TurnsBuilder, skip_registration=True):
    """One example a turn."""

    PACKAGE = empathetic_dialogues
    VERSION = tfds.core.Version(empathetic_dialogues.VERSION)
    BUILDER_CONFIGS = turns_builder.configs(empathetic_dialogues)
    MANUAL_DOWNLOAD_INSTRUCTIONS = empathetic_dialogues.INFO.files

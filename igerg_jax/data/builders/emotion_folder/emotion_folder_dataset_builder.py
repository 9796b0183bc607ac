"""TFDS builder of `emotion_folder`."""

from __future__ import annotations

import tensorflow_datasets as tfds

from igerg_jax.data.builders import emotion_folder, turns_builder


class Builder(turns_builder.TurnsBuilder, skip_registration=True):
    """One example a face."""

    PACKAGE = emotion_folder
    VERSION = tfds.core.Version(emotion_folder.VERSION)
    BUILDER_CONFIGS = turns_builder.configs(emotion_folder)
    MANUAL_DOWNLOAD_INSTRUCTIONS = emotion_folder.INFO.files

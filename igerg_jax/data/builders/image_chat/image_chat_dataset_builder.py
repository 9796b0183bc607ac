"""TFDS builder of `image_chat`."""

from __future__ import annotations

import tensorflow_datasets as tfds

from igerg_jax.data.builders import image_chat, turns_builder


class Builder(turns_builder.TurnsBuilder, skip_registration=True):
    """One example a turn."""

    PACKAGE = image_chat
    VERSION = tfds.core.Version(image_chat.VERSION)
    BUILDER_CONFIGS = turns_builder.configs(image_chat)
    MANUAL_DOWNLOAD_INSTRUCTIONS = image_chat.INFO.files

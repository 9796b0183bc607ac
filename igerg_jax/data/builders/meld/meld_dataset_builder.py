"""TFDS builder of `meld`."""

from __future__ import annotations

import tensorflow_datasets as tfds

from igerg_jax.data.builders import meld, turns_builder


class Builder(turns_builder.TurnsBuilder, skip_registration=True):
    """One example an utterance."""

    PACKAGE = meld
    VERSION = tfds.core.Version(meld.VERSION)
    BUILDER_CONFIGS = turns_builder.configs(meld)
    MANUAL_DOWNLOAD_INSTRUCTIONS = meld.INFO.files

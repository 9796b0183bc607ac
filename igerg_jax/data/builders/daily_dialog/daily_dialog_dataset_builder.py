"""TFDS builder of `daily_dialog`."""

from __future__ import annotations

import tensorflow_datasets as tfds

from igerg_jax.data.builders import daily_dialog, turns_builder


class Builder(turns_builder.TurnsBuilder, skip_registration=True):
    """One example a turn."""

    PACKAGE = daily_dialog
    VERSION = tfds.core.Version(daily_dialog.VERSION)
    BUILDER_CONFIGS = turns_builder.configs(daily_dialog)
    MANUAL_DOWNLOAD_INSTRUCTIONS = daily_dialog.INFO.files

"""TFDS builder of `chitchat_openmoji`."""

from __future__ import annotations

import tensorflow_datasets as tfds

from igerg_jax.data.builders import chitchat_openmoji, turns_builder


class Builder(turns_builder.TurnsBuilder, skip_registration=True):
    """One example a turn, with a face that shows its emotion."""

    PACKAGE = chitchat_openmoji
    VERSION = tfds.core.Version(chitchat_openmoji.VERSION)
    BUILDER_CONFIGS = turns_builder.configs(chitchat_openmoji)

"""TFDS builder of `go_emotions`."""

from __future__ import annotations

import tensorflow_datasets as tfds

from igerg_jax.data.builders import go_emotions, turns_builder


class Builder(turns_builder.TurnsBuilder, skip_registration=True):
    """One example a turn."""

    PACKAGE = go_emotions
    VERSION = tfds.core.Version(go_emotions.VERSION)
    BUILDER_CONFIGS = turns_builder.configs(go_emotions)

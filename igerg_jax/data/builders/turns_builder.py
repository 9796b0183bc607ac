"""A package's `Turns` as a TFDS dataset: what all of our TFDS builders share."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from igerg_jax.batch import EMOTIONS
from igerg_jax.data import builders
from igerg_jax.data.builders.source import NO_IMAGE, Info, Layout, Options, Turns
from igerg_jax.data.images import as_jpeg
from igerg_jax.data.progress import progress


def configs(package: types.ModuleType) -> list[tfds.core.BuilderConfig]:
    """The TFDS configs of a package's CONFIGS, {name: what it is}; the first is the default."""
    return [tfds.core.BuilderConfig(name=n, description=d) for n, d in package.CONFIGS.items()]


class TurnsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One example a turn, in the order of the dialogues; an episode's turns are consecutive.

    An image that is missing or broken leaves its turn without one. `options` are those of
    `builders.make`; a TFDS user's own manual folder is taken where they name none.
    """

    PACKAGE: ClassVar[types.ModuleType]

    def __init__(self, *, options: Options | None = None, **kwargs):
        self._options = options
        super().__init__(**kwargs)

    @property
    def _config_name(self) -> str:
        config = self.builder_config  # a name with "/" is no folder's: `builders.make` keeps it
        return getattr(config, "dataset_config", config.name) if config else ""

    @property
    def _dataset(self) -> str:
        return f"{self.name}/{self._config_name}".rstrip("/")

    def _info(self) -> tfds.core.DatasetInfo:
        info = builders.info(self._dataset)
        return tfds.core.DatasetInfo(
            builder=self,
            description=info.description,
            features=features(info, self.PACKAGE.layout(self._config_name)),
            homepage=info.homepage,
            citation=info.citation,
            license=info.license,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        options = self._options
        if options is None:
            manual = str(dl_manager._manual_dir or "")  # `manual_dir` insists that it exists
            options = Options(str(self._data_dir_root), manual, "", 0.0)
        splits = builders.splits(self._dataset, options)
        return {name: self._generate_examples(name, turns) for name, turns in splits.items()}

    def _generate_examples(self, split: str, turns: Turns) -> Iterator[tuple[int, dict]]:
        layout = self.PACKAGE.layout(self._config_name)
        keys, lacking = turns.image_keys, {"missing": 0, "broken": 0}
        for i in progress(range(len(turns)), f"building {split}", "turn"):
            example = turns.row(i)
            if layout.feature_dim:
                example["features"] = turns.features(i)
            if layout.images != "no":
                jpeg, state = _jpeg(turns, i) if keys[i] != NO_IMAGE else (None, "none")
                if state in lacking:
                    lacking[state] += 1
                if layout.images == "some":
                    example["images"] = [io.BytesIO(jpeg)] if jpeg else []
                elif jpeg is None:
                    continue  # what is nothing but its image is left out with it
                else:
                    example["image"] = io.BytesIO(jpeg)
            yield i, example
        for what, count in lacking.items():
            if count:
                print(
                    f"{self._dataset}, {split}: the images of {count} turns are {what}",
                    file=sys.stderr,
                )


def _jpeg(turns: Turns, i: int) -> tuple[bytes | None, str]:
    """(a turn's image, "whole"), or (None, "missing" or "broken")."""
    data = turns.image(i)
    if data is None:
        return None, "missing"
    try:
        return as_jpeg(data)[0], "whole"
    except (OSError, ValueError):
        return None, "broken"


def features(info: Info, layout: Layout) -> tfds.features.FeaturesDict:
    """The TFDS features of a turn."""
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    named = {
        "episode": tfds.features.Scalar(np.int64, doc="Counts the split's episodes from 0."),
        "turn": tfds.features.Scalar(np.int32, doc="Position in the episode, from 0."),
        "text": tfds.features.Text(),
        "emotion": tfds.features.ClassLabel(names=EMOTIONS, doc="-1 = no label."),
        "speaker": tfds.features.Text(),
        "image_id": tfds.features.Text(doc="The image's file or number in the source."),
    }
    for name, (dtype, shape) in info.extra.items():
        scalar = tfds.features.Text() if dtype is str else tfds.features.Scalar(dtype)
        named[name] = tfds.features.Tensor(shape=shape, dtype=dtype) if shape else scalar
    if layout.feature_dim:
        named["features"] = tfds.features.Tensor(shape=(layout.feature_dim,), dtype=np.float32)
    if layout.images == "always":
        named["image"] = image
    if layout.images == "some":
        named["images"] = tfds.features.Sequence(image, doc="One image, or none.")
    return tfds.features.FeaturesDict(named)

"""Any dataset of the table as a TFDS dataset.

    builder = tfds_builder.make("meld", Options(data_dir="data", manual_dir="downloads", ...))
    builder.download_and_prepare()

Training does not read this, but what `igerg_jax.data.prepare` writes. It is for those who want the
same turns in TFDS's format.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from igerg_jax.batch import EMOTIONS
from igerg_jax.data import builders, image_files
from igerg_jax.data.builders.source import NO_IMAGE, Info, Layout, Options, Turns
from igerg_jax.data.image_gate import BrokenImage, as_jpeg
from igerg_jax.data.parts import progress


def make(dataset: str, options: Options) -> TurnsBuilder:
    """Returns the TFDS builder of "name" or "name/config", which writes ArrayRecord.

    TFDS's folder is options.data_dir. Raises UserError for an unknown dataset.
    """
    raw, config = builders.find(dataset)
    chosen: str | tfds.core.BuilderConfig | None = config or None
    if config and not raw.configs:
        # TFDS makes a folder of a config's name, which may not hold a "/".
        chosen = tfds.core.BuilderConfig(name=config.replace("/", "."), description=config)
        chosen.dataset_config = config
    return builder_class(dataset.partition("/")[0])(
        data_dir=os.path.expanduser(options.data_dir),  # TFDS would make a folder "~"
        config=chosen,
        file_format="array_record",
        options=options,
    )


def builder_class(name: str) -> type[TurnsBuilder]:
    """Returns the TFDS builder class of a dataset, named without a config."""
    raw, _ = builders.find(name)

    class Builder(TurnsBuilder, skip_registration=True):
        VERSION = tfds.core.Version(raw.version)
        BUILDER_CONFIGS: ClassVar[list] = [
            tfds.core.BuilderConfig(name=config, description=description)
            for config, description in raw.configs.items()
        ]
        MANUAL_DOWNLOAD_INSTRUCTIONS = raw.info.files if raw.reads_manual_dir else None

    Builder.name = name
    return Builder


class TurnsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One example per turn, in the order of the dialogues; an episode's turns are consecutive.

    An image that is missing or broken leaves its turn without one. Without `options`, data_dir and
    manual_dir are those that TFDS is given.
    """

    def __init__(self, *, options: Options | None = None, **kwargs):
        self._options = options
        super().__init__(**kwargs)

    @property
    def _dataset(self) -> str:
        config = self.builder_config
        name = getattr(config, "dataset_config", config.name) if config else ""  # see `make`
        return f"{self.name}/{name}".rstrip("/")

    def _info(self) -> tfds.core.DatasetInfo:
        info = builders.info(self._dataset)
        return tfds.core.DatasetInfo(
            builder=self,
            description=info.description,
            features=features(info, builders.layout(self._dataset)),
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
        layout = builders.layout(self._dataset)
        keys, counts = turns.image_keys, {"read": 0, "missing": 0, "broken": 0}
        for i in progress(range(len(turns)), f"building {split}", "turn"):
            example = turns.row(i)
            if layout.feature_dim:
                example["features"] = turns.features(i)
            if layout.images != "no":
                jpeg = None
                if keys[i] != NO_IMAGE:
                    data = turns.image(i)
                    try:
                        jpeg = None if data is None else as_jpeg(data)[0]
                        counts["missing" if data is None else "read"] += 1
                    except BrokenImage:
                        counts["broken"] += 1
                if layout.images == "some":
                    example["images"] = [io.BytesIO(jpeg)] if jpeg else []
                elif jpeg is None:
                    continue  # an example that has nothing else is dropped with its image
                else:
                    example["image"] = io.BytesIO(jpeg)
            yield i, example
        if counts["missing"] or counts["broken"] or turns.passed_over:
            line = image_files.count_line(*counts.values(), turns.passed_over)
            print(f"{self._dataset}, {split}: {line}", file=sys.stderr)
        for what, count in turns.remarks.items():
            print(f"{self._dataset}, {split}: {count:,} {what}", file=sys.stderr)


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

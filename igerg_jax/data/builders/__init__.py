"""The table of datasets, and what it says about each: `igerg_jax.data.builders.source` explains.

A dataset is named as in config.data.dataset: "meld", or "meld/frames" for one of its configs. To
add one, write a module with a `DATASET` and give it a line in `MODULES`. Nothing here imports TFDS;
`igerg_jax.data.builders.tfds_builder` makes a TFDS dataset of any of them.
"""

import dataclasses
import importlib
import itertools
from collections.abc import Sequence

from ml_collections import ConfigDict

from igerg_jax import storage
from igerg_jax.data.builders import pseudo_labels
from igerg_jax.data.builders.source import Info, Layout, Options, RawDataset, Turns
from igerg_jax.errors import UserError, check_known

# {name: module with a `DATASET`}, imported when the dataset is first asked for.
MODULES = {
    "chitchat_openmoji": "igerg_jax.data.builders.chitchat_openmoji",
    "chitchat_peeps": "igerg_jax.data.builders.chitchat_peeps",
    "coco_captions": "igerg_jax.data.builders.coco_captions",
    "daily_dialog": "igerg_jax.data.builders.daily_dialog",
    "emotion_folder": "igerg_jax.data.builders.emotion_folder",
    "empathetic_dialogues": "igerg_jax.data.builders.empathetic_dialogues",
    "fer2013": "igerg_jax.data.builders.fer2013",
    "go_emotions": "igerg_jax.data.builders.go_emotions",
    "image_chat": "igerg_jax.data.builders.image_chat",
    "meld": "igerg_jax.data.builders.meld",
    "openvidial": "igerg_jax.data.builders.openvidial",
    "paired": "igerg_jax.data.builders.paired",
}


def find(dataset: str) -> tuple[RawDataset, str]:
    """Returns (dataset, config) of "name" or "name/config". Raises UserError for unknown ones."""
    name, _, config = dataset.partition("/")
    check_known(name, sorted(MODULES), f"unknown dataset '{dataset}' (config.data.dataset)")
    raw: RawDataset = importlib.import_module(MODULES[name]).DATASET
    if config and raw.configs:
        check_known(config, raw.configs, f"dataset '{name}' has no config '{config}'")
    return raw, config or next(iter(raw.configs), "")


def options_of(data: ConfigDict) -> Options:
    """The options that `config.data` gives."""
    return Options(data.data_dir, data.manual_dir, data.labels.path, data.labels.min_confidence)


def version(dataset: str) -> str:
    """Returns the dataset's version, followed by those of the datasets that it combines."""
    raw, config = find(dataset)
    return "-".join([raw.version, *map(version, raw.combines(config))])


def info(dataset: str) -> Info:
    """The dataset's description, with citation and licence of all datasets that it combines.

    Of those, the first has the texts, and so their labels.
    """
    raw, config = find(dataset)
    combined = [info(name) for name in raw.combines(config)]
    if not combined:
        return raw.info
    return dataclasses.replace(
        raw.info,
        citation="\n".join(one.citation for one in combined),
        license="; ".join(one.license for one in combined),
        homepage=" ".join(one.homepage for one in combined),
        labels=combined[0].labels,
        files=" ".join(one.files for one in combined),
    )


def layout(dataset: str) -> Layout:
    """Returns what the dataset's turns hold."""
    raw, config = find(dataset)
    return raw.layout(config)


def splits(dataset: str, options: Options) -> dict[str, Turns]:
    """Returns {split: turns}, train first, with pseudo-labels if the options name some.

    Raises UserError when files are missing.
    """
    raw, config = find(dataset)
    combined = [splits(name, options) for name in raw.combines(config)]
    opened = raw.splits(config, options, *combined)
    if options.labels_path and not combined:  # else what it combines has them
        opened = pseudo_labels.label(opened, _labels(options), options.min_confidence)
    return opened


def check_labels(datasets: Sequence[str], options: Options) -> None:
    """Raises UserError if there are pseudo-labels, and none is of an image of these datasets.

    One dataset is enough: the others may have labels of their own.
    """
    if not options.labels_path:
        return
    labels, seen = _labels(options).of, ""
    for dataset in itertools.chain(*map(_uncombined, datasets)):
        for turns in splits(dataset, options).values():
            for name in pseudo_labels.names(turns):
                if name in labels:
                    return
                seen = seen or name
    raise UserError(
        f"config.data.labels.path '{options.labels_path}' labels no image of {', '.join(datasets)}:"
        f" it has {len(labels)} names such as '{next(iter(labels), '')}', the images have names "
        f"such as '{seen}'. Label the dataset's own folder (igerg label --images=DIR)"
    )


def _uncombined(dataset: str) -> list[str]:
    """The datasets that a dataset combines, or itself."""
    raw, config = find(dataset)
    return [one for name in raw.combines(config) for one in _uncombined(name)] or [dataset]


def _labels(options: Options) -> pseudo_labels.Labels:
    return pseudo_labels.read(storage.local_path(options.labels_path))

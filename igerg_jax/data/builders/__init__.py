"""Datasets, one package each, and the plain table that names them.

A package holds VERSION, INFO, CONFIGS ({config: what it is}, the first the default; empty = any
name), `layout(config)` and `splits(config, options)`: cheap to import, and without TFDS. One that
reads nothing from a manual_dir says NEEDS_FILES = False. Beside it lies
`<name>_dataset_builder.Builder`, the same turns as a TFDS dataset.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import types
from typing import Any

from ml_collections import ConfigDict

from igerg_jax.data.builders import pseudo_labels
from igerg_jax.data.builders.source import Info, Layout, Options, Turns
from igerg_jax.errors import UserError

# {config.data.dataset up to its "/": package}
BUILDERS = {
    name: f"igerg_jax.data.builders.{name}"
    for name in (
        "chitchat_openmoji",
        "coco_captions",
        "daily_dialog",
        "emotion_folder",
        "empathetic_dialogues",
        "fer2013",
        "go_emotions",
        "image_chat",
        "meld",
        "openvidial",
        "paired",
    )
}


def package_of(dataset: str) -> tuple[types.ModuleType, str]:
    """Returns (package, config) of "name" or "name/config". Raises UserError for unknown ones."""
    name, _, config = dataset.partition("/")
    if name not in BUILDERS:
        known = ", ".join(sorted(BUILDERS))
        raise UserError(f"unknown dataset '{dataset}' (config.data.dataset); there are: {known}")
    package = importlib.import_module(BUILDERS[name])
    known = ", ".join(package.CONFIGS)
    if config and known and config not in package.CONFIGS:
        raise UserError(f"dataset '{name}' has no config '{config}'; there are: {known}")
    return package, config or next(iter(package.CONFIGS), "")


def options_of(data: ConfigDict) -> Options:
    """The options that `config.data` gives."""
    return Options(data.data_dir, data.manual_dir, data.labels.path, data.labels.min_confidence)


def version(dataset: str) -> str:
    """Returns the version of what the dataset's package reads."""
    package, config = package_of(dataset)
    made_of = f"-{package.versions(config)}" if hasattr(package, "versions") else ""
    return package.VERSION + made_of


def needs_files(dataset: str) -> bool:
    """Whether what the dataset holds depends on config.data.manual_dir."""
    package, _ = package_of(dataset)
    return getattr(package, "NEEDS_FILES", True)


def info(dataset: str) -> Info:
    """Returns what the dataset says about itself."""
    package, config = package_of(dataset)
    return package.info(config) if hasattr(package, "info") else package.INFO


def layout(dataset: str) -> Layout:
    """Returns what the dataset's turns hold."""
    package, config = package_of(dataset)
    return package.layout(config)


def splits(dataset: str, options: Options) -> dict[str, Turns]:
    """Returns {split: turns}, train first, with pseudo-labels where options name some.

    Raises UserError when files are missing.
    """
    package, config = package_of(dataset)
    found = package.splits(config, options)
    if options.labels_path:
        seen = pseudo_labels.read(pathlib.Path(options.labels_path).expanduser())
        least = options.min_confidence
        found = {n: pseudo_labels.Labelled(turns, seen, least) for n, turns in found.items()}
    return found


def make(dataset: str, options: Options) -> Any:
    """Returns the TFDS builder of `dataset`, writing ArrayRecord below options.data_dir."""
    package, config = package_of(dataset)
    name = dataset.split("/")[0]
    module = importlib.import_module(f"{package.__name__}.{name}_dataset_builder")
    chosen: Any = config or None
    if not package.CONFIGS and config:
        import tensorflow_datasets as tfds

        chosen = tfds.core.BuilderConfig(name=config.replace("/", "."), description=config)
        chosen.dataset_config = config
    folder = os.path.expanduser(options.data_dir)  # TFDS would make a folder "~"
    return module.Builder(
        data_dir=folder, config=chosen, file_format="array_record", options=options
    )

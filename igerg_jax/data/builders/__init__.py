"""TFDS builders, one package each, and the plain table that names them."""

from __future__ import annotations

import importlib
from typing import Any

from igerg_jax.errors import UserError

# {config.data.dataset up to its "/": package}. A package holds VERSION, cheap to import, and
# `<name>_dataset_builder.Builder`, a tfds.core.GeneratorBasedBuilder with one example a turn.
BUILDERS = {
    "chitchat_openmoji": "igerg_jax.data.builders.chitchat_openmoji",
}


def package_of(dataset: str) -> str:
    """Returns the package of `dataset` ("name" or "name/config"). Raises UserError if unknown."""
    name = dataset.split("/")[0]
    if name not in BUILDERS:
        known = ", ".join(sorted(BUILDERS))
        raise UserError(f"unknown dataset '{dataset}' (config.data.dataset); there are: {known}")
    return BUILDERS[name]


def version(dataset: str) -> str:
    """Returns the version of the dataset's builder, without importing TFDS."""
    return importlib.import_module(package_of(dataset)).VERSION


def make(dataset: str, data_dir: str) -> Any:
    """Returns the tfds builder of `dataset`, writing ArrayRecord below `data_dir`."""
    package = package_of(dataset)
    name, _, config = dataset.partition("/")
    module = importlib.import_module(f"{package}.{name}_dataset_builder")
    known = [c.name for c in module.Builder.BUILDER_CONFIGS]
    if config and config not in known:
        raise UserError(f"dataset '{name}' has no config '{config}'; there are: {', '.join(known)}")
    return module.Builder(data_dir=data_dir, config=config or None, file_format="array_record")

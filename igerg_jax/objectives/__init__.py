"""The pre-training objectives: one module each, and the table of all of them.

To add one, write its module beside these, give it a line in `MODULES` and its keys under
`config.objectives`. CONTRIBUTING.md has an example.
"""

import importlib
import operator
from collections.abc import Mapping
from typing import Any

from igerg_jax.errors import UserError
from igerg_jax.models.igerg import EMOTION_PARTS, OPTIONAL_PARTS
from igerg_jax.objectives.base import Objective

# {name: module with an `OBJECTIVE`}, in the order of reports.
MODULES = {
    "image_emotion": "igerg_jax.objectives.image_emotion",
    "sequence_emotion": "igerg_jax.objectives.sequence_emotion",
    "text_denoising": "igerg_jax.objectives.text_denoising",
    "text_emotion": "igerg_jax.objectives.text_emotion",
    "masked_multimodal": "igerg_jax.objectives.masked_multimodal",
    "emotional_response": "igerg_jax.objectives.emotional_response",
    "image_text_contrastive": "igerg_jax.objectives.image_text_contrastive",
}

OBJECTIVES: dict[str, Objective] = {
    name: importlib.import_module(module).OBJECTIVE for name, module in MODULES.items()
}


def active(config: Any) -> list[str]:
    """Names of the objectives with a nonzero weight, in the table's order."""
    return [name for name in OBJECTIVES if config.objectives[name].weight]


def parts(config: Any) -> tuple[str, ...]:
    """The optional parts of the model that a training run has.

    They are what active objectives train or read and, of a checkpoint that the run starts from,
    what evaluations predict emotions with.
    """
    used = set(_trained(config))
    for name in active(config):
        used.update(OBJECTIVES[name].reads(config.objectives[name]))
    if config.init_from:
        used.update(p for p in EMOTION_PARTS.values() if p in (config.init_parts or (p,)))
    return tuple(part for part in OPTIONAL_PARTS if part in used)


def trained(config: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree by the parts of the model, without the optional ones that nothing trains.

    Those have no optimizer state and are never updated.
    """
    left_out = set(OPTIONAL_PARTS).difference(_trained(config))
    return {name: part for name, part in tree.items() if name not in left_out}


def _trained(config: Any) -> list[str]:
    return [part for name in active(config) for part in OBJECTIVES[name].trains]


def need_reference(config: Any) -> bool:
    """Whether an active objective reads the parameters as training started."""
    return any(OBJECTIVES[name].needs_reference(config.objectives[name]) for name in active(config))


def fixed_keys(config: Any) -> dict[str, str]:
    """{config key that must be given, and must not change when a run resumes: why}."""
    keys: dict[str, str] = {}
    for name in active(config):
        keys |= OBJECTIVES[name].fixed_keys(config.objectives[name])
    return keys


def check(config: Any) -> None:
    """Raises UserError if there is nothing to train, or a setting is invalid."""
    if not active(config):
        raise UserError("every objective's weight is 0; there is nothing to train")
    for name, objective in OBJECTIVES.items():
        objective.check(config.objectives[name], config.model)
    for key, why in fixed_keys(config).items():
        if operator.attrgetter(key)(config) == -1:
            raise UserError(f"{key}=-1: {why}")

"""The pre-training objectives: one module each, and the table of all of them.

To add one, write its module beside these, give it a line in `MODULES` and its keys under
`config.objectives`. CONTRIBUTING.md has an example.
"""

import importlib
import operator
from typing import Any

from igerg_jax.errors import UserError
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

"""The pre-training objectives: one module each, and the table of all of them.

To add one, write its module beside these, import it here, add it to the table and to
README's, and give it its keys under
`config.objectives`. CONTRIBUTING.md has an example.
"""

import operator
from typing import Any

from igerg_jax.errors import UserError
from igerg_jax.objectives.base import Objective
from igerg_jax.objectives.emotional_response import EmotionalResponse
from igerg_jax.objectives.image_emotion import ImageEmotion
from igerg_jax.objectives.image_text_contrastive import ImageTextContrastive
from igerg_jax.objectives.masked_multimodal import MaskedMultimodal
from igerg_jax.objectives.sequence_emotion import SequenceEmotion
from igerg_jax.objectives.text_denoising import TextDenoising
from igerg_jax.objectives.text_emotion import TextEmotion

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        ImageEmotion(),
        SequenceEmotion(),
        TextDenoising(),
        TextEmotion(),
        MaskedMultimodal(),
        EmotionalResponse(),
        ImageTextContrastive(),
    )
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

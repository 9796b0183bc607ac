"""Preferring the response for the own face, after fine-tuning: DPO on the model's own responses.

    python main.py --config=configs/preference.py --config.init_from=runs/finetune-local

For each example two responses are drawn from the model of `init_from`, one for the response's
emotion and one for another; the first is to be preferred, given the face. The likelihood of
people's responses stays in the loss. Nothing is learnt where the decoder is conditioned on no
emotion (`paper`).
"""

from ml_collections import ConfigDict

from configs import finetune


def get_config(preset: str = "") -> ConfigDict:
    """Returns `finetune.get_config(preset)` with the preference in place of L_emotion."""
    config = own_responses(finetune.get_config(preset))
    config.name = "preference"
    if config.model.emotion_embedding != "none":
        config.objectives.emotional_response.preference_weight = 1.0  # not tuned
    return config


def own_responses(config: ConfigDict) -> ConfigDict:
    """What the stages after fine-tuning share: the judge rests, and steps are fewer and smaller."""
    config.objectives.text_emotion.weight = 0.0
    config.objectives.emotional_response.update(consistency_weight=0.0, contrast_weight=0.0)
    config.optim.peak_learning_rate /= 3
    steps = max(config.train.steps // 2, 1)
    config.train.update(steps=steps, evaluate_every_steps=0)
    config.optim.warmup_steps = min(config.optim.warmup_steps, steps // 10)
    return config

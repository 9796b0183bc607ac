"""Learning from whole responses of its own, after fine-tuning: a leave-one-out policy gradient.

    python main.py --config=configs/free_running.py --config.init_from=runs/finetune-local

For each example `policy_samples` responses are drawn; those that the judge finds to carry the
response's emotion, and that are fluent, become likelier. The judge and the model of fluency are
those of `init_from`. The likelihood of people's responses stays in the loss.
"""

from ml_collections import ConfigDict

from configs import finetune, preference


def get_config(preset: str = "") -> ConfigDict:
    """Returns `finetune.get_config(preset)` with the policy gradient in place of L_emotion."""
    config = preference.own_responses(finetune.get_config(preset))
    config.name = "free_running"
    # Small because this term adds up a response's tokens, and the likelihood averages over them.
    # It has not been tuned.
    config.objectives.emotional_response.policy_weight = 0.1
    return config

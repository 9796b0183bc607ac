"""Without `text_emotion`, and so without emotion consistency.

`text_emotion` trains the judge that reads the generated response. An untrained judge gives random
verdicts, so the consistency term is switched off too, which leaves plain maximum likelihood.

    python main.py --config=configs/ablations/no_text_emotion.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` without the judge's training and L_emotion."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_text_emotion"
    config.objectives.text_emotion.weight = 0.0
    config.objectives.emotional_response.consistency_weight = 0.0
    return config

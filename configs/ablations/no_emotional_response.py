"""Without `emotional_response`: the decoder never learns to respond.

The authors' code has this ablation ("without tso"). Only `text_denoising` still trains the
decoder, so fine-tune before comparing responses.

    python main.py --config=configs/ablations/no_emotional_response.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one change."""
    config = pretrain.get_config(preset)
    config.name = "ablations/no_emotional_response"
    config.objectives.emotional_response.weight = 0.0
    return config

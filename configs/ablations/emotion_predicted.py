"""In training too, the decoder is conditioned on the emotion that the image head predicts.

python main.py --config=configs/ablations/emotion_predicted.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with predictions in place of labels."""
    config = pretrain.get_config(preset)
    config.name = "ablations/emotion_predicted"
    config.objectives.emotional_response.emotion_source = "predicted"
    return config

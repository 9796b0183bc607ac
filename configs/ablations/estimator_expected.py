"""L_emotion through expected embeddings: e_t = softmax(z_t / tau) E_c.

The judge reads a mixture of words, which no text looks like, but its gradient has no bias.

    python main.py --config=configs/ablations/estimator_expected.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this one idea changed."""
    config = pretrain.get_config(preset)
    config.name = "ablations/estimator_expected"
    config.objectives.emotional_response.estimator = "expected"
    return config

"""L_emotion through expected embeddings: e_t = softmax(z_t / tau) E_c.

The judge reads mixtures of words, unlike any real text, but the gradient is unbiased.

    python main.py --config=configs/ablations/estimator_expected.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with this estimator."""
    config = pretrain.get_config(preset)
    config.name = "ablations/estimator_expected"
    config.objectives.emotional_response.estimator = "expected"
    return config

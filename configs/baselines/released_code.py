"""Baseline: what the authors' released code trains, where it differs from the paper.

Reproduced:
- the emotion loss uses argmax tokens and has no gradient; its judge is random, because it is
  re-initialised after loading and nothing in the run trains it;
- images carry no position, so the encoder cannot tell which face goes with which words;
- one token per image, post-LN layers, an unweighted sum of the four tasks, lambda = 1 throughout.
That code has neither text denoising nor the contrastive loss.

Not reproduced, as bugs in its data and loss code: training on padded targets, a skipped token id,
images mistaken for padding, images paired with the wrong turns.

    python main.py --config=configs/baselines/released_code.py[:preset]
"""

from ml_collections import ConfigDict

from configs import pretrain, pretrain_presets

TASKS = ("image_emotion", "sequence_emotion", "masked_multimodal", "emotional_response")


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)`, changed to match the released code."""
    config = pretrain.get_config(preset)
    config.name = "baselines/released_code"
    config.model.turn_embeddings = False
    config.model.vision.tokens_per_image = 1
    config.model.text.norm_first = False
    pretrain_presets.without_emotion_conditioning(config)
    for name, settings in config.objectives.items():
        settings.weight = 1.0 if name in TASKS else 0.0
    config.objectives.emotional_response.update(
        estimator="detached",
        consistency_weight=1.0,
        consistency_start_step=0,
        consistency_ramp_steps=0,
    )
    return config

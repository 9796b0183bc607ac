"""The context from the response: the second model of MMI re-ranking.

    python main.py --config=configs/backward.py
    igerg evaluate --config=configs/pretrain.py --config.generate.strategy=beam \\
        --config.generate.mmi_checkpoint=runs/backward-local --config.generate.mmi_weight=0.037

It reads words alone, and shares data and tokenizer with the run whose beams it re-ranks. Perplexity
is that of people's contexts; it responds to nothing.
"""

from ml_collections import ConfigDict

from configs import pretrain, pretrain_presets


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` with context and response exchanged, learnt by
    maximum likelihood alone."""
    config = pretrain.get_config(preset)
    config.name = "backward"
    data = config.data
    data.update(reverse=True, use_images=False)
    data.context_tokens, data.response_tokens = data.response_tokens, data.context_tokens
    config.init_from, config.init_parts = "", ()
    config.model.vision.frozen = False  # no tower is needed
    for name, settings in config.objectives.items():
        settings.weight = 1.0 if name == "emotional_response" else 0.0
    config.objectives.emotional_response.consistency_weight = 0.0
    pretrain_presets.without_emotion_conditioning(config)
    config.evaluate.update(generated_examples=0, following_examples=0, progress_examples=0)
    config.generate.examples = 0
    return config

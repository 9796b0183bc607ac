"""Real words and real faces: MELD's dialogues, each turn with a FER2013 face of its emotion.

    python -m igerg_jax.data.prepare --config=configs/meld_fer2013.py --manual_dir=DIR
    python main.py --config=configs/meld_fer2013.py --config.data.manual_dir=DIR

DIR holds train_sent_emo.csv and dev_sent_emo.csv of MELD (or its folder MELD.Raw) and
fer2013.zip; docs/data.md says where they come from. The local model, so that it trains on a CPU.

Measured on two cores that had other work as well, 9 minutes, seed 0, on the `valid` split: image
emotion 0.455 (majority class 0.420), response perplexity 44.8 (unigram model 235.7), emotion of the
response 0.359 (0.375). It shows that the parts fit: 800 steps teach a small tower little of real
faces.
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` on this data."""
    config = pretrain.get_config(preset)
    config.name = "meld_fer2013"
    config.data.dataset = "paired/meld+fer2013"
    # Neither test part is in the files named above. With test_sent_emo.csv there: "test".
    config.data.test_split = "valid"
    if config.preset == "local":
        config.data.image_size = 48  # what the faces have
        config.train.update(steps=800, evaluate_every_steps=400, checkpoint_every_steps=400)
        config.evaluate.generated_examples = 64
        config.generate.examples = 16
    return config

"""Real words and real faces: MELD's dialogues, each turn with a FER2013 face of its emotion.

    igerg prepare --config=configs/meld_fer2013.py --manual_dir=DIR
    python main.py --config=configs/meld_fer2013.py --config.data.manual_dir=DIR

DIR holds MELD's train_sent_emo.csv and dev_sent_emo.csv (or its folder MELD.Raw) and
fer2013.zip; docs/data.md says where to get them. The default preset is small enough for a CPU.

One run (seed 0, 9 minutes on two cores that were shared with other work) gave, on `valid`: image
emotion accuracy 0.455 (majority class 0.420), response perplexity 44.8 (unigram model 235.7),
response emotion accuracy 0.359 (majority class 0.375). It shows that the parts fit together; 800
steps teach a small vision tower little about real faces.
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(preset: str = "") -> ConfigDict:
    """Returns `pretrain.get_config(preset)` on this data."""
    config = pretrain.get_config(preset)
    config.name = "meld_fer2013"
    config.data.dataset = "paired/meld+fer2013"
    # The files named above include no test split. Once test_sent_emo.csv is there, use "test".
    config.data.test_split = "valid"
    config.data.extra_test_splits = ()
    config.data.augment.crop_min_area = 0.8
    if config.preset == "local":
        config.data.image_size = 48  # pixels per side, as FER2013 has them
        config.train.update(steps=800, evaluate_every_steps=400, checkpoint_every_steps=400)
        config.evaluate.generated_examples = 64
        config.generate.examples = 16
    return config

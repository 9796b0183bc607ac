"""GoEmotions: Reddit comments, each an example by itself, with the published mapping to seven.

A comment whose labels all map to one of the seven has that emotion; others are unlabelled.
"""

from typing import Any

from igerg_jax.batch import UNKNOWN
from igerg_jax.data.builders import source
from igerg_jax.data.builders.source import SPLIT_OF
from igerg_jax.data.text_repair import decoded_line

INFO = source.Info(
    description="GoEmotions: 54,263 Reddit comments labelled with 27 emotions or neutral.",
    citation="""\
@inproceedings{demszky2020goemotions,
  title = {{GoEmotions}: A Dataset of Fine-Grained Emotions},
  author = {Demszky, Dorottya and Movshovitz-Attias, Dana and Ko, Jeongwoo and Cowen, Alan and
            Nemade, Gaurav and Ravi, Sujith},
  booktitle = {Proceedings of ACL}, year = {2020}
}""",
    license="Apache-2.0",
    homepage="https://github.com/google-research/google-research/tree/master/goemotions",
    labels="annotators",
    files="Nothing to fetch by hand: TFDS downloads 'goemotions'.",
    extra={"labels": (str, ())},
)
# goemotions/data/ekman_mapping.json of the homepage.
EKMAN = {
    "anger": "anger annoyance disapproval",
    "disgust": "disgust",
    "fear": "fear nervousness",
    "joy": "joy amusement approval excitement gratitude love optimism relief pride admiration "
    "desire caring",
    "sadness": "sadness disappointment embarrassment grief remorse",
    "surprise": "surprise realization confusion curiosity",
    "neutral": "neutral",
}
EMOTION_OF = source.emotion_ids(EKMAN)


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: comments}. Raises UserError when TFDS cannot fetch them."""
    examples_by_split = source.load_tfds("goemotions", options)
    return {SPLIT_OF[name]: Comments(examples) for name, examples in examples_by_split.items()}


class Comments(source.Turns):
    """The examples of TFDS's `goemotions`."""

    standalone = True

    def __init__(self, examples: Any):
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def row(self, i: int) -> dict:
        example = self._examples[i]
        labels = [name for name in EMOTION_OF if example[name]]
        text = decoded_line(example["comment_text"]).strip()
        return source.row(i, 0, text, one_of_seven(labels), labels=" ".join(labels))


def one_of_seven(labels: list[str]) -> int:
    """The emotion that all labels map to; UNKNOWN if there are several or none."""
    ids = {EMOTION_OF[name] for name in labels}
    return ids.pop() if len(ids) == 1 else UNKNOWN


DATASET = source.RawDataset(
    version="1.0.1",
    info=INFO,
    configs={"ekman": "The 28 labels mapped to the seven emotions."},
    layout=lambda config: source.Layout(images="no"),
    splits=splits,
    reads_manual_dir=False,
)

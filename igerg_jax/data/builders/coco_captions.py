"""COCO captions: photographs with descriptions, for the contrastive objective.

Each of an image's first five captions is an example by itself; the five share one image.
"""

from typing import Any

import numpy as np

from igerg_jax.data.builders import source
from igerg_jax.data.builders.source import SPLIT_OF
from igerg_jax.data.text_repair import decoded_line

INFO = source.Info(
    description="COCO 2014: 123,287 photographs with five captions each.",
    citation="""\
@article{chen2015microsoft,
  title = {Microsoft {COCO} Captions: Data Collection and Evaluation Server},
  author = {Chen, Xinlei and Fang, Hao and Lin, Tsung-Yi and Vedantam, Ramakrishna and
            Gupta, Saurabh and Dollar, Piotr and Zitnick, C. Lawrence},
  journal = {arXiv:1504.00325}, year = {2015}
}""",
    license="Captions: CC BY 4.0; photographs: Flickr's terms of use",
    homepage="https://cocodataset.org",
    labels="",
    files="""\
Nothing to fetch by hand: TFDS downloads 'coco_captions' (some 20 GB, and 25 GB once built).""",
    extra={},
)
CAPTIONS = 5


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: captions}. Raises UserError when TFDS cannot fetch them."""
    examples_by_split = source.load_tfds("coco_captions", options)
    return {
        SPLIT_OF.get(name, name): Captions(examples) for name, examples in examples_by_split.items()
    }


class Captions(source.Turns):
    """The captions of TFDS's `coco_captions`."""

    standalone = True
    labelled = False

    def __init__(self, examples: Any):
        self._examples = examples
        self._last: tuple[int, dict | None] = (-1, None)

    def __len__(self) -> int:
        return CAPTIONS * len(self._examples)

    def _example(self, i: int) -> dict:
        number = i // CAPTIONS
        if self._last[0] != number:  # an image's captions are read in succession
            self._last = (number, self._examples[number])
        return self._last[1]

    def row(self, i: int) -> dict:
        example = self._example(i)
        texts = example["captions"]["text"]
        text = texts[i % CAPTIONS % len(texts)] if len(texts) else b""
        name = example["image/filename"].decode()
        return source.row(i, 0, decoded_line(text).strip(), image_id=name)

    @property
    def image_keys(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.int64) // CAPTIONS

    def image(self, i: int) -> bytes:
        return bytes(self._example(i)["image"])


DATASET = source.RawDataset(
    version="1.0.1",
    info=INFO,
    configs={"karpathy": "The splits of Karpathy and Li; restval is a split of its own."},
    layout=lambda config: source.Layout(images="always"),
    splits=splits,
    reads_manual_dir=False,
)

"""OpenViDial: turns of films with the frame in which they are spoken, or its feature vector.

Words and images are joined by a turn's id, its line in the text file, never by the order of files:
blank lines count, and a missing or broken image does not shift the others.
"""

from __future__ import annotations

import pathlib

import numpy as np

from igerg_jax.data.builders import source
from igerg_jax.data.builders.openvidial import processed, raw

INFO = source.Info(
    description="""\
OpenViDial: dialogue turns of films and series with the frame that each is said in; 1.1 million
turns in v1, 5.6 million in v2. No turn is labelled with an emotion; pseudo-labels can be
given in config.data.labels.""",
    citation="""\
@article{meng2020openvidial,
  title = {{OpenViDial}: A Large-Scale, Open-Domain Dialogue Dataset with Visual Contexts},
  author = {Meng, Yuxian and Wang, Shuhe and Han, Qinghong and Sun, Xiaofei and Wu, Fei and
            Yan, Rui and Li, Jiwei},
  journal = {arXiv:2012.15015},
  year = {2020}
}
@article{wang2021openvidial2,
  title = {{OpenViDial} 2.0: A Larger-Scale, Open-Domain Dialogue Generation Dataset with Visual
           Contexts},
  author = {Wang, Shuhe and Meng, Yuxian and Li, Xiaoya and Sun, Xiaofei and Ouyang, Rongbin and
            Li, Jiwei},
  journal = {arXiv:2109.12761},
  year = {2021}
}""",
    license="None is given by its authors; the frames belong to the makers of the films",
    homepage="https://github.com/ShannonAI/OpenViDial",
    files="""\
Get them as https://github.com/ShannonAI/OpenViDial says. 'openvidial/v1' and
'openvidial/v2' need, for each split of train, valid and test that you have,
<split>.origin.txt, <split>.dialogue.jsonl and the folder <split>_images/ of <id>.jpg.
'openvidial/v1_features' needs <split>.src.txt, <split>.sent_num.npy, <split>.offsets.npy and
<split>.features.mmap; 'openvidial/v1_objects' needs <split>.objects.mmap and
<split>.objects_mask.mmap in place of the last. Put them there, in openvidial/v1/ (or v2),
if you have both versions.""",
    extra={"turn_id": (np.int64, ())},
)
SPLITS = ("train", "valid", "test")


def layout(config: str) -> source.Layout:
    width = {"features": processed.FEATURES, "objects": processed.OBJECT_FEATURES}
    _, _, kind = config.partition("_")
    return source.Layout("no", width[kind]) if kind else source.Layout("some")


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}. Raises UserError when files are missing or contradict each other."""
    version, _, kind = config.partition("_")
    text = "src.txt" if kind else "origin.txt"

    def present(folder: pathlib.Path) -> list[str]:
        return [split for split in SPLITS if (folder / f"{split}.{text}").exists()]

    folder = source.locate(options, f"openvidial/{version}", INFO, lambda f: bool(present(f)))
    if not kind:
        return {split: raw.RawTurns(folder, split) for split in present(folder)}
    return {split: processed.VectorTurns(folder, split, kind) for split in present(folder)}


DATASET = source.RawDataset(
    version="1.0.0",
    info=INFO,
    configs={
        f"{version}{layout}": f"OpenViDial {version}: {what}"
        for version in ("v1", "v2")
        for layout, what in (
            ("", "the frames themselves."),
            ("_features", "1,000 numbers a frame (a ResNet-50's logits)."),
            ("_objects", "2,048 numbers a frame: the mean over its up to 20 detected objects."),
        )
    },
    layout=layout,
    splits=splits,
)

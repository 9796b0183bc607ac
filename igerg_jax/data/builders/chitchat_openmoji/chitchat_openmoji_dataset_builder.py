"""TFDS builder of `chitchat_openmoji`: one example a turn, with a face that shows its emotion."""

from __future__ import annotations

import dataclasses
import io
import random
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from igerg_jax.batch import EMOTIONS
from igerg_jax.data.builders import chitchat_openmoji
from igerg_jax.data.builders.chitchat_openmoji import episodes, faces
from igerg_jax.data.progress import progress

_DESCRIPTION = """\
Two-person chats with a face a turn, for trying out emotion-aware dialogue models where nothing
can be downloaded but Python packages. The words are real: stretches of the BYU chit-chat dataset
that are rich in emotion. A turn's emotion is a weak label from a small cue lexicon, and its image
is an OpenMoji face of that emotion at a random place, size and turn. Chats and faces of one split
appear in no other. It shows that every part of a system works; it is not a benchmark.
"""

_CITATION = """\
@software{chitchat_dataset,
  author = {Myers, Will and Etchart, Tyler and Fulda, Nancy},
  title = {Conversational Scaffolding: An Analogy-based Approach to Response Prioritization in
           Open-domain Dialogs ({BYU} chit-chat dataset)},
  year = {2020},
  url = {https://github.com/BYU-PCCL/chitchat-dataset}
}
@misc{openmoji,
  author = {{OpenMoji contributors}},
  title = {{OpenMoji}: open-source emojis},
  url = {https://openmoji.org}
}
"""

_LICENSE = """\
Chats: MIT, BYU Perception, Control and Cognition Laboratory. Faces: CC BY-SA 4.0, "All emojis
designed by OpenMoji - the open-source emoji and icon project"; images made from them carry the
same licence.
"""

FACE_SEED = 0


@dataclasses.dataclass
class ChitchatConfig(tfds.core.BuilderConfig):
    """every_nth: keep one chat in this many (1 = all)."""

    every_nth: int = 1


class Builder(tfds.core.GeneratorBasedBuilder):
    """Examples come in the order of the dialogue; an episode's turns are consecutive."""

    VERSION = tfds.core.Version(chitchat_openmoji.VERSION)
    BUILDER_CONFIGS = [  # noqa: RUF012 (the name and the type are TFDS's)
        ChitchatConfig(name="full", description="All chats.", every_nth=1),
        ChitchatConfig(name="tiny", description="One chat in 16, for tests.", every_nth=16),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        side = faces.IMAGE_PIXELS
        features = {
            "episode": tfds.features.Scalar(np.int64, doc="Counts the split's episodes from 0."),
            "turn": tfds.features.Scalar(np.int32, doc="Position in the episode, from 0."),
            "conversation": tfds.features.Text(doc="Id of the chat the episode was cut from."),
            "speaker": tfds.features.Text(doc="Anonymous id of who speaks."),
            "text": tfds.features.Text(),
            "emotion": tfds.features.ClassLabel(names=EMOTIONS),
            "image": tfds.features.Image(shape=(side, side, 3), encoding_format="jpeg"),
            "glyph": tfds.features.Scalar(np.int32, doc="Unicode code point of the face."),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            homepage="https://github.com/BYU-PCCL/chitchat-dataset",
            citation=_CITATION,
            license=_LICENSE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # both sources are installed packages
        splits = episodes.by_split(self.builder_config.every_nth)
        return {split: self._generate_examples(split, found) for split, found in splits.items()}

    def _generate_examples(
        self, split: str, found: list[episodes.Episode]
    ) -> Iterator[tuple[int, dict]]:
        key = 0
        for number, episode in progress(list(enumerate(found)), f"drawing {split}", "episode"):
            for position, turn in enumerate(episode.turns):
                seed = f"{FACE_SEED}/{episode.conversation}/{episode.first_turn + position}"
                rng = random.Random(seed)
                glyph = faces.pick(split, turn.emotion, rng)
                yield (
                    key,
                    {
                        "episode": number,
                        "turn": position,
                        "conversation": episode.conversation,
                        "speaker": turn.speaker,
                        "text": turn.text,
                        "emotion": turn.emotion,
                        "image": io.BytesIO(faces.draw(glyph, rng)),
                        "glyph": ord(glyph),
                    },
                )
                key += 1

"""EmpatheticDialogues: a speaker tells a listener about an emotional situation.

The speaker's turns are labelled with the situation's emotion, mapped to the seven by
`EMOTION_OF_SITUATION`; the listener's turns are unlabelled.
"""

import collections
import pathlib
from typing import NamedTuple

from igerg_jax.batch import UNKNOWN
from igerg_jax.data import text_repair
from igerg_jax.data.builders import source
from igerg_jax.errors import UserError

INFO = source.Info(
    description="EmpatheticDialogues: 24,850 conversations about situations of 32 emotions.",
    citation="""\
@inproceedings{rashkin2019empathetic,
  title = {Towards Empathetic Open-domain Conversation Models: A New Benchmark and Dataset},
  author = {Rashkin, Hannah and Smith, Eric Michael and Li, Margaret and Boureau, Y-Lan},
  booktitle = {Proceedings of ACL}, year = {2019}
}""",
    license="CC BY-NC 4.0",
    homepage="https://github.com/facebookresearch/EmpatheticDialogues",
    labels="the emotion that the speaker was to write about",
    files="""\
Put train.csv, valid.csv and test.csv of empatheticdialogues.tar.gz there, in a folder
empatheticdialogues/ or empathetic_dialogues/; see
https://github.com/facebookresearch/EmpatheticDialogues.""",
    extra={"situation": (str, ()), "situation_emotion": (str, ())},
)
_MAPPING = {
    "joy": "joyful excited proud grateful hopeful confident content caring trusting faithful "
    "anticipating",
    "sadness": "sad lonely guilty disappointed devastated ashamed embarrassed sentimental "
    "nostalgic",
    "anger": "angry furious annoyed jealous",
    "fear": "afraid terrified anxious apprehensive",
    "surprise": "surprised impressed",
    "disgust": "disgusted",
    "neutral": "prepared",
}
EMOTION_OF_SITUATION = source.emotion_ids(_MAPPING)
_HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance"


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}. Raises UserError when files are missing or have another form."""

    def find(folder: pathlib.Path) -> dict[str, pathlib.Path]:
        return source.split_files((folder, folder / "empatheticdialogues"), "{}.csv")

    tables = source.locate(options, "empathetic_dialogues", INFO, find)
    return {split: source.ListedTurns(*_turns(_read(path))) for split, path in tables.items()}


class Row(NamedTuple):
    """What is read of a row of a table; `number` counts the utterances of a conversation."""

    conversation: str
    number: int
    feeling: str
    situation: str
    speaker: str
    text: str


def _read(path: pathlib.Path) -> list[Row]:
    """Reads a table. The files do not quote fields: a comma in a text is written _comma_."""
    lines = text_repair.lines(source.read_text(path))
    if not lines or not lines[0].startswith(_HEADER):
        raise UserError(f"'{path}' does not begin with {_HEADER}; is it the official file?")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        fields = [field.replace("_comma_", ",").strip() for field in line.split(",")[:6]]
        if len(fields) < 6:
            raise UserError(f"'{path}', line {number}: {len(fields)} columns, expected 6 or more")
        try:
            place = source.whole_number(fields[1], "utterance_idx")
        except ValueError as error:
            raise UserError(f"'{path}', line {number}: {error}") from error
        rows.append(Row(fields[0], place, *fields[2:]))
    return rows


def _turns(rows: list[Row]) -> tuple[list[dict], dict[str, int]]:
    """The turns of the conversations, in the order of their first rows, and remarks on them."""
    conversations: dict[str, dict[int, Row]] = collections.defaultdict(dict)
    for row in rows:
        conversations[row.conversation].setdefault(row.number, row)
    turns: list[dict] = []
    episode = empty = unknown = 0
    for by_number in conversations.values():
        utterances = [by_number[number] for number in sorted(by_number)]
        place = 0
        for row in utterances:
            if not row.text:
                empty += 1
                continue
            emotion = UNKNOWN
            if row.speaker == utterances[0].speaker:
                emotion = EMOTION_OF_SITUATION.get(row.feeling, UNKNOWN)
                unknown += emotion == UNKNOWN
            extra = {"situation": row.situation, "situation_emotion": row.feeling}
            turns.append(
                source.row(episode, place, row.text, emotion, speaker=row.speaker, **extra)
            )
            place += 1
        episode += place > 0
    repeated = len(rows) - sum(map(len, conversations.values()))
    return turns, {
        "rows repeat the ids of an earlier row and are left out": repeated,
        "utterances without words are left out": empty,
        "turns of the speaker have none of the 32 emotions; they stay unlabelled": unknown,
    }


DATASET = source.RawDataset(
    version="1.1.0",
    info=INFO,
    configs={"full": "All conversations."},
    layout=lambda config: source.Layout(images="no"),
    splits=splits,
)

"""MELD: utterances of the series Friends, each labelled with one of the seven emotions.

The ids in the official files, `<split>_sent_emo.csv`, have gaps: rows are sorted by dialogue and
utterance, turns are renumbered from 0, and the original ids are kept as further entries.
"""

from __future__ import annotations

import csv
import io
import pathlib
import re

import numpy as np

from igerg_jax.data.builders import source
from igerg_jax.data.builders.labels import emotion_id
from igerg_jax.data.builders.meld import frames
from igerg_jax.errors import UserError

INFO = source.Info(
    description="""\
MELD: 13,708 utterances of 1,433 dialogues of the series Friends, each with its speaker, one of
seven emotions, and a sentiment.""",
    citation="""\
@inproceedings{poria-etal-2019-meld,
  title = {{MELD}: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations},
  author = {Poria, Soujanya and Hazarika, Devamanyu and Majumder, Navonil and Naik, Gautam and
            Cambria, Erik and Mihalcea, Rada},
  booktitle = {Proceedings of ACL},
  year = {2019}
}""",
    license="GPL-3.0 (the dataset's repository); the clips belong to the makers of the series",
    homepage="https://affective-meld.github.io",
    files="""\
Put train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv (those that you have; at least one)
there, in a folder meld/ or MELD.Raw/; they are part of
https://github.com/declare-lab/MELD (data/MELD). 'meld/frames' also needs, in the same place,
frames/{train,dev,test}/dia<D>_utt<U>.jpg (or .png), or the official folders of clips train_splits,
dev_splits_complete and output_repeated_splits_test of MELD.Raw.tar.gz.""",
    extra={
        "dialogue_id": (np.int32, ()),
        "utterance_id": (np.int32, ()),
        "sentiment": (str, ()),
        "start_seconds": (np.float32, ()),
        "end_seconds": (np.float32, ()),
    },
)
_NAMES = {"train": "train", "dev": "valid", "test": "test"}
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}. Raises UserError when files are missing or have other columns."""
    folder = source.locate(options, "meld", INFO, lambda f: bool(_tables(f)))
    found = {}
    for name, path in _tables(folder).items():
        pictures = frames.find(path.parent, name, INFO) if config == "frames" else None
        found[_NAMES[name]] = MeldTurns(read(path), pictures)
    return found


def _tables(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    for place in (folder, folder / "MELD.Raw", folder / "MELD"):
        paths = {name: place / f"{name}_sent_emo.csv" for name in _NAMES}
        if found := {name: path for name, path in paths.items() if path.exists()}:
            return found
    return {}


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of one of the official files, sorted by dialogue and utterance."""
    reader = csv.DictReader(io.StringIO(source.read_mixed(path), newline=""))
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"'{path}' has no column {', '.join(missing)}; is it MELD's own file?")
    rows = list(reader)
    for number, row in enumerate(rows, 1):
        if None in (row[name] for name in _COLUMNS):
            raise UserError(f"'{path}', row {number} is cut: {row}")
        for name in ("Dialogue_ID", "Utterance_ID"):
            if not row[name].strip().isdecimal():
                raise UserError(f"'{path}', row {number}: {name} is '{row[name]}', not a number")
        if emotion_id(row["Emotion"]) is None:
            raise UserError(f"'{path}', row {number}: '{row['Emotion']}' is no emotion of MELD's")
    rows.sort(key=lambda row: (int(row["Dialogue_ID"]), int(row["Utterance_ID"])))
    return rows


def seconds(time: str | None) -> float:
    """Reads "HH:MM:SS,mmm" (or with a dot); NaN where it says something else."""
    match = re.fullmatch(r"\s*(\d+):(\d+):(\d+)[,.](\d+)\s*", time or "")
    if not match:
        return float("nan")
    hours, minutes, whole, fraction = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + int(whole) + float(f"0.{fraction}")


class MeldTurns(source.Turns):
    """Rows of `read`, with the frames or clips of `frames.find`, or None."""

    def __init__(self, rows: list[dict[str, str]], pictures: dict[str, pathlib.Path] | None):
        self._rows, self._pictures = rows, pictures
        ids = np.array([int(row["Dialogue_ID"]) for row in rows])
        starts = np.append(True, ids[1:] != ids[:-1])
        self._episode = np.cumsum(starts) - 1
        self._turn = np.arange(len(rows)) - np.flatnonzero(starts)[self._episode]

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, i: int) -> dict:
        row = self._rows[i]
        dialogue, utterance = int(row["Dialogue_ID"]), int(row["Utterance_ID"])
        return source.row(
            int(self._episode[i]),
            int(self._turn[i]),
            row["Utterance"].strip(),
            emotion_id(row["Emotion"]),
            speaker=row["Speaker"].strip(),
            image_id="" if self._pictures is None else self._name(i),
            dialogue_id=dialogue,
            utterance_id=utterance,
            sentiment=row["Sentiment"],
            start_seconds=seconds(row.get("StartTime")),
            end_seconds=seconds(row.get("EndTime")),
        )

    def _name(self, i: int) -> str:
        dialogue, utterance = (int(self._rows[i][f"{n}_ID"]) for n in ("Dialogue", "Utterance"))
        return f"dia{dialogue}_utt{utterance}"

    @property
    def image_keys(self) -> np.ndarray:
        if self._pictures is None:
            return super().image_keys
        return np.arange(len(self), dtype=np.int64)

    def image(self, i: int) -> bytes | None:
        path = self._pictures.get(self._name(i))
        if path is None:
            return None
        clip = path.suffix.lower() == frames.CLIP
        return frames.middle_frame(path) if clip else source.read_bytes(path)


DATASET = source.RawDataset(
    version="1.0.0",
    info=INFO,
    configs={
        "text": "The words and labels alone.",
        "frames": "With a still of every utterance, from a folder of frames or of the clips.",
    },
    layout=lambda config: source.Layout(images="some" if config == "frames" else "no"),
    splits=splits,
)

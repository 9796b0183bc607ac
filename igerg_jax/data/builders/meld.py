"""MELD: utterances of the series Friends, each labelled with one of the seven emotions.

The ids in the official files, `<split>_sent_emo.csv`, have gaps: rows are sorted by dialogue and
utterance, turns are renumbered from 0, and the original ids are kept as further entries.
"""

import csv
import importlib.util
import io
import os
import pathlib
import re

import numpy as np

from igerg_jax.data.builders import source
from igerg_jax.data.builders.source import emotion_id
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
  booktitle = {Proceedings of ACL}, year = {2019}
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
_SPLITS = ("train", "dev", "test")
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
# {MELD's name of a split: folders that may hold its frames or clips}
_FOLDERS = {
    "train": ("frames/train", "train_splits"),
    "dev": ("frames/dev", "frames/valid", "dev_splits_complete"),
    "test": ("frames/test", "output_repeated_splits_test"),
}
_CLIP = ".mp4"
_PICTURE = re.compile(r"(dia\d+_utt\d+)(\.\w+)")


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}. Raises UserError when files are missing or have other columns."""

    def find(folder: pathlib.Path) -> dict[str, pathlib.Path]:
        places = (folder, folder / "MELD.Raw", folder / "MELD")
        return source.split_files(places, "{}_sent_emo.csv", _SPLITS)

    turns = {}
    for name, path in source.locate(options, "meld", INFO, find).items():
        pictures = find_pictures(path.parent, name) if config == "frames" else None
        turns[source.SPLIT_OF[name]] = MeldTurns(read(path), pictures)
    return turns


def read(path: pathlib.Path) -> list[dict]:
    """Returns the rows of one of the official files, sorted by their ids, which become integers."""
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
            row[name] = int(row[name])
        if emotion_id(row["Emotion"]) is None:
            raise UserError(f"'{path}', row {number}: '{row['Emotion']}' is no emotion of MELD's")
    return sorted(rows, key=lambda row: (row["Dialogue_ID"], row["Utterance_ID"]))


def seconds(time: str | None) -> float:
    """Reads "HH:MM:SS,mmm" (or with a dot); NaN where it says something else."""
    match = re.fullmatch(r"\s*(\d+):(\d+):(\d+)[,.](\d+)\s*", time or "")
    if not match:
        return float("nan")
    hours, minutes, seconds, fraction = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


class MeldTurns(source.Turns):
    """Rows of `read`, with the frames or clips of `find_pictures`, or None."""

    def __init__(self, rows: list[dict], pictures: dict[str, pathlib.Path] | None):
        self._rows, self._pictures = rows, pictures
        self.image_per_turn = pictures is not None
        ids = np.array([row["Dialogue_ID"] for row in rows])
        starts = np.append(True, ids[1:] != ids[:-1])
        self._episode = np.cumsum(starts) - 1
        self._turn = np.arange(len(rows)) - np.flatnonzero(starts)[self._episode]

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, i: int) -> dict:
        row = self._rows[i]
        return source.row(
            int(self._episode[i]),
            int(self._turn[i]),
            row["Utterance"].strip(),
            emotion_id(row["Emotion"]),
            speaker=row["Speaker"].strip(),
            image_id=self._name(i) if self.image_per_turn else "",
            dialogue_id=row["Dialogue_ID"],
            utterance_id=row["Utterance_ID"],
            sentiment=row["Sentiment"],
            start_seconds=seconds(row.get("StartTime")),
            end_seconds=seconds(row.get("EndTime")),
        )

    def _name(self, i: int) -> str:
        return "dia{Dialogue_ID}_utt{Utterance_ID}".format_map(self._rows[i])

    def image(self, i: int) -> bytes | None:
        path = self._pictures.get(self._name(i))
        if path is None:
            return None
        return middle_frame(path) if path.suffix.lower() == _CLIP else source.read_bytes(path)


def find_pictures(folder: pathlib.Path, split: str) -> dict[str, pathlib.Path]:
    """Returns {"dia<D>_utt<U>": image or clip}. Raises UserError without a folder or a decoder."""
    place = source.first_existing(folder, _FOLDERS[split])
    if place is None:
        raise INFO.missing(f"there is no {' or '.join(_FOLDERS[split])} in '{folder}'")
    found: dict[str, pathlib.Path] = {}
    with os.scandir(place) as entries:
        for entry in entries:
            match = _PICTURE.fullmatch(entry.name)
            if match and match[2].lower() in (*source.IMAGE_SUFFIXES, _CLIP):
                found[match[1]] = pathlib.Path(entry.path)
    clips = any(path.suffix.lower() == _CLIP for path in found.values())
    if clips and importlib.util.find_spec("av") is None:
        raise UserError(f"'{place}' has clips, and PyAV reads them: pip install 'igerg_jax[video]'")
    return found


def middle_frame(path: pathlib.Path) -> bytes | None:
    """Returns the middle frame of a clip as JPEG; None without a frame, b"" for a broken clip."""
    import av

    try:
        with av.open(str(path)) as clip:
            stream = clip.streams.video[0]
            middle = (stream.duration or 0) // 2
            chosen = None
            for frame in clip.decode(stream):
                chosen = frame
                if frame.pts is not None and frame.pts >= middle:
                    break
            if chosen is None:
                return None
            out = io.BytesIO()
            chosen.to_image().save(out, "JPEG", quality=95)
            return out.getvalue()
    except (av.error.FFmpegError, IndexError):
        return b""


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

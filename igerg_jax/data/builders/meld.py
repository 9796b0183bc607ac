"""MELD: utterances of the series Friends, each labelled with one of the seven emotions.

The ids in the official files, `<split>_sent_emo.csv`, have gaps: rows are sorted by dialogue and
utterance, turns are renumbered from 0, and the original ids are kept as further entries.
"""

from __future__ import annotations

import collections
import importlib.util
import io
import itertools
import math
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from igerg_jax.data import image_files, image_gate
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
    labels="annotators",
    files="""\
Put train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv (those that you have; at least one)
there, in a folder meld/ or MELD.Raw/; they are part of
https://github.com/declare-lab/MELD (data/MELD). 'meld/frames' also needs, in the same place,
frames/{train,dev,test}/dia<D>_utt<U>.jpg (or .png, .webp, ...), or the official
folders of clips train_splits, dev_splits_complete and output_repeated_splits_test of
MELD.Raw.tar.gz.""",
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
_TIME = re.compile(r"(\d{1,3}):(\d{1,2}):(\d{1,2})[,.](\d{1,9})", re.ASCII)
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
    names, *values = [*source.csv_rows(path.name, source.read_text(path))] or [[]]
    names = [name.strip() for name in names]
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        raise UserError(f"'{path}' has no column {', '.join(missing)}; is it MELD's own file?")
    rows = [dict(itertools.zip_longest(names, row[: len(names)])) for row in values]
    for number, row in enumerate(rows, 1):
        if None in (row[name] for name in _COLUMNS):
            raise UserError(f"'{path}', row {number} is truncated: {source.shown(str(row))}")
        for name in ("Dialogue_ID", "Utterance_ID"):
            try:
                row[name] = source.whole_number(row[name], name)
            except ValueError as error:
                raise UserError(f"'{path}', row {number}: {error}") from error
        if emotion_id(row["Emotion"]) is None:
            raise UserError(
                f"'{path}', row {number}: '{source.shown(row['Emotion'])}' is not one of MELD's "
                "emotions"
            )
    return sorted(rows, key=lambda row: (row["Dialogue_ID"], row["Utterance_ID"]))


def seconds(time: str | None) -> float:
    """Reads "HH:MM:SS,mmm" (or with a dot); NaN for anything else."""
    match = _TIME.fullmatch((time or "").strip())
    if not match:
        return float("nan")
    hours, minutes, seconds, fraction = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


def _is_unread(time: str | None) -> bool:
    """Whether there is a time that `seconds` does not read."""
    return bool((time or "").strip()) and math.isnan(seconds(time))


class MeldTurns(source.Turns):
    """Rows of `read`, with the frames or clips of `find_pictures`, or None.

    Of rows with the same ids, the first is kept.
    """

    def __init__(self, rows: list[dict], pictures: Pictures | None):
        first: dict[tuple[int, int], dict] = {}
        for row in rows:
            first.setdefault((row["Dialogue_ID"], row["Utterance_ID"]), row)
        repeated, rows = len(rows) - len(first), list(first.values())
        unread = sum(any(map(_is_unread, (r.get("StartTime"), r.get("EndTime")))) for r in rows)
        remarks = {
            "rows repeat the ids of an earlier row and are left out": repeated,
            "utterances have times that cannot be read; of a clip its middle is shown": unread,
        }
        self.remarks = +collections.Counter(remarks)
        self._rows = rows
        self.image_per_turn = pictures is not None
        if pictures is not None:
            self._files = pictures.files
            names = {self._name(i) for i in range(len(rows))}
            unused = len(pictures.files.keys() - names)
            beside = collections.Counter({"pictures of utterances that no row has": unused})
            self.passed_over = +(pictures.passed_over + beside)
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
        path = self._files.get(self._name(i))
        if path is None:
            return None
        if path.suffix.lower() != _CLIP:
            return image_gate.read_file(path)
        row = self._rows[i]
        return middle_frame(path, seconds(row.get("EndTime")) - seconds(row.get("StartTime")))


class Pictures(NamedTuple):
    """{"dia<D>_utt<U>": image or clip}, and what was passed over (`Turns.passed_over`)."""

    files: dict[str, pathlib.Path]
    passed_over: collections.Counter[str]


def find_pictures(folder: pathlib.Path, split: str) -> Pictures:
    """Finds a split's pictures; an utterance's image is preferred to its clip.

    Raises UserError without a folder or a decoder.
    """
    place = source.first_existing(folder, _FOLDERS[split])
    if place is None:
        raise INFO.missing(f"there is no {' or '.join(_FOLDERS[split])} in '{folder}'")
    files: dict[str, pathlib.Path] = {}
    passed_over: collections.Counter[str] = collections.Counter()
    with os.scandir(place) as entries:
        names = sorted(e.name for e in entries if not image_files.is_hidden(e.name))
    for name in sorted(names, key=lambda name: name.lower().endswith(_CLIP)):
        path, match = place / name, _PICTURE.fullmatch(name)
        is_clip = path.suffix.lower() == _CLIP
        if path.is_dir():
            passed_over["folders that are not looked into"] += 1
        elif not is_clip and (reason := image_files.passed_over_reason(name)):
            passed_over[reason] += 1
        elif path.exists() and not path.is_file():
            passed_over[image_files.NOT_REGULAR] += 1
        elif not match:
            passed_over["pictures whose name is not dia<D>_utt<U>"] += 1
        elif match[1] in files:
            passed_over["pictures of an utterance that has one"] += 1
        else:
            files[match[1]] = path
    clips = any(path.suffix.lower() == _CLIP for path in files.values())
    if clips and importlib.util.find_spec("av") is None:
        raise UserError(f"'{place}' has clips, and PyAV reads them: pip install 'igerg_jax[video]'")
    return Pictures(files, passed_over)


def middle_frame(path: pathlib.Path, spoken_seconds: float = math.nan) -> bytes | None:
    """Returns the frame in the middle of an utterance as JPEG.

    Some clips last minutes longer than the utterance. None without a frame, b"" for a broken clip.

    Args:
      path: a clip, which begins with the utterance.
      spoken_seconds: how long it lasts; not a positive number = as long as the clip.
    """
    import av  # here: PyAV is optional

    try:
        # The format is named, since FFmpeg also has some that open other files.
        with av.open(str(path), format="mp4") as clip:
            stream = clip.streams.video[0]
            lasts = [float(stream.duration * stream.time_base)] if stream.duration else []
            lasts += [spoken_seconds] if spoken_seconds > 0 else []
            middle = min(lasts, default=0.0) / 2 / stream.time_base + (stream.start_time or 0)
            chosen = None
            for frame in clip.decode(stream):
                chosen = frame
                if frame.pts is not None and frame.pts >= middle:
                    break
            if chosen is None:
                return None
            out = io.BytesIO()
            chosen.to_image().save(out, "JPEG", quality=image_gate.JPEG_QUALITY)
            return out.getvalue()
    except Exception:  # FFmpeg's errors, and what their text or a picture of no size raises
        return b""


DATASET = source.RawDataset(
    version="1.1.0",
    info=INFO,
    configs={
        "text": "Only the words and labels.",
        "frames": "With a still of every utterance, from a folder of frames or of the clips.",
    },
    layout=lambda config: source.Layout(images="some" if config == "frames" else "no"),
    splits=splits,
)

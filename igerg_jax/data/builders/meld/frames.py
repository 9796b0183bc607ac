"""Stills of MELD's utterances, from a folder of frames or from the official clips."""

from __future__ import annotations

import importlib.util
import io
import os
import pathlib
import re

from igerg_jax.data.builders.source import IMAGE_SUFFIXES, Info, first_existing
from igerg_jax.errors import UserError

# {MELD's name of a split: folders that may hold its frames or clips}
_FOLDERS = {
    "train": ("frames/train", "train_splits"),
    "dev": ("frames/dev", "frames/valid", "dev_splits_complete"),
    "test": ("frames/test", "output_repeated_splits_test"),
}
CLIP = ".mp4"
_NAME = re.compile(r"(dia\d+_utt\d+)(\.\w+)")


def find(folder: pathlib.Path, split: str, info: Info) -> dict[str, pathlib.Path]:
    """Returns {"dia<D>_utt<U>": image or clip}. Raises UserError without a folder or a decoder."""
    place = first_existing(folder, _FOLDERS[split])
    if place is None:
        wanted = " or ".join(_FOLDERS[split])
        raise UserError(f"there is no {wanted} in '{folder}'. {' '.join(info.files.split())}")
    found: dict[str, pathlib.Path] = {}
    with os.scandir(place) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match and match[2].lower() in (*IMAGE_SUFFIXES, CLIP):
                found[match[1]] = pathlib.Path(entry.path)
    clips = any(path.suffix.lower() == CLIP for path in found.values())
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

"""Small made-up raw files in the exact layouts in which the datasets are distributed."""

import io
import pathlib
import zipfile

import numpy as np
from PIL import Image

FER_FOLDERS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
MELD_EMOTIONS = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
MELD_HEADER = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,"
    "StartTime,EndTime"
)


def jpeg(seed: int, side: int = 48, mode: str = "L") -> bytes:
    """A face-sized image, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", quality=90)
    return out.getvalue()


def put(path: pathlib.Path, data: bytes | str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def meld_csv(rows: list[tuple], encoding: str = "utf-8") -> bytes:
    """A MELD table; rows are (utterance, speaker, emotion, dialogue, utterance id)."""
    lines = [MELD_HEADER]
    for number, (text, speaker, emotion, dialogue, utterance) in enumerate(rows, 1):
        quoted = '"' + text.replace('"', '""') + '"'
        lines.append(
            f"{number},{quoted},{speaker},{emotion},neutral,{dialogue},{utterance},8,21,"
            '"00:16:16,059","00:16:21,731"'
        )
    return "\r\n".join(lines).encode(encoding) + b"\r\n"


def meld(folder: pathlib.Path, dialogues: int = 6) -> pathlib.Path:
    """Writes MELD.Raw/ with train and dev: four-turn dialogues that cover every emotion."""
    for seed, (name, count) in enumerate((("train", dialogues), ("dev", 2))):
        rows = []
        for d in range(count):
            for u in range(4):
                emotion = MELD_EMOTIONS[(4 * d + u + seed) % 7]
                rows.append((f"{name} words {d} {u}, yes", f"S{u % 2}", emotion, d, u))
        put(folder / "MELD.Raw" / f"{name}_sent_emo.csv", meld_csv(rows))
    return folder


def fer_names(per_emotion: int = 2) -> list[str]:
    """File names in Kaggle's zip; `test` holds both the public and the private test set."""
    names = []
    for number in range(per_emotion):
        for emotion in FER_FOLDERS:
            names.append(f"train/{emotion}/Training_{number:05d}{FER_FOLDERS.index(emotion)}.jpg")
            for usage in ("PublicTest", "PrivateTest"):
                names.append(f"test/{emotion}/{usage}_{number:05d}{FER_FOLDERS.index(emotion)}.jpg")
    return names


def fer_zip(folder: pathlib.Path, names: list[str] | None = None) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "fer2013.zip", "w") as archive:
        for seed, name in enumerate(names or fer_names()):
            archive.writestr(name, jpeg(seed))
    return folder


def damage_entries(path: pathlib.Path) -> None:
    """Repacks an archive the way Kaggle does, and overwrites the first bytes of each entry."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        starts = [i.header_offset + 30 + len(i.filename) for i in archive.infolist()]
    damaged = bytearray(path.read_bytes())
    for start in starts:
        damaged[start : start + 8] = b"\xff" * 8
    path.write_bytes(damaged)


def fer_csv(folder: pathlib.Path) -> list[tuple[int, np.ndarray, str]]:
    """Writes fer2013.csv; returns its rows (label, pixels, usage)."""
    rng = np.random.default_rng(0)
    usages = ["Training"] * 8 + ["PublicTest"] * 3 + ["PrivateTest"] * 2
    rows = [(i % 7, rng.integers(0, 256, 2304), usage) for i, usage in enumerate(usages)]
    lines = ["emotion,pixels,Usage"]
    lines += [f"{label},{' '.join(map(str, pixels))},{usage}" for label, pixels, usage in rows]
    put(folder / "fer2013.csv", "\n".join(lines) + "\n")
    return rows

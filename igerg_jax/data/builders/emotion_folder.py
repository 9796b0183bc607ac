"""Any folder of labelled images: <split>/<emotion>/*.jpg, or RAF-DB with its list.

`emotion_folder` reads manual_dir/emotion_folder or manual_dir itself; `emotion_folder/NAME`
reads manual_dir/NAME. Folders may have other datasets' names of emotions (happy, angry,
amusement, ...). Further names, such as numbers, are explained in a file emotions.json next to the
splits: {"folder name": "emotion", "8": null}; null leaves the images unlabelled.
"""

import collections
import os
import pathlib

from igerg_jax import storage
from igerg_jax.batch import EMOTION_ID, EMOTIONS, UNKNOWN
from igerg_jax.data import image_files, image_gate, text_repair
from igerg_jax.data.builders import labelled_folders, source
from igerg_jax.data.builders.source import SPLIT_OF, emotion_id
from igerg_jax.errors import UserError

INFO = source.Info(
    description="Labelled images from folders named by split and emotion, or RAF-DB's basic set.",
    citation="""\
@inproceedings{li2017reliable,
  title = {Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition
           in the Wild},
  author = {Li, Shan and Deng, Weihong and Du, JunPing},
  booktitle = {CVPR}, year = {2017}
}""",
    license="That of the images; RAF-DB: for research, on request from its authors",
    homepage="http://www.whdeld.net/RAF/model1.html (RAF-DB)",
    labels="",
    files="""\
Put the images there as <split>/<emotion>/*.jpg (or .png, .webp, .bmp, .tif, ...), with
splits named train, valid (val, dev) and test; or RAF-DB's folders
EmoLabel/list_patition_label.txt and Image/aligned (basic/ of the download).
'emotion_folder/NAME' reads the folder NAME there.""",
    extra={},
)
_LISTS = ("EmoLabel/list_patition_label.txt", "list_patition_label.txt")  # sic
_RAF_EMOTIONS = dict(zip("1234567", EMOTIONS, strict=True))  # the same order
MAPPING = "emotions.json"


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: images}. Raises UserError when no image or an unknown emotion is found."""

    def find(folder: pathlib.Path) -> pathlib.Path | None:
        lists = (f"{place}{name}" for place in ("", "basic/") for name in _LISTS)
        return (
            folder
            if labelled_folders.split_folders(folder) or source.first_existing(folder, lists)
            else None
        )

    if config:
        root = os.path.join(options.manual_dir, config) if options.manual_dir else ""
        options = source.Options(options.data_dir, root, "", 0.0)
    folder = source.locate(options, "emotion_folder", INFO, find)
    basic = folder / "basic" if (folder / "basic").is_dir() else folder
    if source.first_existing(basic, _LISTS):
        images, passed_over, repeated = _from_list(basic)
    else:
        images, passed_over = _from_folders(folder)
        repeated = collections.Counter()
    if not images:
        raise INFO.missing(f"there is no image in '{folder}'")
    return {
        split: source.StandaloneImages(
            images[split],
            lambda name: image_gate.read_file(folder / name),
            passed_over=passed_over.get(split),
            remarks={"lines name an image of an earlier line and are left out": repeated[split]},
        )
        for split in source.SPLITS
        if split in images
    }


def _from_folders(
    folder: pathlib.Path,
) -> tuple[dict[str, list[tuple[str, int]]], dict[str, collections.Counter[str]]]:
    """({split: (name, emotion) of its images}, {split: what was passed over})."""
    mapping = read_mapping(folder / MAPPING)
    labelled = labelled_folders.find(folder, lambda name: mapping.get(name, emotion_id(name)))
    if unknown := sorted(labelled.unknown):
        raise UserError(
            f"'{folder}': which emotions are {', '.join(map(repr, unknown))}? Write "
            f'{MAPPING} there, such as {{"{unknown[0]}": "joy"}}; the emotions are '
            f"{', '.join(EMOTIONS)}, and null for none of them"
        )
    images = {
        split: [(name, emotions[name]) for name in source.mixed_order(emotions)]
        for split, emotions in labelled.emotions.items()
    }
    passed_over: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for split, counts in labelled.passed_over.items():  # of a split without images, too
        passed_over[split if split in images else next(iter(images), "")].update(counts)
    return images, passed_over


def read_mapping(path: pathlib.Path) -> dict[str, int]:
    """Returns {folder name: emotion id or UNKNOWN} of emotions.json, empty without the file."""
    if not path.exists():
        return {}
    try:
        named = storage.from_json(source.read_text(path)).items()
    except (ValueError, AttributeError) as error:
        raise UserError(f"'{path}' is not a JSON object of names: {error}") from error
    for emotion in (value for _, value in named if value is not None):
        if not isinstance(emotion, str) or emotion not in EMOTION_ID:
            raise UserError(
                f"'{path}': {source.shown(repr(emotion))} is not an emotion; the emotions are: "
                f"{', '.join(EMOTIONS)}"
            )
    return {name: UNKNOWN if value is None else EMOTION_ID[value] for name, value in named}


def _from_list(
    folder: pathlib.Path,
) -> tuple[
    dict[str, list[tuple[str, int]]], dict[str, collections.Counter[str]], collections.Counter[str]
]:
    """RAF-DB: lines of `train_00001.jpg 5`; the aligned faces where there are any.

    Returns what `_from_folders` does, and {split: lines with an image of an earlier one}; images
    that are not in the list count for the first split.
    """
    path = source.first_existing(folder, _LISTS)
    aligned = (folder / "Image" / "aligned").is_dir()
    prefix = "basic/Image" if folder.name == "basic" else "Image"
    faces: dict[str, dict[str, int]] = {}
    repeated: collections.Counter[str] = collections.Counter()
    for number, line in enumerate(text_repair.lines(source.read_text(path)), 1):
        if not line.strip():
            continue
        try:
            name, label = line.rsplit(maxsplit=1)
            split, emotion = SPLIT_OF[name.split("_")[0]], _RAF_EMOTIONS[label]
        except (KeyError, ValueError) as error:
            shown = source.shown(line)
            raise UserError(f"'{path}', line {number}: '{shown}' is not RAF-DB's form") from error
        stem, dot, suffix = name.rpartition(".")
        image = f"aligned/{stem}_aligned{dot}{suffix}" if aligned else f"original/{name}"
        of_split = faces.setdefault(split, {})
        repeated[split] += f"{prefix}/{image}" in of_split
        of_split.setdefault(f"{prefix}/{image}", EMOTION_ID[emotion])
    images = {split: list(of_split.items()) for split, of_split in faces.items()}
    place = folder / "Image" / ("aligned" if aligned else "original")
    if not place.is_dir() or not images:
        return images, {}, repeated
    listing = image_files.find(place)
    listed = {name.rpartition("/")[2] for of_split in faces.values() for name in of_split}
    listing.passed_over["images that are not in the list"] = len(set(listing.names) - listed)
    return images, {next(iter(images)): listing.passed_over}, repeated


DATASET = source.RawDataset(
    version="1.2.1",
    info=INFO,
    configs={},  # any name: a folder of manual_dir
    layout=lambda config: source.Layout(images="always"),
    splits=splits,
)

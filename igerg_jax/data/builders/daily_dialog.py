"""DailyDialog: everyday dialogues, each turn labelled with one of the seven emotions."""

import pathlib
import sys
import zipfile

from igerg_jax.batch import EMOTION_ID, UNKNOWN
from igerg_jax.data.builders import source
from igerg_jax.errors import UserError

INFO = source.Info(
    description="DailyDialog: 13,118 human-written dialogues with an emotion a turn.",
    citation="""\
@inproceedings{li2017dailydialog,
  title = {{DailyDialog}: A Manually Labelled Multi-turn Dialogue Dataset},
  author = {Li, Yanran and Su, Hui and Shen, Xiaoyu and Li, Wenjie and Cao, Ziqiang and Niu, Shuzi},
  booktitle = {Proceedings of IJCNLP}, year = {2017}
}""",
    license="CC BY-NC-SA 4.0",
    homepage="http://yanran.li/dailydialog",
    files="""\
Put what ijcnlp_dailydialog.zip holds there (http://yanran.li/dailydialog): the archives
train.zip, validation.zip and test.zip, or their folders, such as train/dialogues_train.txt and
train/dialogues_emotion_train.txt.""",
    extra={},
)
_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
_EMOTIONS = ("neutral", "anger", "disgust", "fear", "joy", "sadness", "surprise")  # by number
_EMOTION_OF = {str(n): EMOTION_ID[name] for n, name in enumerate(_EMOTIONS)}
_END = "__eou__"


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}. Raises UserError when files are missing or contradict each other."""
    home = source.locate(options, "daily_dialog", INFO, _find_folder)
    return {
        ours: source.ListedTurns(_read(home, theirs))
        for theirs, ours in _SPLITS.items()
        if _has_split(home, theirs)
    }


def _find_folder(folder: pathlib.Path) -> pathlib.Path | None:
    places = (folder, folder / "ijcnlp_dailydialog")
    return next((p for p in places if any(_has_split(p, split) for split in _SPLITS)), None)


def _has_split(home: pathlib.Path, split: str) -> bool:
    return (home / f"{split}.zip").exists() or (home / split / f"dialogues_{split}.txt").exists()


def _lines(home: pathlib.Path, split: str, kind: str) -> list[str]:
    """The lines of a file, from the folder or from the archive of its split."""
    name = f"{split}/{kind}_{split}.txt"
    try:
        if (home / name).exists():
            data = (home / name).read_bytes()
        else:
            with zipfile.ZipFile(home / f"{split}.zip") as archive:
                data = archive.read(name)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"'{home}' has no {name}, packed or not") from error
    return data.decode("utf-8").split("\n")


def _read(home: pathlib.Path, split: str) -> list[dict]:
    dialogues, emotions = (_lines(home, split, kind) for kind in ("dialogues", "dialogues_emotion"))
    rows, unlabelled = [], 0
    pairs = [pair for pair in zip(dialogues, emotions, strict=False) if pair[0].strip()]
    if len(pairs) != sum(bool(line.strip()) for line in dialogues):
        raise UserError(f"'{home}', {split}: fewer lines of emotions than of dialogues")
    for episode, (line, numbers) in enumerate(pairs):
        turns = [turn.strip() for turn in line.split(_END)[:-1]]
        unknown = [n for n in numbers.split() if n not in _EMOTION_OF]
        if unknown:
            raise UserError(f"'{home}', {split}: '{unknown[0]}' is no emotion, in line '{numbers}'")
        ids = [_EMOTION_OF[n] for n in numbers.split()]
        if len(ids) != len(turns):  # a few in the published files
            ids, unlabelled = [UNKNOWN] * len(turns), unlabelled + 1
        for place, (turn, emotion) in enumerate(zip(turns, ids, strict=True)):
            rows.append(source.row(episode, place, turn, emotion, speaker="AB"[place % 2]))
    if unlabelled:
        print(
            f"daily_dialog, {split}: {unlabelled} dialogues have more or fewer labels than turns; "
            "they stay unlabelled",
            file=sys.stderr,
        )
    return rows


DATASET = source.RawDataset(
    version="1.0.0",
    info=INFO,
    configs={"full": "All dialogues."},
    layout=lambda config: source.Layout(images="no"),
    splits=splits,
)

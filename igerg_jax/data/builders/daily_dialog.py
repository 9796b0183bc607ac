"""DailyDialog: everyday dialogues, each turn labelled with one of the seven emotions."""

import collections
import pathlib
import zipfile

from igerg_jax import storage
from igerg_jax.batch import EMOTION_ID, UNKNOWN
from igerg_jax.data import text_repair
from igerg_jax.data.builders import source
from igerg_jax.errors import UserError

INFO = source.Info(
    description="DailyDialog: 13,118 human-written dialogues with an emotion per turn.",
    citation="""\
@inproceedings{li2017dailydialog,
  title = {{DailyDialog}: A Manually Labelled Multi-turn Dialogue Dataset},
  author = {Li, Yanran and Su, Hui and Shen, Xiaoyu and Li, Wenjie and Cao, Ziqiang and Niu, Shuzi},
  booktitle = {Proceedings of IJCNLP}, year = {2017}
}""",
    license="CC BY-NC-SA 4.0",
    homepage="http://yanran.li/dailydialog",
    labels="annotators",
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
_MAX_BYTES = 1 << 28  # of an unpacked file; the largest has 6 MB


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}. Raises UserError when files are missing or contradict each other."""
    home = source.locate(options, "daily_dialog", INFO, _find_folder)
    return {
        ours: source.ListedTurns(*_read(home, theirs))
        for theirs, ours in _SPLITS.items()
        if _has_split(home, theirs)
    }


def _find_folder(folder: pathlib.Path) -> pathlib.Path | None:
    places = (folder, folder / "ijcnlp_dailydialog")
    return next((p for p in places if any(_has_split(p, split) for split in _SPLITS)), None)


def _has_split(home: pathlib.Path, split: str) -> bool:
    return (home / f"{split}.zip").exists() or (home / split / f"dialogues_{split}.txt").exists()


def _lines(home: pathlib.Path, split: str, kind: str) -> list[str]:
    """The non-blank lines of a file, from the folder or from the archive of its split.

    A blank line is not a dialogue: in only one of two files, it would shift the lines after it.
    """
    name = f"{split}/{kind}_{split}.txt"
    try:
        if (home / name).is_file():
            data = (home / name).read_bytes()
        else:
            storage.check_regular_file(home / f"{split}.zip")
            with zipfile.ZipFile(home / f"{split}.zip") as archive:
                if archive.getinfo(name).file_size > _MAX_BYTES:
                    raise UserError(
                        f"'{home / split}.zip': {name} is larger than any file of DailyDialog"
                    )
                data = archive.read(name)
    except UserError:
        raise
    except Exception as error:  # of several types: a damaged entry, an unknown compression
        raise UserError(f"'{home}' has no {name} that can be read, packed or not") from error
    return [line for line in text_repair.lines(text_repair.decoded(data)) if line.strip()]


def _read(home: pathlib.Path, split: str) -> tuple[list[dict], dict[str, int]]:
    """Returns the turns of a split, and the remarks on them."""
    dialogues, emotions = (_lines(home, split, kind) for kind in ("dialogues", "dialogues_emotion"))
    if len(dialogues) != len(emotions):
        raise UserError(
            f"'{home}', {split}: {len(dialogues)} dialogues, but {len(emotions)} lines of emotions"
        )
    rows: list[dict] = []
    remarks: collections.Counter[str] = collections.Counter()
    episode = 0
    for line, numbers in zip(dialogues, emotions, strict=True):
        labels = numbers.split()
        unknown = [n for n in labels if n not in _EMOTION_OF]
        if unknown:
            raise UserError(
                f"'{home}', {split}: '{unknown[0]}' is not an emotion, in line '{numbers}'"
            )
        turns = _turns(line, [_EMOTION_OF[n] for n in labels], remarks)
        for place, (turn, emotion) in enumerate(turns):
            rows.append(source.row(episode, place, turn, emotion, speaker="AB"[place % 2]))
        episode += bool(turns)
    return rows, remarks


def _turns(line: str, ids: list[int], remarks: collections.Counter[str]) -> list[tuple[str, int]]:
    """The turns of a dialogue with their emotions.

    Every turn ends with _END, which may be missing after the last. Empty ones are left out, whether
    or not they have labels.
    """
    *ended, last = (turn.strip() for turn in line.split(_END))
    turns = ended + [last] * bool(last)
    spoken = [turn for turn in turns if turn]
    remarks["empty turns are left out"] += len(turns) - len(spoken)
    if len(ids) == len(spoken):
        return list(zip(spoken, ids, strict=True))
    if len(ids) == len(turns):
        return [pair for pair in zip(turns, ids, strict=True) if pair[0]]
    remarks["dialogues have more or fewer labels than turns; they stay unlabelled"] += 1
    return [(turn, UNKNOWN) for turn in spoken]  # a few in the published files


DATASET = source.RawDataset(
    version="1.1.0",
    info=INFO,
    configs={"full": "All dialogues."},
    layout=lambda config: source.Layout(images="no"),
    splits=splits,
)

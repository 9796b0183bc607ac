"""OpenViDial: turns of films with the frame in which they are spoken, or its feature vector.

Words and images are joined by a turn's id, its line in the text file, never by the order of files:
blank lines count, and a missing or broken image does not shift the others. Vectors are in the order
of the lines of src.txt, where an episode is `sent_num` lines from `offsets` on.
"""

import collections
import functools
import pathlib

import numpy as np

from igerg_jax import storage
from igerg_jax.data import image_files, image_gate, text_repair
from igerg_jax.data.builders import source
from igerg_jax.errors import UserError

INFO = source.Info(
    description="""\
OpenViDial: dialogue turns of films and series with the frame that each is said in; 1.1 million
turns in v1, 5.6 million in v2. No turn is labelled with an emotion; pseudo-labels can be
given in config.data.labels.""",
    citation="""\
@article{meng2020openvidial,
  title = {{OpenViDial}: A Large-Scale, Open-Domain Dialogue Dataset with Visual Contexts},
  author = {Meng, Yuxian and Wang, Shuhe and Han, Qinghong and Sun, Xiaofei and Wu, Fei and
            Yan, Rui and Li, Jiwei},
  journal = {arXiv:2012.15015}, year = {2020}
}
@article{wang2021openvidial2,
  title = {{OpenViDial} 2.0: A Larger-Scale, Open-Domain Dialogue Generation Dataset with Visual
           Contexts},
  author = {Wang, Shuhe and Meng, Yuxian and Li, Xiaoya and Sun, Xiaofei and Ouyang, Rongbin and
            Li, Jiwei},
  journal = {arXiv:2109.12761}, year = {2021}
}""",
    license="None is given by its authors; the frames belong to the makers of the films",
    homepage="https://github.com/ShannonAI/OpenViDial",
    labels="",
    files="""\
Get them as https://github.com/ShannonAI/OpenViDial says. 'openvidial/v1' and
'openvidial/v2' need, for each split of train, valid and test that you have,
<split>.origin.txt, <split>.dialogue.jsonl and the folder <split>_images/ of <id>.jpg.
'openvidial/v1_features' needs <split>.src.txt, <split>.sent_num.npy, <split>.offsets.npy and
<split>.features.mmap; 'openvidial/v1_objects' needs <split>.objects.mmap and
<split>.objects_mask.mmap in place of the last. Put them there, in openvidial/v1/ (or v2),
if you have both versions.""",
    extra={"turn_id": (np.int64, ())},
)
FEATURES = 1000
OBJECTS, OBJECT_FEATURES = 20, 2048


def layout(config: str) -> source.Layout:
    width = {"": 0, "features": FEATURES, "objects": OBJECT_FEATURES}[config.partition("_")[2]]
    return source.Layout("no" if width else "some", width)


def splits(config: str, options: source.Options) -> dict[str, source.Turns]:
    """Returns {split: turns}. Raises UserError when files are missing or contradict each other."""
    version, _, kind = config.partition("_")

    def find(folder: pathlib.Path) -> dict[str, pathlib.Path]:
        return source.split_files([folder], "{}.src.txt" if kind else "{}.origin.txt")

    texts = source.locate(options, f"openvidial/{version}", INFO, find)
    if kind:
        return {split: VectorTurns(path.parent, split, kind) for split, path in texts.items()}
    return {split: RawTurns(path.parent, split) for split, path in texts.items()}


class Lines:
    """The lines of a text file by number, memory-mapped; blank ones count.

    Raises UserError for UTF-16 and UTF-32, whose lines do not end with one byte.
    """

    def __init__(self, path: pathlib.Path):
        try:
            storage.check_regular_file(path)
            with path.open("rb") as file:
                encoding, self._begin = text_repair.encoding(file.read(200))
        except OSError as error:
            raise UserError(f"cannot read '{path}': {error.strerror}") from error
        if encoding != "utf-8":
            raise UserError(f"'{path}' is in {encoding.upper()}: convert it to UTF-8")
        empty = path.stat().st_size == 0
        self._bytes = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
        ends = np.flatnonzero(self._bytes == ord("\n"))
        if not empty and self._bytes[-1] != ord("\n"):
            ends = np.append(ends, len(self._bytes))
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        start = self._ends[number - 1] + 1 if number else self._begin
        line = self._bytes[start : self._ends[number]].tobytes()
        return text_repair.decoded_line(line).strip()


class EpisodeTurns(source.Turns):
    """Turns that are lines of a text file, in the order of the dialogues.

    Args:
      lines: the words.
      ids: int64[turns], each turn's line.
      lengths: int64[episodes], the number of turns of each episode.
    """

    labelled = False

    def __init__(self, lines: Lines, ids: np.ndarray, lengths: np.ndarray):
        self._lines, self.ids = lines, ids
        lengths = lengths[lengths > 0]
        self._episode = np.repeat(np.arange(len(lengths)), lengths)
        self._start = np.cumsum(lengths) - lengths
        unused = np.ones(len(lines), bool)
        unused[ids] = False
        what = "lines of the text are in no dialogue; they are left out"
        self.remarks = {what: int(unused.sum())} if unused.any() else {}

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, i: int) -> dict:
        turn_id, episode = int(self.ids[i]), int(self._episode[i])
        place = i - int(self._start[episode])
        name = self.image_name(turn_id)
        return source.row(episode, place, self._lines[turn_id], image_id=name, turn_id=turn_id)

    def image_name(self, turn_id: int) -> str:
        """The `image_id` of the turn in that line."""
        return ""

    @property
    def image_keys(self) -> np.ndarray:
        return self.ids


class RawTurns(EpisodeTurns):
    """A split of <split>.origin.txt, <split>.dialogue.jsonl and <split>_images/<id>.jpg.

    Raises UserError for inconsistent files.
    """

    def __init__(self, folder: pathlib.Path, split: str):
        lines = Lines(folder / f"{split}.origin.txt")
        episodes = _episodes(folder / f"{split}.dialogue.jsonl", len(lines))
        ids = np.concatenate([*episodes, np.zeros(0, np.int64)])
        super().__init__(lines, ids, np.array([len(e) for e in episodes], np.int64))
        self._folder, self._split = folder, split
        if not (folder / f"{split}_images").is_dir():
            raise UserError(f"there is no folder '{folder / f'{split}_images'}' of <id>.jpg")

    def image_name(self, turn_id: int) -> str:
        return f"{self._split}_images/{turn_id}.jpg"

    @functools.cached_property
    def passed_over(self) -> collections.Counter[str]:
        """What else is in the folder; it is listed when somebody asks, for it has millions."""
        has_turn = np.zeros(len(self._lines), bool)
        has_turn[self.ids] = True

        def is_unnamed(name: str) -> bool:
            number = name.removesuffix(".jpg")
            if not (number.isascii() and number.isdecimal() and name == f"{int(number)}.jpg"):
                return True
            return int(number) >= len(has_turn) or not has_turn[int(number)]

        listing = image_files.find(self._folder / f"{self._split}_images", is_unnamed)
        others = collections.Counter({image_files.UNNAMED: len(listing.names)})
        return +(listing.passed_over + others)

    def image(self, i: int) -> bytes | None:
        return image_gate.read_file(self._folder / self.image_name(int(self.ids[i])))


def _episodes(path: pathlib.Path, lines: int) -> list[np.ndarray]:
    """The turn ids of each episode, int64[turns]."""
    if not path.exists():
        raise UserError(f"'{path}' is missing: it says which turns make up a dialogue")
    storage.check_regular_file(path)
    episodes = []
    with path.open("rb") as file:  # whose lines end only with "\n"
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                ids = storage.from_json(line)
                if not isinstance(ids, list) or not all(type(i) is int for i in ids):
                    raise ValueError("something other than whole numbers")
                # An array at once: millions of Python integers take far more memory.
                episode = np.array(ids, np.int64)
            except (ValueError, OverflowError) as error:
                raise UserError(f"'{path}', line {number}: not a list of turn ids") from error
            invalid = episode[(episode < 0) | (episode >= lines)]
            if len(invalid):
                raise UserError(
                    f"'{path}', line {number}: turn {invalid[0]} is out of range: the text has "
                    f"{lines} lines"
                )
            episodes.append(episode)
    return episodes


class VectorTurns(EpisodeTurns):
    """A split of <split>.src.txt, sent_num.npy, offsets.npy and vectors in .mmap files.

    Args:
      kind: "features": the frame's vector; "objects": the mean over its detected objects. A frame
        without objects counts as no image.

    Raises:
      UserError: a file is missing, or does not have as many turns as the text.
    """

    def __init__(self, folder: pathlib.Path, split: str, kind: str):
        lines = Lines(folder / f"{split}.src.txt")
        lengths, starts = (_array(folder / f"{split}.{n}.npy") for n in ("sent_num", "offsets"))
        fit = lengths.shape == starts.shape and (lengths >= 0).all() and (starts >= 0).all()
        if not fit or (starts + lengths).max(initial=0) > len(lines):
            raise UserError(
                f"'{folder}', {split}: sent_num.npy and offsets.npy do not fit the {len(lines)} "
                "lines of src.txt"
            )
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        super().__init__(lines, np.repeat(starts, lengths) + within, lengths)
        total, shape = len(lines), (FEATURES,)
        self._mask = None
        if kind == "objects":
            shape = (OBJECTS, OBJECT_FEATURES)
            self._mask = _map(folder / f"{split}.objects_mask.mmap", np.bool_, (total, OBJECTS))
        self._vectors = _map(folder / f"{split}.{kind}.mmap", np.float32, (total, *shape))

    @property
    def image_keys(self) -> np.ndarray:
        if self._mask is None:
            return self.ids
        return np.where(self._mask.any(axis=1)[self.ids], self.ids, source.NO_IMAGE)

    def features(self, i: int) -> np.ndarray:
        turn_id = int(self.ids[i])
        if self._mask is None:
            return np.array(self._vectors[turn_id])
        real = self._mask[turn_id]
        if not real.any():
            return np.zeros(OBJECT_FEATURES, np.float32)
        return self._vectors[turn_id][real].mean(axis=0)


def _array(path: pathlib.Path) -> np.ndarray:
    """int64[episodes] of a .npy file. Raises UserError for anything else in it."""
    storage.check_regular_file(path)
    try:
        stored = np.load(path)
        is_list = isinstance(stored, np.ndarray) and stored.ndim == 1 and stored.dtype.kind in "iuf"
        with np.errstate(invalid="ignore"):  # of a NaN, which equals nothing
            numbers = stored.astype(np.int64) if is_list else None
        if numbers is None or (numbers != stored).any():
            raise ValueError("it is not a list of whole numbers")
    except Exception as error:  # of several types: NumPy's, those of archives and pickles
        raise UserError(f"cannot read '{path}': {error}") from error
    return numbers


def _map(path: pathlib.Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    if not path.exists():
        raise UserError(f"'{path}' is missing")
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if path.stat().st_size != expected:
        raise UserError(
            f"'{path}' has {path.stat().st_size} bytes; the {shape[0]} lines of src.txt need "
            f"{expected}"
        )
    return np.memmap(path, dtype, "r", shape=shape) if expected else np.zeros(shape, dtype)


DATASET = source.RawDataset(
    version="1.0.3",
    info=INFO,
    configs={
        f"{version}{layout}": f"OpenViDial {version}: {what}"
        for version in ("v1", "v2")
        for layout, what in (
            ("", "the frames themselves."),
            ("_features", "1,000 numbers per frame (a ResNet-50's logits)."),
            ("_objects", "2,048 numbers per frame: the mean over its up to 20 detected objects."),
        )
    },
    layout=layout,
    splits=splits,
)

"""Files of any content that commands are given: they are read or refused, and nothing else."""

import copy
import json
import os
import pathlib
import shutil

import byte_pairs
import damage
import hypothesis
import made_up_run
import numpy as np
import properties
import pytest
import test_compare
import weight_files
from etils import epath
from hypothesis import strategies as st

from igerg_jax import text_labeller
from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.data import image_domain, tokenizers
from igerg_jax.errors import UserError
from igerg_jax.evaluation import samples
from igerg_jax.report import write_report
from igerg_jax.run import history
from igerg_jax.tools.compare import page, rows, table, text
from igerg_jax.tools.demo import questions
from igerg_jax.tools.human_eval import __main__ as human_eval
from igerg_jax.tools.human_eval import pairs
from igerg_jax.tools.runs import page as runs_page
from igerg_jax.tools.runs import status
from igerg_jax.tools.weights.sources import open_source


def put_weights(folder: pathlib.Path) -> None:
    weight_files.write(
        folder, weight_files.BART_CONFIG, weight_files.draw(weight_files.bart_shapes())
    )


def read_weights(folder: pathlib.Path) -> None:
    opened = open_source(str(folder), "")
    for name, shape in opened.shapes.items():
        assert opened.read(name).shape == shape


def put_labeller(folder: pathlib.Path) -> None:
    draw = np.random.default_rng(0).standard_normal
    labeller = text_labeller.Linear(
        words=("a", "b c"),
        characters=(" a",),
        idf_F=np.ones(3, np.float32),
        coefficients_FxC=draw((3, NUM_EMOTIONS)).astype(np.float32),
        intercepts_C=np.zeros(NUM_EMOTIONS, np.float32),
        held_out={"meld": {"test": {"examples": 3, "accuracy": 0.5}}},
    )
    text_labeller.write(folder / "labeller.npz", labeller)


def read_labeller(folder: pathlib.Path) -> None:
    p_NxC = text_labeller.read(folder / "labeller.npz").probabilities(["a b c", ""])
    np.testing.assert_allclose(p_NxC.sum(1), 1)


PIXELS_40x8x8x3 = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)


def put_domain(folder: pathlib.Path) -> None:
    half = len(PIXELS_40x8x8x3) // 2
    domain = image_domain.calibrate(PIXELS_40x8x8x3[:half], PIXELS_40x8x8x3[half:], 0.01)
    image_domain.write(domain, epath.Path(folder))


def read_domain(folder: pathlib.Path) -> None:
    domain = image_domain.read(epath.Path(folder))
    if domain is not None:
        outside = int(domain.outside(PIXELS_40x8x8x3).sum())
        assert f"{outside} of 40 images" in domain.warning(outside, 40)


def put_tokenizers(folder: pathlib.Path) -> None:
    byte_pairs.train(folder)
    words = [f"the cat {i} sat on the mat" for i in range(30)]
    tokenizers.train_sentencepiece(words, "bpe", 300).save(folder / "model")


def read_tokenizers(folder: pathlib.Path) -> None:
    for path in (folder / "tokenizer.json", folder / "vocab.json", folder / "model"):
        tokenizer = tokenizers.load(
            "sentencepiece" if path.name == "model" else "byte_level_bpe", path
        )
        ids = tokenizer.encode("the cat sat")
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        tokenizer.decode(ids)
        [tokenizer.piece(i) for i in ids]


KINDS = {
    "weights": (put_weights, read_weights),
    "text labeller": (put_labeller, read_labeller),
    "image domain": (put_domain, read_domain),
    "tokenizers": (put_tokenizers, read_tokenizers),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp("whole") for name in KINDS}
    for name, (put, read) in KINDS.items():
        put(folders[name])
        read(folders[name])
    return folders


PIPES = {
    "tokenizer.json": lambda path: tokenizers.load("byte_level_bpe", path),
    "tokenizer.model": lambda path: tokenizers.load("sentencepiece", path),
    "model": tokenizers.read,
    "model.safetensors": lambda path: open_source(str(path), ""),
    "arrays.npz": lambda path: open_source(str(path), ""),
    "config.json": lambda path: open_source(str(path.parent), ""),
}


@pytest.mark.parametrize("name", PIPES)
def test_a_pipe_is_not_waited_for(name, tmp_path):
    put_weights(tmp_path)
    path = tmp_path / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"cannot read '.*{name}': it is not a regular file"):
        PIPES[name](path)


@pytest.mark.parametrize("kind", KINDS)
@properties.examples(15)
@hypothesis.given(
    which=st.integers(0, 100),
    changes=damage.CHANGES,
    length=st.sampled_from([0, 0, 0, 1, 30, 10**6]),
    early=st.booleans(),
)
def test_a_mutated_file_is_read_or_refused(
    whole, tmp_path_factory, kind, which, changes, length, early
):
    folder = tmp_path_factory.mktemp("mutated", numbered=True)
    shutil.copytree(whole[kind], folder, dirs_exist_ok=True)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    path = files[which % len(files)]
    if early:  # headers, where most of what is read decides
        changes = [(place % 400, removed, piece) for place, removed, piece in changes]
    path.write_bytes(damage.mutated(path.read_bytes(), changes, length))
    try:
        KINDS[kind][1](folder)
    except UserError as error:
        assert str(error)
    shutil.rmtree(folder)


# JSON of a run, of a row, of a question: any value anywhere.


def places(value, path=()):
    """The path to every value in a JSON value, but to the third and later ones in a list."""
    yield path
    items: list = list(value.items()) if isinstance(value, dict) else []
    if isinstance(value, list):
        items = list(enumerate(value[:2]))
    for key, inner in items:
        yield from places(inner, (*path, key))


ANY = st.sampled_from(
    [None, True, 0, -1, 1.5, float("nan"), float("inf"), 1e12, 10**30, 10**400, "", "x", "<b>",
     [], [1], [[]], [None], {}, {"a": 1}, {"test": 3}, [{"a": []}], "9" * 400]
)  # fmt: skip


def put_anything(value, changes):
    value = copy.deepcopy(value)
    for number, anything in changes:
        found = list(places(value))
        *path, last = found[1 + number % (len(found) - 1)]
        inside = value
        for key in path:
            inside = inside[key]
        inside[last] = copy.deepcopy(anything)
    return value


CHANGES = st.lists(st.tuples(st.integers(0, 10_000), ANY), min_size=1, max_size=3)
RUN = {
    "config.json": {
        "name": "pretrain", "preset": "local", "seed": 0, "train": {"batch_size": 16},
        "data": {"dataset": "chitchat_peeps", "labels": {"path": ""}},
    },
    "summary.json": made_up_run.make_summary()
    | {"following_matrix": {"test": np.eye(7, dtype=int).tolist()}},
    "windows.json": {"test": test_compare.windows(count=14)},
    "history.json": [
        made_up_run.make_start(0, 20, "finished") | {"training_seconds": 5.0, "line_before": 3.0},
        made_up_run.make_start(20, 30, None) | {"training_seconds": 5.0, "line_before": 6.0},
    ],
    "metrics.jsonl": [
        record | {"training_seconds": 1.0} for record in made_up_run.make_records(40, 10)
    ],
    "progress.jsonl": [
        {"step": step, "index": 3, "turn": "how are you", "face": None, "reference": "fine",
         "reference_emotion": "joy", "generated": "well", "spoken_emotion": "joy"}
        for step in (20, 40)
    ],
}  # fmt: skip


def compared(paths) -> None:
    found = table.build(rows.read(paths), None)
    page.render(found, page.CURVES, pathlib.Path())
    text.markdown(found)
    text.comma_separated(found)


def watched(folder: pathlib.Path) -> None:
    (run,) = status.find(folder)
    runs_page.render([run], "runs")
    history.totals(history.read(epath.Path(folder)))
    samples.add_progress(30, made_up_run.make_samples(1), epath.Path(folder))


def put(path: pathlib.Path, content) -> None:
    """Writes JSON, or JSON Lines."""
    lines = content if path.suffix == ".jsonl" else [content]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@properties.examples(30)
@hypothesis.given(name=st.sampled_from(list(RUN)), changes=CHANGES)
def test_a_run_with_any_value_anywhere_is_shown_or_refused(tmp_path_factory, name, changes):
    folder = tmp_path_factory.mktemp("run", numbered=True)
    for file, content in RUN.items():
        content = put_anything(content, changes) if file == name else content
        put(folder / file, content)
    for use in (
        lambda: write_report(folder),
        lambda: compared([str(folder)]),
        lambda: watched(folder),
    ):
        try:
            use()
        except UserError as error:
            assert str(error)
    shutil.rmtree(folder)


CONVERSATIONS = {
    "samples.jsonl": made_up_run.make_samples(3),
    "following.jsonl": [
        {"index": 3, "context": made_up_run.make_samples(1)[0]["context"], "responses": [
            turn | {"generated": "a", "spoken_emotion": "joy"}
            for turn in made_up_run.make_samples(1)[0]["context"]
        ]},
    ],
}  # fmt: skip


@properties.examples(40)
@hypothesis.given(name=st.sampled_from(list(CONVERSATIONS)), changes=CHANGES)
def test_conversations_with_any_value_anywhere_are_shown_or_refused(
    tmp_path_factory, name, changes
):
    folder = tmp_path_factory.mktemp("conversations", numbered=True)
    (folder / "other").mkdir()
    rows = [row | {"generated": "other"} for row in CONVERSATIONS["samples.jsonl"]]
    put(folder / "other" / "samples.jsonl", rows)
    for file, content in CONVERSATIONS.items():
        put(folder / file, put_anything(content, changes) if file == name else content)
    write_report(folder)
    try:
        human_eval.render(pairs.pairs([str(folder), str(folder / "other")], 5, 0))
    except UserError as error:
        assert str(error)
    shutil.rmtree(folder)


@properties.examples(25)
@hypothesis.given(changes=CHANGES)
def test_a_row_with_any_value_anywhere_is_compared_or_refused(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("rows", numbered=True)
    rows.write(test_compare.make_row(), folder / "row.json")
    rows.write(test_compare.make_row("no_images"), folder / "other.json")
    row = put_anything(json.loads((folder / "row.json").read_text()), changes)
    (folder / "row.json").write_text(json.dumps(row))
    try:
        compared([str(folder / "row.json"), str(folder / "other.json")])
    except UserError as error:
        assert str(error)
    shutil.rmtree(folder)


QUESTION = {
    "turns": [{"text": "a", "pixels": None}, {"text": "b", "pixels": "AAAA"}],
    "face": "AAAA", "emotion": "joy", "guidance": 2.5, "strategy": "greedy", "draw": 0,
}  # fmt: skip


@properties.examples(50)
@hypothesis.given(
    data=st.one_of(
        st.binary(max_size=60),
        CHANGES.map(lambda changes: json.dumps(put_anything(QUESTION, changes)).encode()),
    )
)
def test_any_question_is_taken_or_refused(data):
    try:
        questions.question(data, 16)
    except UserError as error:
        assert str(error)

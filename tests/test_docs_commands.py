"""Every command in the docs runs here in miniature, or `covered_commands` says what covers it.

The commands run one after another in a folder that is laid out as the docs have it, each with the
overrides of that table appended. Those of a second or so run by default, the rest with

    ./launch/test.sh -m slow -n 0 tests/test_docs_commands.py
"""

import importlib
import io
import json
import pathlib
import re
import shlex
import sys

import docs_commands
import made_up_run
import numpy as np
import pytest
import raw_data
from covered_commands import COVERED, By, Here, Needs

from igerg_jax import text_labeller
from igerg_jax.cli import igerg

ROOT = docs_commands.ROOT

# What the docs write for something of the reader's own; folders called A, B, RUN and DIR are there.
STANDS_FOR = {
    "RUN RUN …": "A B",
    "=NAME": "=A",
    "--config=FILE": "--config=configs/pretrain.py",
    "--config=CONFIG.py": "--config=configs/pretrain.py",
    "--config=…": "--config=configs/pretrain.py",
    "--checkpoint=…": "",
    "--step=K": "",
    " …": "",
    "< lines.txt": "",
    "[": "",
    "]": "",
}

LABELLER = text_labeller.Linear(
    words=("the",),
    characters=(),
    idf_F=np.ones(1, np.float32),
    coefficients_FxC=np.zeros((1, 7), np.float32),
    intercepts_C=np.zeros(7, np.float32),
    held_out={},
)


def documented() -> dict[str, list[pathlib.Path]]:
    """{command: the pages that have it}."""
    found: dict[str, list[pathlib.Path]] = {}
    for page in docs_commands.PAGES:
        for command in docs_commands.commands_of(page):
            found.setdefault(command, []).append(page)
    return found


def of_kind(kind: type) -> dict:
    return {command: entry for command, entry in COVERED.items() if isinstance(entry, kind)}


def test_every_command_has_an_entry_and_every_entry_a_command():
    found = documented()
    assert len(found) > 100
    assert not [command for command in found if command not in COVERED], "say how it is covered"
    assert not [command for command in COVERED if command not in found], "no page has it any more"


@pytest.mark.parametrize("test", sorted({entry.test for entry in of_kind(By).values()}))
def test_the_tests_that_are_named_are_there(test):
    file, _, function = test.partition("::")
    assert (ROOT / file).exists()
    if function:
        assert f"\ndef {function}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", of_kind(Needs))
def test_the_page_says_what_a_command_needs(command):
    for page in documented()[command]:
        text = " ".join(page.read_text(encoding="utf-8").split())
        assert COVERED[command].what in text, page.name


def test_files_of_requirements_are_there():
    named = {name for command in COVERED for name in re.findall(r"requirements\S*\.txt", command)}
    assert len(named) > 4 and all((ROOT / name).exists() for name in named)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """A reader's folder: the configs, faces and raw data of their own, and two made-up runs."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("configs", "docs"):
        (folder / name).symlink_to(ROOT / name)
    for number, run in enumerate(("A", "B", "ablations-local/a", "ablations-local/b")):
        (folder / "runs" / run).mkdir(parents=True)
        made_up_run.fill(folder / "runs" / run)
        config = {"name": run, "preset": "local", "seed": number, "train": {"batch_size": 16}}
        (folder / "runs" / run / "config.json").write_text(json.dumps(config))
    (folder / "A").symlink_to(folder / "runs" / "A")
    (folder / "B").symlink_to(folder / "runs" / "B")
    answers = [json.loads(line) for line in (folder / "B/samples.jsonl").read_text().splitlines()]
    others = [answer | {"generated": f"{i} other words"} for i, answer in enumerate(answers)]
    made_up_run.write_lines(folder / "B" / "samples.jsonl", others)
    (folder / "RUN").symlink_to(folder / "runs" / "pretrain-local")
    for name in ("linear", "network"):
        text_labeller.write(folder / f"{name}.npz", LABELLER)
    raw_data.meld(folder / "DIR" / "meld")
    for split in ("train", "valid", "test"):
        for i, emotion in enumerate(raw_data.FER_FOLDERS):
            face = raw_data.jpeg(i, mode="RGB")
            raw_data.put(folder / "mine" / split / emotion / "001.jpg", face)
    (config,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/tutorial/own-data.md").read_text("utf-8"), re.DOTALL
    )
    config = config.replace("chitchat_peeps", "chitchat_peeps/tiny")
    (folder / "mine.py").write_text(config, "utf-8")
    return folder


def words_of(command: str, more: str) -> list[str]:
    """A command line, with overrides that are written without `--config.` appended."""
    for mark, meaning in STANDS_FOR.items():
        command = command.replace(mark, meaning)
    added = ["" if word[0] == "-" or "=" not in word else "--config." for word in more.split()]
    added = [prefix + word for prefix, word in zip(added, more.split(), strict=True)]
    return [*shlex.split(command), *added]


def call(words: list[str]) -> int:
    """Calls the main function of a command line in this process; returns the exit code."""
    program, *rest = words
    if program == "igerg":
        return igerg.main(words)
    if program == "python":
        program, *rest = rest[1:]
    module = {"main.py": "igerg_jax.cli.main"}.get(program, program)
    return importlib.import_module(module).main([program, *rest])


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.slow] if entry.slow else [])
        for command, entry in of_kind(Here).items()
    ],
)
def test_a_command_runs(command, place, data_dir, monkeypatch, capfd):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))  # for `from configs import pretrain`
    entry = COVERED[command]
    monkeypatch.setattr(sys, "stdin", io.StringIO(entry.stdin))
    code = call(words_of(command, entry.more.replace("DATA", str(data_dir))))
    said = capfd.readouterr()
    assert code == 0, said.err[-3000:]

"""The command `igerg`: every line of its table works, and a mistake is one message."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

from configs import pretrain
from igerg_jax.cli import igerg, main

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "--config=configs/pretrain.py"
STEPS = {preset: pretrain.get_config(preset).train.steps for preset in ("local", "small")}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def said(capsys, *arguments: str) -> str:
    assert igerg.main(["igerg", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *arguments: str) -> str:
    """The message of a command line that must fail with exit code 2."""
    assert igerg.main(["igerg", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("name", igerg.COMMANDS)
def test_every_command_explains_itself(capsys, name):
    text = said(capsys, name, "--help")
    assert f"igerg {name}" in text
    assert "python -m" not in text and "main.py" not in text


@pytest.mark.parametrize("name", igerg.COMMANDS)
def test_every_command_refuses_an_unknown_flag_by_name(capsys, name):
    needs_config = name in ("train", "evaluate", "generate", "chat", "compile", "prepare", "show")
    before = [CONFIG] if needs_config else ["import", CONFIG] if name == "weights" else []
    message = refused(capsys, name, *before, "--frobnicate=1")
    assert "frobnicate" in message


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_lists_its_commands(capsys, arguments):
    text = said(capsys, *arguments)
    for name, command in igerg.COMMANDS.items():
        assert re.search(f"^ +{name} +{re.escape(command.summary)}$", text, re.MULTILINE)


def test_every_mode_is_a_command():
    assert {command.mode for command in igerg.COMMANDS.values()} - {""} == set(main.MODES)
    for command in igerg.COMMANDS.values():
        assert callable(importlib.import_module(command.module).main)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["trian"], ["'trian'", "'igerg train'"]),
        (["frobnicate"], ["'frobnicate'", "evaluate"]),
        (["tr\nain"], [r"'tr\nain'", "'igerg train'"]),
        ([CONFIG], [f"igerg train {CONFIG}"]),
        (["train"], ["--config", "configs/pretrain.py"]),
        (["train", CONFIG, "--steps=20"], ["--steps", "did you mean --config.train.steps=20"]),
        (["train", CONFIG, "--train.steps=20"], ["did you mean --config.train.steps=20?"]),
        (["train", CONFIG, "steps=20"], ["'steps=20'", "--config.train.steps=20"]),
        (["train", CONFIG, "--batch-size=8"], ["--config.train.batch_size=8"]),
        (["train", CONFIG, "--workdri=8"], ["did you mean --workdir=8?"]),
        (["train", CONFIG, "--mode=evaluate"], ["igerg train", "leave --mode out"]),
        (["train", CONFIG, "--context=Hi"], ["--context", "igerg generate"]),
        (["chat", CONFIG, "--search"], ["--search", "igerg compile"]),
        (["train", "--checkpoint=small"], ["--config.init_from"]),
        (["generate", CONFIG, "--emotion=joy"], ["--emotion", "--context"]),
        (["config", "--config=configs/pretrian.py"], ["'configs/pretrian.py'", "pretrain.py"]),
        (["config", "--diff", "--base=mine.py"], ["'mine.py'"]),
        (["report"], ["name one workdir"]),
        (["report", "a", "b"], ["name one workdir"]),
        (["report", "nowhere"], ["there is no folder 'nowhere'"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_names_what_is_wrong(capsys, arguments, names):
    message = refused(capsys, *arguments)
    for name in names:
        assert name in message


def test_the_help_of_a_mode_has_its_flags_and_the_keys_of_the_config(capsys):
    train = said(capsys, "train", "--help", f"{CONFIG}:small")
    assert "--workdir:" in train and f"steps={STEPS['small']}" in train
    for other in ("--context:", "--topology:", "--checkpoint:", "--mode:"):
        assert other not in train
    assert "--context:" in said(capsys, "generate", "--help")


@pytest.mark.parametrize("mode", main.MODES)
def test_a_command_is_what_main_does_in_that_mode(monkeypatch, mode):
    ran = []
    monkeypatch.setattr(main, "run", lambda values: ran.append(values.flag_values_dict()))
    assert main.main(["main.py", f"--mode={mode}", CONFIG, "--config.seed=3"]) == 0
    assert igerg.main(["igerg", mode, CONFIG, "--config.seed=3"]) == 0
    assert ran[0] == ran[1] and ran[0]["mode"] == mode and ran[0]["config"].seed == 3


def test_config_prints_a_config(capsys):
    assert f"\ntrain.steps = {STEPS['local']}\n" in said(capsys, "config")
    text = said(capsys, "config", f"{CONFIG}:small", "--diff", "--config.seed=4")
    assert "seed = 4  # pretrain:local has 0" in text
    assert f"train.steps = {STEPS['small']}  # pretrain:local has {STEPS['local']}" in text
    width = "model.text.width = 192"  # in a config that was recorded with a checkpoint
    recorded = ("config", "--checkpoint=small", "--diff")
    assert width in said(capsys, *recorded)
    assert width not in said(capsys, *recorded, "--base=configs/pretrain.py:small")


def test_the_version(capsys):
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", said(capsys, "--version"))


def test_its_help_waits_for_no_heavy_import():
    code = """
import sys
from igerg_jax.cli import igerg
assert igerg.main(["igerg", "train", "--help"]) == igerg.main(["igerg", "config"]) == 0
print(sorted({"jax", "flax", "tensorflow"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--help", "config"])
def test_who_reads_may_stop_early(command, unbuffered, monkeypatch):
    """As `igerg config | head -1` does."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    words = [sys.executable, "-m", "igerg_jax.cli.igerg", command]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert done.returncode == 141 and done.stderr == ""

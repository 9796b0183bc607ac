"""Standard output that takes no more ends a command, with a line where somebody can mend it, and a
terminal that lacks a character shows a mark in its place."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
IGERG = (sys.executable, "-m", "igerg_jax.cli.igerg")
COMMANDS = [
    (*IGERG, "--help"),
    (*IGERG, "config"),
    (*IGERG, "train", "--help"),
    (sys.executable, "main.py", "--help"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[1:]))
def test_a_full_disk_behind_it_is_one_line(command):
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[1:]))
def test_a_reader_that_has_gone_is_no_mistake(command):
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_without_standard_output_there_is_nothing_to_say():
    done = subprocess.run(
        ["bash", "-c", '"$@" >&-', "bash", *IGERG, "config"], cwd=ROOT, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[1:]))
def test_a_terminal_that_lacks_a_character_shows_a_mark(command):
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    done.stdout.decode("ascii")
    if command == COMMANDS[0]:
        assert b"[--FLAG=VALUE ?]" in done.stdout

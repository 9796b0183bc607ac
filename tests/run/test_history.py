"""The record adds up over starts, and knows what a killed one did."""

import json
import math
import time

import pytest
from etils import epath

from igerg_jax.run import history


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


def log(folder, *lines) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        for step, wall, training in lines:
            line = {"step": step, "wall_seconds": wall, "training_seconds": training}
            file.write(json.dumps(line) + "\n")


def begin(folder, first_step, ago=0.0):
    return history.Start(folder, first_step, time.perf_counter() - ago, writes=True, seed=3)


def test_killed_stopped_and_finished_starts_add_up(folder):
    begin(folder, 0)
    log(folder, (10, 30.0, 20.0), (50, 100.0, 80.0))  # killed; the newest checkpoint is of step 40
    (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text() + '{"step": 5')
    second = begin(folder, 40, ago=60.0)
    with pytest.raises(SystemExit), second.recorded():
        (folder / "metrics.jsonl").unlink()  # cut to step 40, say
        log(folder, (60, 55.0, 40.0))
        raise SystemExit(143)
    third = begin(folder, 60, ago=50.0)
    with third.recorded():
        log(folder, (80, 45.0, 30.0))
    entries = history.read(folder)
    assert [e["stopped"] for e in entries] == ["killed", "SIGTERM", "finished"]
    assert [(e["first_step"], e["last_step"]) for e in entries] == [(0, 50), (40, 60), (60, 80)]
    assert [round(e["seconds"]) for e in entries] == [100, 60, 50]
    assert all(e["ended"] for e in entries[1:]) and entries[0]["ended"] is None
    total = history.totals(entries)
    assert (total["starts"], total["steps"], total["lost_steps"]) == (3, 80, 10)
    assert total["training_seconds"] == pytest.approx(80 * 40 / 50 + 40 + 30)
    assert total["goodput"] == pytest.approx(134 / 210, abs=1e-3)


def test_a_start_that_was_killed_before_its_first_step_did_none(folder):
    begin(folder, 0)
    log(folder, (50, 100.0, 80.0))
    begin(folder, 0)  # killed while it compiled: the lines are still those of the first
    begin(folder, 0)
    entries = history.read(folder)
    assert [e["last_step"] for e in entries] == [50, 0, 0]
    assert [e["training_seconds"] for e in entries] == [80, 0, 0]
    assert [e["seconds"] for e in entries] == [100, 0, 0]


def test_an_error_is_the_reason(folder):
    with pytest.raises(ValueError), begin(folder, 0).recorded():
        raise ValueError("loss is odd")
    (entry,) = history.read(folder)
    assert entry["stopped"] == "ValueError: loss is odd"
    assert entry["host"] and entry["command"] and entry["versions"]["python"] and entry["seed"] == 3


ENTRY = {"first_step": 0, "last_step": 4, "seconds": 9.0, "training_seconds": 7, "stopped": None}
DAMAGES = [("last_step", "x"), ("first_step", None), ("first_step", 5), ("last_step", 10**400)]
DAMAGES += [("seconds", "9"), ("seconds", [9]), ("training_seconds", math.nan), ("stopped", 3)]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1, null]", "7", '{"a": 1}', '[{"first_step": 1}]', "[" * 100_000, "\xff"]
    + [json.dumps([ENTRY | {key: value}]) for key, value in DAMAGES],
    ids=lambda content: content[:75],
)
def test_a_damaged_record_begins_anew(folder, content):
    (folder / "history.json").write_bytes(content.encode("latin-1"))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": "x", "wall_seconds": 1}) + "\n")
    with begin(folder, 5).recorded():
        log(folder, (7, 30.0, 20.0))
    entries = history.read(folder)
    assert [e["stopped"] for e in entries] == ["finished"]
    total = history.totals(entries)
    assert (total["starts"], total["steps"], total["training_seconds"]) == (1, 2, 20.0)


def test_a_whole_entry_is_kept(folder):
    (folder / "history.json").write_text(json.dumps([ENTRY]))
    with begin(folder, 4).recorded():
        pass
    assert [e["stopped"] for e in history.read(folder)] == ["killed", "finished"]


def test_only_the_writer_writes(folder):
    with history.Start(folder, 0, time.perf_counter(), writes=False).recorded():
        pass
    assert list(folder.iterdir()) == []

"""What guidance buys and costs, on a tiny run."""

import json
import math
import types

import numpy as np
import pytest
import random_run
import small

from igerg_jax import text_labeller
from igerg_jax.batch import EMOTIONS
from igerg_jax.decoding import search
from igerg_jax.run import checkpoint
from igerg_jax.text_labeller import Linear
from igerg_jax.tools import guidance_sweep

STRENGTHS, WINDOWS, BATCH = (0.0, 4.0), 3, 8


@pytest.fixture(scope="module")
def world(data_dir, tmp_path_factory):
    """(the run's folder, guidance.json, how often generation was traced, how often loaded)."""
    folder = tmp_path_factory.mktemp("run")
    config = small.with_pixels(small.make_config())
    config.data.update(dataset="chitchat_peeps/tiny", data_dir=str(data_dir))
    config.data.update(context_tokens=24, response_tokens=12)
    config.data.tokenizer.vocab_size = 512
    config.model.text.max_positions = 24
    config.evaluate.batch_size = BATCH
    config.generate.update(strategy="greedy", max_tokens=8, guidance_floor=0.0)
    random_run.save(config, folder)
    second = Linear(
        words=("the",),
        characters=(),
        idf_F=np.ones(1, np.float32),
        coefficients_FxC=np.zeros((1, 7), np.float32),
        intercepts_C=np.eye(7, dtype=np.float32)[EMOTIONS.index("joy")],
        held_out={"meld": {"valid": {"accuracy": 0.512, "examples": 10}}},
    )
    text_labeller.write(folder / "second.npz", second)
    traced, loaded = [], []
    with pytest.MonkeyPatch.context() as patch:
        generate, load = search.generate, checkpoint.load_params
        patch.setattr(search, "generate", lambda *a: traced.append(a) or generate(*a))
        patch.setattr(checkpoint, "load_params", lambda *a, **k: loaded.append(a) or load(*a, **k))
        arguments = [f"--workdir={folder}", f"--windows={WINDOWS}", "--guidance=4,0"]
        arguments += [f"--text_labeller={folder / 'second.npz'}"]
        assert guidance_sweep.main(["", *arguments]) == 0
    return folder, json.loads((folder / "guidance.json").read_text()), len(traced), len(loaded)


def test_one_program_for_all_strengths_and_one_checkpoint(world):
    """Three windows with seven faces are three batches, and there is one more; a second program
    is given the emotions to respond with."""
    _, found, traced, loaded = world
    assert (traced, loaded) == (2, 1)
    assert [point["guidance"] for point in found["points"]] == list(STRENGTHS)


def test_points_say_what_was_measured(world):
    _, found, _, _ = world
    plain, guided = found["points"]
    for point in (plain, guided):
        assert all(map(math.isfinite, point.values()))
        # Joy whatever the words: right for one of seven faces.
        assert point["emotion_following_second"] == pytest.approx(1 / 7)
        assert point["emotion_asked_second"] == pytest.approx(1 / 7)
        assert 1 < point["emotion_asked_distinct"] <= 7
        assert point["reference_dist_2"] == found["people"]["dist_2"]
    for name in ("response_perplexity", "generated_perplexity"):
        # A random model is surer of its own without guidance, and of people's less with it.
        assert plain[name] < guided[name]
    assert plain["generated_perplexity"] < plain["response_perplexity"]
    assert found["text_labeller"]["second"][Linear.kind]["meld"]["valid"]["accuracy"] == 0.512
    assert (found["split"], found["windows"], found["following_windows"]) == ("test", 3, 3)


def test_the_report_shows_them(world):
    folder, found, _, _ = world
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "What guidance buys and costs" in page
    for point in found["points"]:
        assert f"<td>{point['generated_perplexity']:.1f}</td>" in page
    assert "accuracy 0.512" in page


POINT = {
    "guidance": 1.0,
    "emotion_following": 0.5,
    "generated_perplexity": 20.0,
    "response_perplexity": 50.0,
    "dist_2": 0.3,
}


@pytest.fixture
def measured(monkeypatch):
    """The command line of a sweep, apart from --workdir, whose measurements are made up."""
    split = types.SimpleNamespace(num_windows=WINDOWS)
    dataset = types.SimpleNamespace(split_names=("test",), split=lambda name: split)
    run = types.SimpleNamespace(setup=None, params=None, dataset=dataset)
    found = {"points": [POINT], "people": {}, "following_windows": WINDOWS}
    monkeypatch.setattr(guidance_sweep.checks, "check_inference", lambda config: None)
    monkeypatch.setattr(guidance_sweep.trained_run, "open_run", lambda *_: run)
    evaluator = types.SimpleNamespace(labellers={})
    monkeypatch.setattr(guidance_sweep, "Evaluator", lambda *_: evaluator)
    monkeypatch.setattr(guidance_sweep, "measure", lambda *_: found)
    return ["", "--checkpoint=small"]


def test_another_folder_than_the_runs_is_created(measured, tmp_path):
    new = tmp_path / "new" / "dir"
    assert guidance_sweep.main([*measured, f"--workdir={new}"]) == 0
    assert json.loads((new / "guidance.json").read_text())["points"] == [POINT]
    assert "What guidance buys and costs" in (new / "report.html").read_text(encoding="utf-8")


def test_what_took_minutes_is_printed_before_it_is_written(measured, tmp_path, monkeypatch, capsys):
    def write(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(guidance_sweep.storage, "write_text", write)
    assert guidance_sweep.main([*measured, f"--workdir={tmp_path}"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("guidance 1: following 0.500") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--workdir is missing"),
        (["--workdir=none", "--guidance=0"], "has no checkpoints"),
        (["--workdir=none", "--guidance=0,x"], "numbers separated by commas"),
        (["--workdir=none", "--guidance=-1"], "at least 0"),
        (["--workdir=none", "--guidance=nan"], "at least 0"),
        (["--workdir=/proc/new", "--checkpoint=small"], "cannot create workdir '/proc/new'"),
    ],
)
def test_what_is_wrong_is_said(arguments, says, capsys):
    assert guidance_sweep.main(["", *arguments]) == 2
    assert says in capsys.readouterr().err

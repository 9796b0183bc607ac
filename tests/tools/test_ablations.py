"""All ablations in a row: a stand-in for main.py leaves what a run does; one test really trains."""

import json
import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest

from igerg_jax import checks
from igerg_jax.run import config_files, full_config
from igerg_jax.tools import ablations
from igerg_jax.tools.compare import rows

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
from ml_collections import ConfigDict

def get_config(preset=""):
    if preset.partition("+")[0] not in ("local", "large"):
        raise ValueError(f"unknown preset '{preset}'")
    return ConfigDict(dict(name=NAME, preset=preset, seed=0, train=dict(batch_size=4, steps=10)))
"""
# Notes how it was called; fails, hangs or writes a summary, as the files beside it say.
MAIN = """
import json, os, pathlib, signal, sys, time
flags = dict(a[2:].split("=", 1) for a in sys.argv[1:])
workdir, here = pathlib.Path(flags["workdir"]), pathlib.Path()
with (here / "calls").open("a") as calls:
    calls.write(workdir.name + "\\n")
(here / f"{workdir.name}.flags").write_text(json.dumps(sys.argv[1:]))
workdir.mkdir(parents=True, exist_ok=True)
if (here / "hang").exists():
    signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), os._exit(143)))
    (here / "ready").write_text("")
    time.sleep(30)
if workdir.name.startswith("broken") and not (here / "mended").exists():
    print("error: the data has holes\\nmore", file=sys.stderr)
    sys.exit(2)
if workdir.name.startswith("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
values = {"response_perplexity": 100.0 + int(flags["config.seed"])}
summary = dict(final_step=10, devices="1 x cpu", wall_seconds=1, evaluation=dict(test=values))
if not workdir.name.startswith("silent"):
    (workdir / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def repository(tmp_path, monkeypatch) -> pathlib.Path:
    """A folder with main.py and four configs, in which the test runs."""
    (tmp_path / "main.py").write_text(MAIN)
    files = {
        "pretrain": "pretrain",
        "ablations/broken": "ablations/broken",
        "ablations/no_images": "ablations/no_images",
        "baselines/text_only": "baselines/text_only",
    }
    for file, name in files.items():
        add_config(tmp_path, file, name)
    monkeypatch.chdir(tmp_path)
    # They have only the keys that this test needs.
    monkeypatch.setattr(full_config, "check", lambda config, full, file: None)
    monkeypatch.setattr(checks, "check_values", lambda config: None)
    return tmp_path


def add_config(folder: pathlib.Path, file: str, name: str) -> None:
    path = folder / "configs" / f"{file}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CONFIG.replace("NAME", repr(name)))


def start(*arguments: str) -> int:
    return ablations.main(["ablations", "--out=out", *arguments])


def read(title: str) -> rows.Row:
    return rows.of_file(pathlib.Path("out") / "rows" / f"{title}.json")


def calls() -> list[str]:
    path = pathlib.Path("calls")
    return path.read_text().split() if path.exists() else []


def test_every_config_runs_and_a_failure_stops_none(repository, capsys):
    assert start("--seeds=0,3", "--config.train.steps=10") == 1
    first = ["full-seed0", "broken-seed0", "no_images-seed0", "text_only-seed0"]
    assert calls() == first + [title.replace("seed0", "seed3") for title in first]
    assert "error: 2 of 8 rows failed: broken-seed0, broken-seed3" in capsys.readouterr().err
    row = read("full-seed3")
    assert (row.status, row.seed, row.steps, row.examples) == (rows.DONE, 3, 10, 40)
    assert row.evaluation["test"]["response_perplexity"] == 103
    assert row.overrides == ["--config.train.steps=10"] and row.config == "pretrain"
    assert row.hardware["devices"] == "1 x cpu" and row.hardware["cores"] >= 1
    assert row.workdir == str((repository / "out" / "full-seed3").resolve())
    assert row.wall_seconds > 0 and row.jax
    failed = read("broken-seed0")
    assert failed.status == rows.FAILED
    assert failed.message == "the data has holes (exit code 2)"
    for name in ("compare.html", "compare.md", "compare.csv"):
        assert "the data has holes" in (repository / "out" / name).read_text() or "csv" in name


def test_the_same_command_goes_on(repository, capsys):
    assert start("--only=full,broken") == 1
    spent, before = read("broken-seed0").wall_seconds, read("full-seed0")
    (repository / "mended").write_text("")
    assert start("--only=full,broken,text_only") == 0
    assert calls() == ["full-seed0", "broken-seed0", "broken-seed0", "text_only-seed0"]
    assert "full-seed0: finished before" in capsys.readouterr().err
    assert read("full-seed0") == before
    assert read("broken-seed0").status == rows.DONE
    assert read("broken-seed0").wall_seconds > spent


def test_pre_trains_fine_tunes_and_compares(repository, capsys):
    add_config(repository, "finetune", "finetune")
    add_config(repository, "baselines/no_pretraining", "baselines/no_pretraining")
    given = "--only=full,text_only,no_pretraining", "--finetune", "--config.name=faces"
    assert start(*given) == 0
    names = ["full-seed0-pretraining", "full-seed0", "text_only-seed0-pretraining"]
    assert calls() == [*names, "text_only-seed0", "no_pretraining-seed0"]
    flags = {name: json.loads((repository / f"{name}.flags").read_text()) for name in calls()}
    assert flags["full-seed0-pretraining"][0] == "--config=configs/pretrain.py:local"
    assert flags["full-seed0"][0] == "--config=configs/finetune.py:local"
    assert flags["text_only-seed0"][0] == "--config=configs/finetune.py:local+text_only"
    start_from = "--config.init_from=out/text_only-seed0-pretraining"
    # After the overrides, which say what pre-training starts from.
    assert flags["text_only-seed0"][-2:] == [start_from, "--workdir=out/text_only-seed0"]
    assert not any("init_from" in flag for flag in flags["no_pretraining-seed0"])
    assert (read("full-seed0").steps, read("full-seed0").examples) == (20, 80)
    assert (read("no_pretraining-seed0").steps, read("text_only-seed0").status) == (10, rows.DONE)
    digests = {read(f"{name}-seed0").digest for name in ("full", "text_only", "no_pretraining")}
    assert len(digests) == 3 and start(*given) == 0 and len(calls()) == 5
    assert start("--only=full", "--config.name=faces") == 2, "it was not fine-tuned"
    capsys.readouterr()
    assert start("--only=no_pretraining") == 2
    assert "add --finetune" in capsys.readouterr().err


def test_stages_after_fine_tuning_start_from_the_full_one(repository, capsys):
    for name in ("finetune", *ablations.LATER):
        add_config(repository, name, name)
    names = ",".join(ablations.LATER)
    assert start("--finetune", f"--only={names}") == 0
    before = ["full-seed0-pretraining", "full-seed0"]
    assert calls() == [*before, "preference-seed0", *before, "free_running-seed0"]
    flags = json.loads((repository / "preference-seed0.flags").read_text())
    assert flags[0] == "--config=configs/preference.py:local"
    assert "--config.init_from=out/full-seed0" in flags
    row = read("preference-seed0")
    assert row.steps == 30 and row.config == "preference"  # so not the baseline
    digests = {read(f"{name}-seed0").digest for name in ablations.LATER}
    assert len(digests) == 2 and start("--finetune", f"--only={names}") == 0 and len(calls()) == 6
    (repository / "calls").unlink()
    assert start("--finetune", "--only=full") == 0 and calls() == before
    assert read("full-seed0").digest not in digests
    capsys.readouterr()
    assert start("--only=preference") == 2
    assert "add --finetune" in capsys.readouterr().err


def test_what_failed_to_pre_train_is_not_fine_tuned(repository):
    add_config(repository, "finetune", "finetune")
    assert start("--only=broken", "--finetune") == 1
    assert calls() == ["broken-seed0-pretraining"]
    assert read("broken-seed0").message == "the data has holes (exit code 2)"


def test_finished_rows_of_other_overrides_are_kept(repository, capsys):
    assert start("--only=full") == 0
    before = read("full-seed0")
    assert start("--only=full", "--config.train.steps=20") == 2
    assert "give another --out" in capsys.readouterr().err
    assert read("full-seed0") == before and calls() == ["full-seed0"]


def test_a_run_that_ends_without_figures_has_failed(repository):
    for name in ("killed", "silent"):
        add_config(repository, f"ablations/{name}", f"ablations/{name}")
    assert start("--only=killed,silent") == 1
    assert read("killed-seed0").message == "it printed nothing (killed by SIGKILL)"
    assert "no summary.json" in read("silent-seed0").message


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_stop_it_lets_the_run_save_and_goes_on_later(repository, number, code):
    (repository / "hang").write_text("")

    def stop():
        deadline = time.monotonic() + 60
        while not (repository / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        found = start("--only=full,no_images")
    except SystemExit as stopped:
        found = stopped.code
    thread.join()
    assert found == code
    assert "saved" in (repository / "out" / "logs" / "full-seed0.log").read_text()
    assert read("full-seed0").status == rows.INTERRUPTED and calls() == ["full-seed0"]
    (repository / "hang").unlink()
    assert start("--only=full,no_images") == 0
    assert read("full-seed0").status == rows.DONE and len(calls()) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--only=full,no_image"], "'no_image' is neither an ablation nor a baseline"),
        (["--preset=huge"], "unknown preset 'huge'"),
        (["--seeds=0,0"], "different numbers"),
        (["--seeds=x"], "whole numbers"),
        (["--seeds=3000000000"], "from 0 to 2147483647"),
        (["--config.seed=1"], "the seeds are --seeds"),
        (["--config.train.stepz=1"], "train.steps"),
        (["--config.train.steps=many"], "takes int values"),
        (["--sedes=1"], "sedes"),
    ],
)
def test_errors_are_one_message_before_anything_runs(repository, arguments, message, capsys):
    assert start(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not calls()


def test_wrong_values_are_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(ablations, "run_all", lambda *_: pytest.fail("it ran"))
    keys = ["--config.model.vision.kind=vti", "--config.train.steps=0"]
    arguments = ["ablations", f"--out={tmp_path / 'out'}", "--only=full,no_images", *keys]
    assert ablations.main(arguments) == 2
    first, second = sorted(capsys.readouterr().err.splitlines())  # each once, of two configs
    assert "model.vision.kind 'vti' is not one of" in first
    assert "train.steps=0 must be at least 1" in second
    assert not (tmp_path / "out").exists()


def test_a_flag_file_may_override_keys(repository, capsys):
    (repository / "flags").write_text("--config.train.stepz=1\n")
    assert start(f"--flagfile={repository / 'flags'}") == 2
    assert "unknown config key 'train.stepz'; the nearest are: train.steps" in (
        capsys.readouterr().err
    )
    (repository / "flags").write_text("--config.train.steps=11\n--only=full\n")
    assert start(f"--flagfile={repository / 'flags'}") == 0
    assert calls() == ["full-seed0"]


def test_one_process_at_a_time_works_in_a_folder(repository, capsys):
    with ablations.claimed(repository / "out"):
        assert start("--only=full") == 2
    assert f"'out' is in use by process {os.getpid()}" in capsys.readouterr().err
    assert start("--only=full,full") == 0 and calls() == ["full-seed0"]
    assert start("--out=main.py") == 2
    assert "cannot write to 'main.py'" in capsys.readouterr().err


def test_elsewhere_it_says_where_to_run_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert start() == 2
    assert "repository's root" in capsys.readouterr().err


@pytest.mark.parametrize("finetune", [False, True])
def test_seeds_and_places_are_one_line_and_settings_are_not(monkeypatch, finetune):
    monkeypatch.chdir(ROOT)

    def digest(seed, *overrides):
        planned = ablations.plan(["full"], [seed], "daily_dialog", overrides, finetune)
        return planned[0].digest

    assert digest(0) == digest(1) == digest(1, "--config.data.manual_dir=elsewhere")
    assert digest(0) != digest(0, "--config.optim.b1=0.8")


def test_the_real_configs_have_names_of_their_own(monkeypatch, tmp_path):
    """Also: the miniature's overrides are keys of every config, and change what they should."""
    monkeypatch.chdir(ROOT)
    files = ablations.config_files(finetune=True)
    there = [p for folder in ablations.FOLDERS for p in (ROOT / folder).glob("[a-z]*.py")]
    assert len(files) == len(there) + 1 and len(there) >= 20
    for name, file in files.items():
        assert rows.short_name(config_files.load(f"{file}:local").name) == name
    planned = ablations.plan(list(ablations.SMOKE_NAMES), [0], "local", ablations.SMOKE)
    assert [experiment.name for experiment in planned] == list(ablations.SMOKE_NAMES)
    for experiment in planned:
        assert experiment.config.data.dataset == "chitchat_peeps/tiny"
        assert experiment.config.data.extra_test_splits == ()
        assert experiment.config.train.steps < 10
    assert len({experiment.digest for experiment in planned}) == len(planned)
    names = [*files, *ablations.LATER]
    for experiment in ablations.plan(names, [0], "daily_dialog", [], finetune=True):
        assert len(experiment.configs) == len(experiment.runs(tmp_path))
        for config in experiment.configs:
            assert config["objectives"]["emotional_response"]["weight"] or config["name"] in (
                "ablations/no_emotional_response",
                "ablations/single_modal_only",
            )


@pytest.mark.slow
def test_the_miniature_trains_compares_and_is_not_repeated(tmp_path, data_dir):
    command = ["./launch/ablations.sh", "--smoke", "--seeds=0,1", f"--out={tmp_path / 'out'}"]
    command += [f"--config.data.data_dir={data_dir}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    kept = rows.read([str(tmp_path / "out")])
    assert len(kept) == 2 * len(ablations.SMOKE_NAMES)
    for row in kept:
        assert row.status == rows.DONE and row.steps == 6 and row.examples == 48
        assert len(row.windows["response"]["nll"]) == 32
        assert row.evaluation["test"]["response_perplexity"] > 1
        assert ("following" in row.windows) == (row.name != "text_only")
        assert (pathlib.Path(row.workdir) / "report.html").exists()
    page = (tmp_path / "out" / "compare.html").read_text("utf-8")
    assert page.count("report.html") == len(kept)
    assert "p = " in page or "p &lt; " in page
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and again.stderr.count("finished before") == len(kept)
    digests = {json.loads(p.read_text())["digest"] for p in (tmp_path / "out/rows").iterdir()}
    assert len(digests) == len(ablations.SMOKE_NAMES)

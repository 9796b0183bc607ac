"""The config that a run recorded, of this version or another, or changed by hand."""

import functools
import json
import os

import pytest
from etils import epath

from configs import pretrain
from igerg_jax import storage
from igerg_jax.cli import main
from igerg_jax.errors import UserError
from igerg_jax.run import (
    compatibility,
    config_files,
    history,
    recorded_config,
    weights_folder,
    workdirs,
)


def recorded():
    return workdirs.as_json(pretrain.get_config())


def changed(key, value):
    config = recorded()
    *groups, name = key.split(".")
    functools.reduce(dict.__getitem__, groups, config)[name] = value
    return config


def test_what_this_version_recorded_is_taken_as_it_is(capsys):
    config = recorded_config.for_this_version(recorded(), "config.json")
    assert workdirs.as_json(config) == recorded()
    assert not capsys.readouterr().err


def test_what_another_version_lacks_or_adds_is_named_once(capsys):
    config = recorded()
    del (
        config["data"]["reverse"],
        config["evaluate"],
        config["objectives"]["text_emotion"]["weight"],
    )
    config["generate"]["stratgy"] = config["generate"].pop("strategy")
    config["objectives"]["older"] = {"weight": 1.0}
    config["profile"] = None
    for _ in range(2):
        found = recorded_config.for_this_version(config, "their/config.json")
    assert workdirs.as_json(found) == recorded()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: the config in 'their/config.json' is of another version; ")
    lacks, unknown = line.split("; unknown keys are left out: ")
    for key in ("data.reverse", "evaluate.examples", "generate.strategy", "profile.steps"):
        assert key in lacks
    assert unknown == "objectives.older, generate.stratgy"


def test_all_values_of_another_type_are_named():
    config = changed("model.text.width", "wide") | {"optim": 3}
    config["data"]["mixtures"] = {"a": 1}
    config["data"]["data_dir"] = "a\0b"
    with pytest.raises(UserError) as error:
        recorded_config.for_this_version(config, "config.json")
    messages = error.value.messages
    assert all(message.startswith("the config in 'config.json': ") for message in messages)
    for part in (
        "model.text.width='wide'; it takes int",
        "optim=3 is not a group of keys",
        "data.mixtures.a is not a mixture",
        "data.data_dir='a\\x00b' holds a null",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("config", [None, [], {}, "x", 3, [["model", 1]]])
def test_what_is_no_config_is_refused(config):
    with pytest.raises(UserError, match=r"the config in 'config\.json' is not an object"):
        recorded_config.for_this_version(config, "config.json")


def differs(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"other {value}" if isinstance(value, str) else [*value, *value, 1]


def uses(workdir, config):
    """Which of resuming, evaluating in the workdir and loading its checkpoint are refused."""
    stored = json.loads((workdir / "config.json").read_text())
    refused = []
    for name, use in {
        "resume": lambda: workdirs.check(workdir, config),
        "evaluate": lambda: workdirs.check(workdir, config, training=False),
        "load": lambda: compatibility.check_same_model({"config": stored}, config, workdir),
    }.items():
        try:
            use()
        except UserError:
            refused.append(name)
    return refused


def test_a_run_from_before_a_key_existed_counts_as_one_with_its_default(tmp_path, monkeypatch):
    full = config_files.load_full()
    monkeypatch.setattr(config_files, "load_full", lambda: full)  # else thousands of times
    workdir, here = epath.Path(tmp_path), pretrain.get_config()
    file = workdir / "config.json"
    for key, value in workdirs.flatten(recorded()).items():
        *groups, name = key.split(".")
        older = recorded()
        del functools.reduce(dict.__getitem__, groups, older)[name]
        functools.reduce(dict.__getitem__, groups, older)["of_another_version"] = 1
        file.write_text(json.dumps(older))
        assert uses(workdir, here) == [], key
        # With another value here, it is refused exactly where the recorded default would be.
        other = pretrain.get_config()
        group = functools.reduce(getattr, groups, other)
        with group.ignore_type():
            group[name] = differs(value)
        without = uses(workdir, other)
        file.write_text(json.dumps(recorded()))
        assert without == uses(workdir, other), key


def test_a_key_that_a_checkpoint_lacks_changes_its_function_if_it_is_no_longer_as_it_was(tmp_path):
    older, config = recorded(), pretrain.get_config()
    del older["model"]["text"]["norm_first"]
    names = ("encoder/layers/0/norm",)
    compatibility.check_same_function({"config": older}, config, names, tmp_path)
    config.model.text.norm_first = not config.model.text.norm_first
    with pytest.raises(UserError, match="norm_first"):
        compatibility.check_same_function({"config": older}, config, names, tmp_path)


def test_the_workdir_of_another_version_is_named_once(tmp_path, capsys):
    older = recorded()
    del older["data"]["short_side"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    for training in (True, False):
        workdirs.check(epath.Path(tmp_path), pretrain.get_config(), training)
    (line,) = capsys.readouterr().err.splitlines()
    assert "is of another version" in line and line.endswith("data.short_side")


@pytest.fixture
def weights(tmp_path):
    """A copy of a model that comes with the package, without checksums, as older ones are."""
    for file in (weights_folder.SHIPPED / "small").iterdir():
        if file.name != "files.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def talk(folder):
    return main.main(["main.py", "--mode=generate", f"--checkpoint={folder}", "--context=Hi"])


@pytest.mark.parametrize(
    "key, value, says",
    [
        ("config.model.text.width", None, "does not fit this config: "),
        ("config.model.text.width", "x", "model.text.width='x'; it takes int values"),
        ("config.model.text.heads", [4], "model.text.heads=[4]; it takes int values"),
        ("config.model", "x", "model='x' is not a group of keys"),
        ("config", [1], "run.json' is damaged (it lacks config)"),
        ("config", {}, "is not an object with its keys"),
        ("step", "x", "run.json' is damaged (it lacks step)"),
        ("tokenizer_digest", None, "run.json' is damaged (it lacks tokenizer_digest)"),
    ],
)
def test_a_changed_record_is_one_message(weights, key, value, says, capsys):
    path = weights / "run.json"
    run = json.loads(path.read_text())
    *groups, name = key.split(".")
    functools.reduce(dict.__getitem__, groups, run)[name] = value
    if value is None:
        del functools.reduce(dict.__getitem__, groups, run)[name]
    path.write_text(json.dumps(run))
    assert talk(weights) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and says in errors[0]


def test_a_record_that_is_nested_too_deeply_is_one_message(weights, capsys):
    (weights / "run.json").write_text('{"config":' + "[" * 100_000)
    assert talk(weights) == 2
    assert "run.json' is damaged (it is nested too deeply)" in capsys.readouterr().err


def test_a_pipe_in_place_of_a_runs_file_is_not_waited_for(tmp_path):
    folder = epath.Path(tmp_path)
    for name in ("config.json", "run.json", "history.json", "metrics.jsonl"):
        os.mkfifo(tmp_path / name)
    for read in (
        lambda: recorded_config.get_config(str(folder)),
        lambda: workdirs.check(folder, pretrain.get_config()),
        lambda: weights_folder.read_run(folder),
        lambda: storage.read_json_object(folder / "config.json"),
        lambda: storage.read_json_lines(folder / "metrics.jsonl"),
    ):
        with pytest.raises(UserError, match=r"cannot read '.*': it is not a regular file"):
            read()
    assert history.read(folder) == []

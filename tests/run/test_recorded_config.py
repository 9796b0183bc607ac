"""The config that a run recorded, of this version or another, or changed by hand."""

import functools
import json

import pytest

from configs import pretrain
from igerg_jax.cli import main
from igerg_jax.errors import UserError
from igerg_jax.run import recorded_config, weights_folder, workdirs


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
        ("config.model.text.width", None, "of another model: model.text.width (there 'absent'"),
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

"""What `igerg config` and --help say about the keys of configs."""

import pytest

from igerg_jax.run import config_files, config_keys, workdirs


@pytest.fixture(scope="module")
def local():
    return config_files.load("configs/pretrain.py")


def test_every_key_is_read_from_the_source_once(local):
    names = [key.name for key in config_keys.documented()]
    assert sorted(names) == sorted([*workdirs.flatten(local), "data.mixtures"])


def test_every_comment_of_the_source_is_kept():
    source = (config_files.PACKAGED / "pretrain.py").read_text()
    inside = source.partition("def _all_keys()")[2].partition("\ndef ")[0]
    keys = config_keys.documented()
    said = [line for key in keys for line in [*key.above, key.beside] if line]
    assert sorted(said) == sorted(
        line.partition("# ")[2] for line in inside.splitlines() if "# " in line
    )


def test_comments_stay_with_their_keys(local):
    lines = config_keys.describe(local).splitlines()
    peak = next(line for line in lines if line.startswith("optim.peak_learning_rate"))
    assert peak == "optim.peak_learning_rate = 0.002  # lower for larger models: base uses 3e-4"
    i = lines.index("model.emotion_embedding = 'both'")
    assert lines[i - 1].startswith("# Where the decoder is conditioned")
    i = next(i for i, line in enumerate(lines) if line.startswith("train.batch_size"))
    assert lines[i - 2 : i] == ["", "# The training loop."]


def test_values_are_those_of_the_config_at_hand(local):
    config = local.copy_and_resolve_references()
    config.train.steps = 12_345
    with config.unlocked():
        config.of_my_own = "new"
    text = config_keys.describe(config)
    assert "\ntrain.steps = 12345\n" in text and text.endswith("of_my_own = 'new'")
    train = config_keys.listed(config).partition("--config.train.…")[2]
    assert "steps=12345" in train


def test_differences_are_all_and_only_those_that_there_are(local):
    config = config_files.load("configs/ablations/no_face_dropout.py:small")
    small = config_files.load("configs/pretrain.py:small")
    found = config_keys.differences(config, small).splitlines()
    assert found == ["objectives.emotional_response.face_dropout = 0.0  # pretrain:small has 0.2"]
    assert "data.mixtures = {'chats'" in config_keys.differences(small, local)
    assert config_keys.differences(local, local) == "as pretrain:local"


def test_a_config_read_from_json_does_not_differ(local):
    recorded = config_files.ConfigDict(workdirs.as_json(local))
    assert config_keys.differences(recorded, local) == "as pretrain:local"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("steps", ["train.steps", "profile.steps"]),
        ("train.steps", ["train.steps"]),
        ("batch_size", ["train.batch_size", "evaluate.batch_size"]),
        ("batch_sise", ["train.batch_size", "evaluate.batch_size"]),
        ("estimate", ["objectives.emotional_response.estimator"]),
        ("xyzzy", []),
    ],
)
def test_keys_that_a_person_may_mean(local, name, keys):
    assert config_keys.similar_keys(name, list(workdirs.flatten(local))) == keys

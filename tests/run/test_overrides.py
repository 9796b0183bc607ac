"""Configs and command lines of any content: they are taken as they are meant, or refused."""

import copy
import json

import hypothesis
import properties
import pytest
from hypothesis import strategies as st

from igerg_jax.errors import UserError
from igerg_jax.run import command_line, config_files, full_config, workdirs

FULL = config_files.load("configs/pretrain.py")
KEYS = sorted(workdirs.flatten(FULL))
VALUES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "1", "-1", "1e400", "nan", "True", "()", "[", "None", "1_0", "0x1"]),
    st.integers().map(str),
    st.floats().map(str),
)


def parsed(*arguments: str):
    argv = ["main.py", "--config=configs/pretrain.py", *arguments]
    return command_line.parse(argv, command_line.new_flags).config


@properties.examples(15)
@hypothesis.given(key=st.sampled_from(KEYS), value=VALUES)
def test_an_override_sets_its_key_alone_or_is_refused(key, value):
    try:
        config = parsed(f"--config.{key}={value}")
    except UserError as error:
        assert key in str(error)
        return
    found, before = workdirs.flatten(config), workdirs.flatten(FULL)
    assert {name for name in found if repr(found[name]) != repr(before[name])} <= {key}
    assert type(found[key]) is type(before[key])
    if isinstance(before[key], str):
        assert found[key] == value
    elif isinstance(before[key], int | float) and not isinstance(before[key], bool):
        meant = int(value, 16) if value.startswith("0x") else float(value)
        assert repr(found[key]) == repr(type(before[key])(meant))


@properties.examples(10)
@hypothesis.given(key=st.sampled_from(KEYS), at=st.integers(0, 30), letter=st.sampled_from("aey_"))
def test_a_key_with_one_letter_wrong_is_refused_and_the_right_one_suggested(key, at, letter):
    group, dot, name = key.rpartition(".")
    at %= len(name)
    wrong = f"{group}{dot}{name[:at]}{letter}{name[at + 1 :]}"
    hypothesis.assume(wrong not in KEYS)
    with pytest.raises(UserError, match=f"unknown config key '{wrong}'.* {key}"):
        parsed(f"--config.{wrong}=1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@properties.examples(60)
@hypothesis.given(key=st.sampled_from([*KEYS, "data", "model.text"]), value=JSON)
def test_a_config_with_any_value_for_a_key_is_whole_or_refused_by_that_key(key, value):
    config = json.loads(FULL.to_json_best_effort())
    changed = copy.deepcopy(config)
    inside = changed
    *groups, last = key.split(".")
    for group in groups:
        inside = inside[group]
    inside[last] = value
    full_config.check(config, config, "x.py")
    try:
        full_config.check(changed, config, "x.py")
    except UserError as error:
        assert key in str(error)
    else:
        assert isinstance(value, dict) or type(value) in (
            type(config_value(config, key)),
            *((int,) if isinstance(config_value(config, key), float) else ()),
        )


def config_value(config: dict, key: str) -> object:
    for part in key.split("."):
        config = config[part]
    return config

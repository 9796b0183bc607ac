"""Config files are found from any folder, and may start from those that come with the package."""

import subprocess
import sys

import pytest

from igerg_jax.errors import UserError
from igerg_jax.run import command_line, config_files

OWN = """
from configs import pretrain

def get_config(preset=""):
    config = pretrain.get_config(preset)
    config.name = "own"
    config.train.steps = 7
    return config
"""


def loaded(argument: str, *keys: str) -> list[str]:
    """Values of a config, loaded by a process of its own in the current folder."""
    code = f"""
import sys
sys.path[:0] = [{str(config_files.PACKAGED.parent)!r}]
from igerg_jax.run import config_files
config = config_files.load({argument!r})
print(*(config[key] for key in {keys!r}), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_ours_are_found_from_any_folder():
    assert config_files.load("configs/pretrain.py:small").preset == "small"
    assert config_files.load("configs/ablations/no_images.py").name == "ablations/no_images"


def test_a_file_that_is_there_comes_first(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "pretrain.py").write_text(OWN.replace("from configs import", "import"))
    assert config_files.find("configs/pretrain.py:small") == ("configs/pretrain.py", "small")
    found = config_files.find("configs/finetune.py")
    assert found == (str(config_files.PACKAGED / "finetune.py"), "")


def test_a_config_of_ones_own_starts_from_ours(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    assert loaded("mine.py:small", "name", "preset") == ["own", "small"]


def test_in_a_folder_configs_neighbours_come_before_ours(tmp_path):
    inside = tmp_path / "configs" / "deep"
    inside.mkdir(parents=True)
    source = OWN.replace("import pretrain", "import pretrain, neighbour")
    (inside / "mine.py").write_text(source.replace('"own"', "neighbour.NAME"))
    (tmp_path / "configs" / "neighbour.py").write_text("NAME = 'beside'")
    assert loaded("configs/deep/mine.py", "name", "seed") == ["beside", "0"]
    (tmp_path / "configs" / "pretrain.py").write_text("""
from ml_collections import ConfigDict

def get_config(preset=""):
    return ConfigDict(dict(seed=9, train=dict(steps=0)))
""")
    assert loaded("configs/deep/mine.py", "name", "seed") == ["beside", "9"]


@pytest.mark.parametrize("argument", ["configs/pretrian.py", "pretrain", "configs", "configs/../x"])
def test_names_ours_where_there_is_none(argument):
    problem = "is no Python file" if argument == "configs" else "does not exist"
    with pytest.raises(UserError, match=rf"{problem}; did you mean one of .*configs/.*\.py\?"):
        config_files.load(argument)


def test_the_config_is_found_in_a_command_line():
    path = f"--config={config_files.PACKAGED}/pretrain.py:small"
    for given in (
        ["--config=configs/pretrain.py:small"],
        ["--config", "configs/pretrain.py:small"],
    ):
        argv = ["igerg", "--a=1", *given, "--config.seed=2"]
        assert command_line.with_config_path(argv) == ["igerg", "--a=1", path, "--config.seed=2"]
    assert command_line.with_config_path(["igerg", "--config.seed=2"])[1:] == ["--config.seed=2"]
    with pytest.raises(UserError, match="config file '' does not exist"):
        command_line.with_config_path(["igerg", "--config"])


def test_a_config_may_take_a_preset_without_a_default(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import pretrain\n\n\ndef get_config(preset):\n"
        "    config = pretrain.get_config()\n    config.name = f'mine {preset}'\n"
        "    return config\n"
    )
    for preset in ("", ":", ":one"):
        values = command_line.parse(["igerg", f"--config={file}{preset}"], command_line.new_flags)
        assert values.config.name == f"mine {preset.removeprefix(':')}"
    both = ["igerg", "--config=configs/pretrain.py", f"--config={file}"]  # the last one counts
    assert command_line.parse(both, command_line.new_flags).config.name == "mine "


def test_of_a_flag_given_twice_the_last_counts():
    argv = ["igerg", "--checkpoint=small", "--checkpoint", "RUN"]
    assert command_line.argument(argv, "checkpoint") == "RUN"
    assert command_line.argument(argv, "config") is None


@pytest.mark.parametrize("name", ["a:b/mine.py", "a.py:b/mine.py", "mi:ne.py"])
def test_a_path_may_have_a_colon(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(OWN)
    for preset in ("", ":", ":small"):
        argv = ["igerg", f"--config={file}{preset}", "--config.seed=3"]
        config = command_line.parse(argv, command_line.new_flags).config
        wanted = preset.removeprefix(":") or "local"
        assert (config.name, config.preset, config.seed) == ("own", wanted, 3)
    file.write_text(OWN.replace('"own"', '"own"\n    config.extra = 1'))
    with pytest.raises(UserError, match=f"^{file}: "):
        command_line.parse(argv, command_line.new_flags)


def test_a_file_that_is_not_there_is_named_with_its_colons(tmp_path):
    with pytest.raises(UserError, match=r"config file '/nowhere/a:b/c[.]py' does not exist"):
        config_files.find("/nowhere/a:b/c.py:small")

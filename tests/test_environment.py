"""Started in a Python that cannot run it, the program says in one line what to do."""

import ast
import pathlib
import signal
import subprocess
import sys
import tomllib

import pytest

from igerg_jax import environment

ROOT = pathlib.Path(__file__).parent.parent
OLD_ENOUGH = ["main.py", "igerg_jax/__init__.py", "igerg_jax/environment.py"]


def test_outside_the_environment():
    """-S: without site-packages."""
    command = [sys.executable, "-S", "main.py", "--config=configs/pretrain.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for words in (sys.executable, "absl", "jax", "./launch/local.sh", "pip install ."):
        assert words in done.stderr


def test_in_a_python_that_is_too_old(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    monkeypatch.setattr(sys, "version", "3.10.4 (main)")
    assert "is 3.10.4, and Python 3.11 or newer is needed" in environment.problem()
    monkeypatch.setattr(environment, "NEEDED", ["no_such_package"])
    assert "no_such_package" not in environment.problem()  # packages are for later


def test_without_one_package(monkeypatch, capsys):
    assert environment.problem() == ""
    monkeypatch.setattr(environment, "NEEDED", ["sys", "no_such_package"])
    with pytest.raises(SystemExit) as exit:
        environment.check()
    assert exit.value.code == 2
    assert "lacks the packages no_such_package: " in capsys.readouterr().err


@pytest.mark.parametrize("file", OLD_ENOUGH)
def test_older_pythons_can_read_what_checks_their_version(file):
    ast.parse((ROOT / file).read_text(encoding="ascii"), feature_version=(3, 4))


def test_the_check_comes_before_what_may_fail():
    imports = [
        node
        for node in ast.parse((ROOT / "main.py").read_text()).body
        if not isinstance(node, ast.If)
    ]
    checked = next(i for i, node in enumerate(imports) if "check()" in ast.unparse(node))
    before = "\n".join(map(ast.unparse, imports[1:checked]))
    assert before == "import sys\nfrom igerg_jax import environment"


def test_it_is_the_python_that_the_package_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = ".".join(map(str, environment.MIN_PYTHON))
    assert project["requires-python"].startswith(f">={lowest},")


SWALLOWS = """
import os, signal, sys
from igerg_jax import environment
if "ignored" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
with environment.interrupts_end():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        pass  # as a library may around its imports
print("went on", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("", 130, ("", "interrupted\n")), ("ignored", 0, ("went on False\n", ""))],
)
def test_ctrl_c_while_modules_are_imported_is_not_lost(how, code, said):
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", start + SWALLOWS, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, (done.stdout, done.stderr)) == (code, said)


def test_ctrl_c_raises_again_once_they_are():
    with environment.interrupts_end():
        pass
    assert signal.getsignal(signal.SIGINT) is not environment._end

"""Started in a Python that cannot run it, the program says in one line what to do."""

import ast
import glob
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
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
    assert before == "from igerg_jax import environment"


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


ENDS = """
import sys, threading
from igerg_jax import environment

def main(argv):
    threading.Thread(target=threading.Event().wait).start()  # Python's teardown would wait for it
    print("said")
    return int(argv[1]) if argv[1].isdigit() else sys.exit(argv[1])

environment.run(main)
"""


@pytest.mark.parametrize("code", [0, 2, 143])
def test_a_program_ends_with_its_exit_code_whatever_its_threads_do(code):
    command = [sys.executable, "-c", ENDS, str(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, "said\n", "")


ALLOCATES = """
import resource
from igerg_jax import environment

def touch_64_megabytes():
    b'x' * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def main(argv):
    before = touch_64_megabytes()
    print(touch_64_megabytes() - before)
    return 0

environment.run(main)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_what_a_program_frees_is_what_it_allocates_next(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if any(glob.glob(pattern) for pattern in environment.ACCELERATORS):
        pytest.skip("a host of accelerators")
    command = [sys.executable, "-c", ALLOCATES]
    faults = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    assert int(faults) < 2**26 / os.sysconf("SC_PAGESIZE") / 100


HOLDS = """
import os

from igerg_jax import environment

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

def main(argv):
    held = [bytearray(2**20) for _ in range(128)]
    last = bytearray(2**10)  # above what is freed, which glibc therefore keeps
    del held
    before = resident()
    assert environment.release_free_memory()
    print(before - resident())
    return 0

environment.run(main)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_what_is_free_is_given_back_on_demand(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    command = [sys.executable, "-c", HOLDS]
    released = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    assert int(released) > 100 * 2**20


def test_hosts_of_accelerators_allocate_as_before(monkeypatch, tmp_path):
    (tmp_path / "accel0").touch()
    monkeypatch.setattr(environment, "ACCELERATORS", (str(tmp_path / "accel*"),))
    assert not environment.keep_freed_memory()


def test_what_is_raised_is_shown():
    program = "from igerg_jax import environment; environment.run(lambda argv: {}['name'])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith("KeyError: 'name'\n")


def test_a_full_pipe_that_does_not_block_ends_nothing():
    code = (
        "import sys; from igerg_jax import environment\n"
        "def main(argv):\n"
        "    for _ in range(300): print('x' * 999, file=sys.stderr)\n"
        "    print('went on')\n"
        "    return 0\n"
        "environment.run(main)"
    )
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=writer, timeout=60)
        assert (done.returncode, done.stdout) == (0, b"went on\n")
        assert os.read(reader, 99) == b"x" * 99
    finally:
        os.close(reader)
        os.close(writer)


def test_every_program_ends_so():
    """None leaves it to Python's teardown, which a compilation that goes on would crash."""
    programs = [ROOT / "main.py", *(ROOT / "igerg_jax").rglob("*.py")]
    sources = [path.read_text(encoding="utf-8") for path in programs]
    ends = [text.partition('__name__ == "__main__":')[2].strip() for text in sources]
    assert ends.count("environment.run(main)") >= 15
    assert not [end for end in ends if "exit(" in end]


COMPILES = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
import jax, jax.numpy as jnp
from igerg_jax import environment
from igerg_jax.run import command_line

def many(x):
    for i in range(300):
        x = jnp.sort(jnp.sin(x) * i)
    return x

def run(argv):
    lowered = jax.jit(many).lower(jnp.ones(100))
    print("compiling", flush=True)
    lowered.compile()
    print("compiled", flush=True)

def modes(argv):
    from igerg_jax.parallel import stopping

    with stopping.signals():
        run(argv)

def main(argv):
    which = {"run": run, "modes": modes}[argv[1]]
    return command_line.main(argv, "", lambda argv: None, which)

environment.run(main)
"""


@pytest.mark.parametrize(
    ("which", "number"), [("run", "SIGINT"), ("modes", "SIGINT"), ("modes", "SIGTERM")]
)
def test_a_compilation_that_is_cut_short_crashes_nothing(which, number):
    """XLA goes on with it in a thread of its own."""
    command = [sys.executable, "-c", COMPILES, which]
    env = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, env=env, **pipes) as process:
        assert process.stdout.readline() == "compiling\n"
        time.sleep(0.3)
        process.send_signal(getattr(signal, number))
        said, errors = process.communicate(timeout=120)
    code = {"SIGINT": 130, "SIGTERM": 143}[number]
    assert (process.returncode, said) == (code, ""), errors
    assert errors in ("", "interrupted\n")

"""The scripts that start runs elsewhere: what they would call, and that arguments arrive whole.

No cloud is asked. `gcloud`, `xpk` and `srun` are stand-ins that note how they were called; what a
script sends to a worker's shell is run by a shell here.
"""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# What shells like to take apart.
ARGUMENTS = ["--config=configs/pretrain.py:large", "--context=it's  two", '--x=$HOME;`id` "a" *\\n']
SETTINGS = dict(
    TPU_ZONE="us-west4-a",
    TPU_TYPE="v5litepod-64",
    GKE_CLUSTER="cluster",
    GKE_ZONE="us-west4",
    GKE_PROJECT="project",
)


def start(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "GKE_", "SLURM_"))}
    return subprocess.run(
        [f"./launch/{script}", *arguments],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def printed(script: str, *arguments: str, **environment: str) -> list[list[str]]:
    """The commands of a dry run, taken apart as a shell takes them."""
    done = start(script, "--dry-run", *arguments, **SETTINGS | environment)
    assert done.returncode == 0, done.stderr
    lexer = shlex.shlex(done.stdout, posix=True, punctuation_chars="\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " ", True, ""
    commands: list[list[str]] = [[]]
    for token in lexer:
        if token.strip("\n"):
            commands[-1].append(token)
        else:  # a newline outside quotes
            commands.append([])
    return [command for command in commands if command]


RESOURCES = ["gcloud", "compute", "tpus", "queued-resources"]


def test_a_pod_is_asked_for():
    (command,) = printed("tpu_pod.sh", "create", "my-run")
    assert command == [
        *RESOURCES,
        *("create", "my-run", "--zone=us-west4-a", "--accelerator-type=v5litepod-64"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--node-id=my-run"),
    ]
    (command,) = printed(
        "tpu_pod.sh", "create", "r", TPU_SLICES="2", TPU_SPOT="1", TPU_PROJECT="p", TPU_TYPE="v6e-8"
    )
    assert {"--node-count=2", "--node-prefix=r", "--spot", "--project=p"} <= set(command)
    assert "--runtime-version=v2-alpha-tpuv6e" in command and "--node-id=r" not in command


def test_a_pod_is_looked_at_and_given_back():
    zone = "--zone=us-west4-a"
    (status,) = printed("tpu_pod.sh", "status", "r")
    assert status == [*RESOURCES, "describe", "r", zone, "--format=value(state.state)"]
    (delete,) = printed("tpu_pod.sh", "delete", "r")
    assert delete == [*RESOURCES, "delete", "r", zone, "--force", "--quiet"]
    (logs,) = printed("tpu_pod.sh", "logs", "r", TPU_WORKER="3")
    assert logs[:6] == [*RESOURCES, "ssh", "r"] and "--worker=3" in logs
    archive, copy, remove, install = printed("tpu_pod.sh", "install", "r")
    assert archive[:2] == ["git", "archive"] and remove[:2] == ["rm", "-f"]
    assert copy[4:7] == ["scp", remove[2], "r:igerg_jax.tar.gz"]
    for command in (copy, install):
        assert {"--node=all", "--worker=all", zone} <= set(command)
    assert "ensure_venv requirements.txt requirements-tpu.txt" in install[-1]


def worker(folder: pathlib.Path) -> dict[str, str]:
    """A home folder with the code, where `gcloud ... ssh` runs its command in a shell."""
    code = folder / "home" / "igerg_jax" / ".venv" / "bin"
    code.mkdir(parents=True)
    executable(
        code / "python",
        "trap 'echo stopped; exit 143' TERM\nprintf '<%s>\\n' \"$@\"\n"
        "while true; do sleep 0.1; done",
    )
    executable(
        folder / "bin" / "gcloud",
        'for a in "$@"; do case $a in --command=*) cd "$HOME"; exec sh -c "${a#--command=}";; '
        "esac; done",
    )
    return SETTINGS | dict(HOME=str(folder / "home"), PATH=f"{folder}/bin:{os.environ['PATH']}")


def executable(path: pathlib.Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def wait_for(path: pathlib.Path, text: str) -> str:
    deadline = time.monotonic() + 20
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, f"no '{text}' in {path}"
        time.sleep(0.05)
    return path.read_text()


def test_a_worker_starts_what_was_typed_and_stops_it(tmp_path):
    environment = worker(tmp_path)
    log = tmp_path / "home" / "igerg_jax" / "run.log"
    done = start("tpu_pod.sh", "run", "r", *ARGUMENTS, **environment)
    assert done.returncode == 0, done.stderr
    try:
        expected = ["main.py", *ARGUMENTS, "--config.distributed.cluster=gcetpu"]
        assert wait_for(log, "gcetpu").splitlines() == [f"<{word}>" for word in expected]
        again = start("tpu_pod.sh", "run", "r", *ARGUMENTS, **environment)
        assert again.returncode != 0 and "a run is already in progress here" in again.stderr
        stopped = start("tpu_pod.sh", "stop", "r", **environment)
        assert stopped.stdout.endswith("stopped\n"), stopped.stderr
    finally:
        pid = int((log.parent / "run.pid").read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_gke_workload():
    (command,) = printed("gke.sh", "run", "my-run", *ARGUMENTS, TPU_SLICES="2")
    assert command[:3] == ["xpk", "workload", "create"]
    where = {"--cluster=cluster", "--zone=us-west4", "--project=project"}
    what = {"--workload=my-run", "--tpu-type=v5litepod-64", "--num-slices=2", "--script-dir=."}
    assert where | what <= set(command)
    inside = command[-1].removeprefix("--command=")
    assert inside.startswith("source launch/venv.sh && ensure_venv requirements.txt ")
    words = shlex.split(inside)
    assert words[words.index("main.py") + 1 :] == [
        *ARGUMENTS,
        "--config.distributed.cluster=gketpu",
    ]
    (listed,) = printed("gke.sh", "list")
    assert listed[:3] == ["xpk", "workload", "list"] and where <= set(listed)
    (deleted,) = printed("gke.sh", "delete", "my-run")
    assert deleted[:3] == ["xpk", "workload", "delete"] and "--workload=my-run" in deleted
    credentials, logs = printed("gke.sh", "logs", "my-run")
    assert credentials[:4] == ["gcloud", "container", "clusters", "get-credentials"]
    assert any("jobset-name=my-run," in word for word in logs)


def test_a_slurm_step():
    install, step = printed("slurm.sbatch", *ARGUMENTS, SLURM_GPUS_ON_NODE="4")
    assert install == ["ensure_venv", "requirements.txt", "requirements-gpu.txt"]
    assert step[0] == "srun" and "--ntasks-per-node=4" in step
    words = step[step.index("main.py") + 1 :]
    assert words == [*ARGUMENTS, "--config.distributed.cluster=slurm"]


@pytest.mark.parametrize(("sent", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_slurm_job_saves_before_its_time_is_up(tmp_path, sent, requeued):
    """SLURM's warning ends the run by SIGTERM and puts the job back; scancel only ends it."""
    repository = tmp_path / "repository"
    (repository / "launch").mkdir(parents=True)
    for name in ("dry_run.sh", "slurm.sbatch"):
        (repository / "launch" / name).write_text((ROOT / "launch" / name).read_text())
    (repository / "launch" / "venv.sh").write_text("ensure_venv() { :; }\n")
    log = tmp_path / "log"
    executable(
        tmp_path / "bin" / "srun",
        f"trap 'echo saved >>{log}; exit 143' TERM\n"
        f"echo started >>{log}\nwhile true; do sleep 0.1; done",
    )
    executable(tmp_path / "bin" / "scontrol", f'echo "$@" >>{log}')
    environment = os.environ | dict(
        PATH=f"{tmp_path}/bin:{os.environ['PATH']}",
        SLURM_SUBMIT_DIR=str(repository),
        SLURM_JOB_ID="17",
    )
    command = ["bash", str(ROOT / "launch" / "slurm.sbatch"), "--config=x"]
    process = subprocess.Popen(command, env=environment, cwd=tmp_path)
    try:
        wait_for(log, "started")
        process.send_signal(sent)
        assert process.wait(timeout=20) == 143
    finally:
        process.kill()
    lines = log.read_text().split("\n")[:-1]
    assert lines == ["started", "saved"] + ["requeue 17"] * requeued


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tpu_pod.sh"], "queued resources"),
        (["tpu_pod.sh", "destroy", "r"], "queued resources"),
        (["tpu_pod.sh", "create", "My_Run"], "'My_Run' is not a valid name"),
        (["tpu_pod.sh", "create", "r"], "set TPU_ZONE"),
        (["tpu_pod.sh", "run", "r"], "queued resources"),
        (["gke.sh", "run", "r", "--config=x"], "set GKE_CLUSTER"),
        (["gke.sh"], "with xpk"),
        (["slurm.sbatch"], "usage: sbatch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said(arguments, says):
    environment = {"TPU_ZONE": "z"} if arguments[1:2] == ["run"] else {}
    done = start(*arguments, **environment)
    assert done.returncode == 2
    assert says in done.stderr and done.stdout == ""


NUMBERS = {
    "tpu_pod.sh create r": ("TPU_SLICES", "TPU_SPOT"),
    "tpu_pod.sh logs r": ("TPU_NODE", "TPU_WORKER"),
    "gke.sh run r --config=x": ("TPU_SLICES", "GKE_RESTARTS"),
    "slurm.sbatch --config=x": ("SLURM_GPUS_ON_NODE", "SLURM_CPUS_PER_GPU"),
    "multiprocess.sh 2": ("DEVICES", "GRACE_SECONDS"),
}


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in NUMBERS for name in NUMBERS[command]]
)
def test_a_number_is_a_number(tmp_path, command, name):
    """A command that hides in one does not run, and nothing is guessed from half a number."""
    script, *arguments = command.split()
    dry_run = [] if script == "multiprocess.sh" else ["--dry-run"]
    for value in (f"PATH[$(touch {tmp_path}/ran)]", "2x", "08", "9" * 20):
        environment = SETTINGS | {"PYTHON": "false", name: value}
        done = start(script, *dry_run, *arguments, **environment)
        assert done.returncode == 2 and done.stdout == "", value
        assert done.stderr.startswith(f"error: {name}='{value}' must be a whole number from ")
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


WORDS = {
    "tpu_pod.sh create r": ("TPU_ZONE", "TPU_TYPE", "TPU_PROJECT", "TPU_RUNTIME"),
    "tpu_pod.sh logs r": ("TPU_ZONE", "TPU_PROJECT"),
    "gke.sh run r --config=x": ("GKE_CLUSTER", "GKE_ZONE", "GKE_PROJECT", "GKE_IMAGE", "TPU_TYPE"),
    "gke.sh logs r": ("GKE_CLUSTER", "GKE_ZONE", "GKE_PROJECT"),
}


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in WORDS for name in WORDS[command]]
)
def test_a_word_stays_a_word(tmp_path, command, name):
    """Whatever a shell would make of it: it runs nothing, and reaches the command whole."""
    attack = f"a'b; touch {tmp_path}/1 $(touch {tmp_path}/2) `touch {tmp_path}/3` \" & | > * \\"
    settings = SETTINGS | {"TPU_RUNTIME": "v2", name: attack}
    script, *arguments = command.split()
    commands = printed(script, *arguments, **settings)
    assert any(word.endswith(attack) for words in commands for word in words)
    shell = start(script, "--dry-run", *arguments, **settings).stdout
    # What is printed can be pasted: here, into a shell that knows no other program.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "touch").symlink_to(shutil.which("touch"))
    bash = shutil.which("bash")
    subprocess.run([bash, "-c", shell], env={"PATH": f"{tmp_path}/bin"}, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_every_number_that_a_script_takes_is_checked():
    """That is, every setting that has a number as its default, or that arithmetic reads."""
    for path in (ROOT / "launch").iterdir():
        text = path.read_text()
        checked = set(re.findall(r"whole_number ([A-Z_]+) ", text))
        defaults = set(re.findall(r"\$\{([A-Z][A-Z_]+):-\d+\}", text))
        read = set(re.findall(r"\(\([^)]*?\b([A-Z][A-Z_]+)\b", text)) - {"SECONDS"}
        assert defaults | read <= checked, path.name


def test_an_unknown_type_needs_a_runtime():
    done = start("tpu_pod.sh", "--dry-run", "create", "r", TPU_ZONE="z", TPU_TYPE="v9-8")
    assert done.returncode == 2 and "set TPU_RUNTIME" in done.stderr
    (command,) = printed("tpu_pod.sh", "create", "r", TPU_TYPE="v9-8", TPU_RUNTIME="new")
    assert "--runtime-version=new" in command


# Stands for the interpreter, so that what the launcher does with processes takes no time.
FAKE = """#!/usr/bin/env bash
if [[ "$1" == -I ]]; then exec {python} "$@"; fi
printf 'argument <%s>\\n' "$@"
for argument in "$@"; do
  case $argument in *process_index=*) index=${{argument##*=}} ;; esac
done
{body}
"""


def launch(folder: pathlib.Path, body: str, *arguments: str, processes: int = 3):
    fake = folder / "python"
    fake.write_text(textwrap.dedent(FAKE).format(python=sys.executable, body=body))
    fake.chmod(0o755)
    return subprocess.run(
        ["./launch/multiprocess.sh", str(processes), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHON": str(fake)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_launcher_passes_arguments_and_tells_processes_apart(tmp_path):
    done = launch(tmp_path, "true", "--context=two  words", "--x=$HOME;ls *")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for index in range(3):
        assert lines.count(f"[{index}] argument <--context=two  words>") == 1
        assert lines.count(f"[{index}] argument <--x=$HOME;ls *>") == 1
        assert lines.count(f"[{index}] argument <--config.distributed.process_index={index}>") == 1
    assert all(re.match(r"\[[012]\] ", line) for line in lines)
    assert len({line for line in lines if "coordinator_address" in line}) == 3  # one port
    assert len({line[4:] for line in lines if "coordinator_address" in line}) == 1


def test_the_first_failure_ends_all(tmp_path):
    body = """
    if [[ $index == 1 ]]; then exit 7; fi
    trap '' TERM  # as a process that waits for others
    while true; do sleep 0.2; done
    """
    started = time.monotonic()
    done = launch(tmp_path, body)
    assert done.returncode == 7
    assert time.monotonic() - started < 30
    assert "process 1 ended with exit code 7" in done.stderr


def launched(folder: pathlib.Path, on_stop: str) -> subprocess.Popen:
    """Two processes that do `on_stop` at SIGTERM; each has written "up" to folder/log."""
    log = folder / "log"
    executable(
        folder / "python",
        f'if [[ "$1" == -I ]]; then exec {sys.executable} "$@"; fi\n'
        f"trap '{on_stop}' TERM\necho up >>{log}\nfor i in {{1..300}}; do sleep 0.1; done",
    )
    process = subprocess.Popen(
        ["./launch/multiprocess.sh", "2"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": str(folder / "python")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Where the tests run in the background, SIGINT is ignored, and a shell keeps that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(log, "up\nup\n")
    return process


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)]
)
def test_a_stop_is_passed_on(tmp_path, sent, code):
    """To every process; the exit code says which signal it was."""
    process = launched(tmp_path, f"echo saved >>{tmp_path}/log; exit 143")
    process.send_signal(sent)
    assert process.wait(timeout=40) == code
    assert (tmp_path / "log").read_text().split().count("saved") == 2


def test_a_second_interrupt_kills_what_does_not_stop(tmp_path):
    process = launched(tmp_path, f"echo asked >>{tmp_path}/log")
    process.send_signal(signal.SIGINT)
    wait_for(tmp_path / "log", "asked")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=40) == 137


@pytest.mark.parametrize("arguments", [[], ["zero"], ["--config=x"]])
def test_the_launcher_says_how_it_is_called(arguments):
    done = subprocess.run(
        ["./launch/multiprocess.sh", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "usage: " in done.stderr


@pytest.mark.parametrize("count", ["0", "2x", "08", "10000", "1.5", "1\n2"])
def test_the_launcher_names_a_wrong_number_of_processes(count):
    done = start("multiprocess.sh", count, "--config=x", PYTHON="false")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: PROCESSES='{count}' must be a whole number from 1 to 9999\n"


def test_what_pip_installs_moves_no_pin_and_is_installed_once(tmp_path):
    (tmp_path / "requirements-x.txt").write_text("x==1\n")
    executable(tmp_path / ".venv" / "bin" / "python", '[ "$1" = -m ] && echo "$@" >>calls\necho 1')
    again = f"source {ROOT}/launch/venv.sh; with_pip requirements-x.txt"
    for _ in range(2):
        subprocess.run(["bash", "-ec", again], cwd=tmp_path, check=True, capture_output=True)
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.endswith("-r requirements-x.txt -c requirements.txt")

"""Runs as processes of their own: the smallest configs, how they are started, what they leave."""

import atexit
import contextlib
import functools
import importlib
import itertools
import multiprocessing
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from configs import pretrain
from igerg_jax import environment, storage
from igerg_jax.data import datasets

ROOT = pathlib.Path(__file__).parents[2]
# Of a process that a test starts: it ends far sooner, or hangs, unless the machine is busy.
LIMIT_SECONDS = float(os.environ.get("LIMIT_SECONDS", "240"))
# How much later than configured a process may end. Much, since the machine may be busy.
LATE_SECONDS = 20


def make_config() -> ConfigDict:
    """Random feature vectors, one layer, two objectives, and dropout, whose seeds must fit too."""
    config = pretrain.get_config()
    config.data.update(dataset=datasets.SYNTHETIC, context_turns=2, feature_dim=8)
    config.data.update(context_tokens=12, response_tokens=8)
    config.data.tokenizer.vocab_size = 64
    config.model.vision.kind = "features"
    config.model.text.update(width=16, encoder_layers=1, decoder_layers=1, heads=2)
    config.model.text.update(mlp_width=32, max_positions=16, dropout_rate=0.1)
    config.model.judge.update(width=8, heads=2, mlp_width=16)
    for name, objective in config.objectives.items():
        objective.weight = 1.0 if name in ("image_emotion", "text_emotion") else 0.0
    # A schedule that does not depend on how long the run will be.
    config.optim.update(schedule="inverse_sqrt", warmup_steps=2, peak_learning_rate=1e-3)
    config.train.update(batch_size=8, steps=500, log_every_steps=1, evaluate_every_steps=0)
    config.train.update(checkpoint_every_steps=0, stall_seconds=0)
    config.evaluate.batch_size = 8
    config.generate.max_tokens = 8
    return config


def with_data(config: ConfigDict, data_dir: pathlib.Path) -> ConfigDict:
    """The same model with pixels and words: the smallest that reads, evaluates and generates."""
    config = config.copy_and_resolve_references()
    config.data.update(dataset="chitchat_peeps/tiny", data_dir=str(data_dir))
    config.data.update(context_turns=2, image_size=16, feature_dim=0, prefetch_batches=2)
    config.data.tokenizer.vocab_size = 512
    config.model.vision.update(kind="vit", patch_size=16, width=16, layers=1, heads=2, mlp_width=32)
    config.train.steps = 2
    config.evaluate.update(batch_size=8, examples=13, generated_examples=13, following_examples=3)
    config.generate.update(strategy="greedy", max_tokens=6, examples=5)
    return config


def options(config: ConfigDict, folder: pathlib.Path) -> list[str]:
    """Of a run of `config` in folder/run."""
    source = f"from ml_collections import ConfigDict\nCONFIG = {config.to_dict()!r}\n\n\n"
    source += 'def get_config(preset=""):\n    return ConfigDict(CONFIG)\n'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.py").write_text(source)
    return [f"--config={folder}/config.py", f"--workdir={folder}/run"]


def command(config: ConfigDict, folder: pathlib.Path, processes: int = 1) -> list[str]:
    """Runs `config` in folder/run; several processes by the launch script."""
    if processes == 1:
        return [sys.executable, "main.py", *options(config, folder)]
    return ["./launch/multiprocess.sh", str(processes), *options(config, folder)]


def without_tensorflow(folder: pathlib.Path) -> dict[str, str]:
    """An environment where it cannot be imported: it takes ten seconds, and only writes events."""
    (folder / "tensorflow").mkdir(parents=True, exist_ok=True)
    (folder / "tensorflow" / "__init__.py").write_text("raise ImportError('not here')\n")
    return {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(folder)}


class Hold(NamedTuple):
    """A call within a run that waits, as if it took long."""

    module: str
    name: str  # of a function, or Class.method
    call: int = 1  # which of its calls


class Started:
    """A run that is going on in a process of its own."""

    def __init__(
        self,
        arguments: list[str],
        log: pathlib.Path,
        hold: Hold | None = None,
        tensorflow: bool = False,
    ):
        self.log = log
        self._held = log.with_name(f"held-{log.name}")  # there while the call of `hold` waits
        self.process = _forking.Process(
            target=_run_main, args=(arguments, log, hold, self._held, tensorflow)
        )
        self.process.start()

    def said(self) -> str:
        """What it has printed, on stdout and stderr."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for(self, what: Callable[[], object]) -> bool:
        """Waits until `what()`; returns False where the process ended before."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self.process.is_alive():
            if what():
                return True
            assert time.monotonic() < deadline, self.said()[-3000:]
            time.sleep(0.002)
        return False

    def is_held(self) -> bool:
        """Whether the call of `hold` is waiting."""
        return self._held.exists()

    def go_on(self) -> None:
        """Ends the waiting of that call."""
        self._held.unlink(missing_ok=True)

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def wait(self, seconds: float = LIMIT_SECONDS) -> int:
        """Its exit code; minus the signal that killed it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it goes on after {seconds} s: {self.said()}"
        return self.process.exitcode


@contextlib.contextmanager
def started(
    config: ConfigDict,
    folder: pathlib.Path,
    count: int = 1,
    hold: Hold | None = None,
    **settings: object,
) -> Iterator[list[Started]]:
    """The processes of a run of `config` in folder/run; none outlives the block.

    Each is forked from a process that has imported all that a run imports, and does what main.py
    does: seconds less than a new interpreter. There is TensorFlow in it only if it reads data.
    `hold` is a call that waits in each; `settings` are those of `config.distributed`.
    """
    tensorflow = config.data.dataset != datasets.SYNTHETIC
    port, attempt, arguments = free_port(), len(list(folder.glob("log-*"))), options(config, folder)
    if count > 1:
        group = {"coordinator_address": f"127.0.0.1:{port}", "process_count": count} | settings
        arguments += [f"--config.distributed.{name}={value}" for name, value in group.items()]
    runs = []
    try:
        for index in range(count):
            own = [f"--config.distributed.process_index={index}"] if count > 1 else []
            log = folder / f"log-{attempt}-{index}"
            runs.append(Started([*arguments, *own], log, hold, tensorflow))
        yield runs
    finally:
        for run in runs:
            run.process.kill()
            run.process.join()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Tests that run in the background ignore Ctrl-C, and so would whatever they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(["igerg_jax.cli.modes", "igerg_jax.training.train_loop"])


def _run_main(
    arguments: list[str],
    log: pathlib.Path,
    hold: Hold | None,
    held: pathlib.Path,
    tensorflow: bool,
) -> None:
    """In a process of its own: main.py with one device, its output in a file."""
    with environment.interrupts_end():
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(out, standard)
        os.chdir(ROOT)
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=1"
        if not tensorflow:
            sys.modules["tensorflow"] = None
        from igerg_jax.cli import main

        if hold:
            _hold_up(hold, held)

    sys.argv = ["main.py", *arguments]
    try:
        environment.run(main.main)
    except SystemExit as error:  # one of several processes
        atexit._run_exitfuncs()  # multiprocessing leaves these out
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code)


def _hold_up(hold: Hold, held: pathlib.Path) -> None:
    """Makes that call create the file `held`, and wait until it is removed."""
    *outer, name = hold.name.split(".")
    owner = functools.reduce(getattr, outer, importlib.import_module(hold.module))
    original, numbers = getattr(owner, name), itertools.count(1)

    def waiting(*arguments, **options):
        if next(numbers) == hold.call:
            held.touch()
            while held.exists():
                time.sleep(0.01)
        return original(*arguments, **options)

    setattr(owner, name, waiting)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def figures(workdir: pathlib.Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what the clock decides: losses, and evaluations."""
    lines, bad_lines = storage.read_json_lines(epath.Path(workdir) / "metrics.jsonl")
    assert not bad_lines
    return [
        {k: v for k, v in line.items() if k == "step" or k.startswith(("loss/", "valid/"))}
        for line in lines
    ]


def losses(workdir: pathlib.Path) -> dict[int, dict[str, float]]:
    """By step, from metrics.jsonl."""
    lines = storage.read_json_lines(epath.Path(workdir) / "metrics.jsonl").objects
    return {
        line["step"]: {k: v for k, v in line.items() if k.startswith("loss/")} for line in lines
    }


def state(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint's state by name, whatever devices it was written on."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(checkpoint / "state").item_metadata.tree
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        found = reader.restore(checkpoint / "state", args=ocp.args.PyTreeRestore(restore_args=how))
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}

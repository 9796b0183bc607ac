"""Several processes as one run: they start together or fail loudly, and compute what one does."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import small_runs
from etils import epath
from ml_collections import ConfigDict
from small_runs import (
    LATE_SECONDS,
    LIMIT_SECONDS,
    command,
    free_port,
    losses,
    without_tensorflow,
)

from configs import pretrain
from igerg_jax import storage
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.data import datasets, mixtures
from igerg_jax.errors import UserError
from igerg_jax.evaluation import trained_run
from igerg_jax.parallel import processes, roll_call, sharding
from igerg_jax.training import train_loop, train_state, train_step

ROOT = pathlib.Path(__file__).parents[2]
MORE_STEPS = 3  # after the stop


def settings(**changes) -> ConfigDict:
    return ConfigDict(pretrain.get_config().distributed.to_dict() | changes)


SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "8"}
COORDINATOR = dict(coordinator_address="host:1234", process_count=2, process_index=1)


def test_a_process_alone_starts_nothing():
    assert processes.resolve(settings(), {}) is None
    assert processes.resolve(settings(), {"TPU_WORKER_HOSTNAMES": "localhost"}) is None
    assert processes.resolve(settings(process_count=1), SLURM) is None
    processes.start(settings())
    assert not jax.distributed.is_initialized()


def test_a_coordinator_is_taken_as_it_is_given():
    arguments = processes.resolve(settings(**COORDINATOR), SLURM)
    assert arguments == {
        "coordinator_address": "host:1234",
        "num_processes": 2,
        "process_id": 1,
        "cluster_detection_method": "deactivate",
    }
    assert processes.resolve(settings(cluster="auto"), {}) == {"cluster_detection_method": None}
    found = processes.resolve(settings(cluster="slurm"), SLURM)
    assert found == {"cluster_detection_method": "slurm"}


def test_jax_knows_the_clusters():
    from jax._src.clusters import ClusterEnv

    known = {cluster.name for cluster in ClusterEnv._cluster_types}
    assert set(processes.CLUSTERS) - {"none", "auto"} <= known


@pytest.mark.parametrize(
    ("changes", "environment", "says"),
    [
        (dict(cluster="pbs"), {}, "'pbs' is not one of none, auto, gcetpu"),
        (dict(cluster="gcetpu", process_count=2), {}, "cluster='gcetpu' finds .* itself"),
        (dict(cluster="auto") | COORDINATOR, {}, "cluster='auto' finds .* itself"),
        (dict(heartbeat_timeout_seconds=0), {}, "heartbeat_timeout_seconds=0 must be at least 5"),
        (COORDINATOR | dict(coordinator_address="host"), {}, "'host' is not HOST:PORT"),
        (COORDINATOR | dict(coordinator_address="host:x"), {}, "'host:x' is not HOST:PORT"),
        (COORDINATOR | dict(coordinator_address="h:65536"), {}, "'h:65536' is not HOST:PORT"),
        (COORDINATOR | dict(coordinator_address="h:" + "9" * 5000), {}, "is not HOST:PORT"),
        (COORDINATOR | dict(process_index=2), {}, "count=2 and process_index=2"),
        (COORDINATOR | dict(process_count=-1), {}, "count=-1 and process_index=1"),
        (dict(process_count=2), {}, "need a distributed.coordinator_address"),
        ({}, SLURM, r"one of 8 processes \(slurm\): say --config.distributed.cluster=slurm"),
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b,c"}, "one of 3 processes .gketpu."),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_settings_that_do_not_go_together(changes, environment, says):
    with pytest.raises(UserError, match=says):
        processes.resolve(settings(**changes), environment)


def test_who_cannot_reach_the_others_says_so_and_ends(tmp_path):
    """Both ends: a process without coordinator, and a coordinator whose other never comes."""
    lonely, absent = free_port(), free_port()

    def start(port: int, index: int) -> small_runs.Started:
        group = "--config.distributed"
        arguments = [
            *small_runs.options(small_runs.make_config(), tmp_path),
            f"{group}.coordinator_address=127.0.0.1:{port}",
            *(f"{group}.process_count=2", f"{group}.process_index={index}"),
            f"{group}.initialization_timeout_seconds=2",
        ]
        return small_runs.Started(arguments, tmp_path / f"log-{index}")

    runs = [start(absent, 1), start(lonely, 0)]
    try:
        for run in runs:
            assert run.wait_for(run.log.exists)  # forked from a process that has imported JAX
        began = time.monotonic()
        assert [run.wait(2 + LATE_SECONDS) for run in runs] == [5, 5]
        print(f"ended within {time.monotonic() - began:.1f} s")
    finally:
        for run in runs:
            run.process.kill()
    worker, host = (run.said() for run in runs)
    message = f"cannot reach the coordinator 127.0.0.1:{absent} within 2 s (Connection refused)"
    assert worker.startswith("error: process 1 of 2") and message in worker
    assert host.startswith(f"error: process 0 of 2, coordinator 127.0.0.1:{lonely}")
    assert "not all processes were there within 2 s: no word from process 1; check" in host
    for text in (worker, host):
        assert text.count("\n") == 1, text  # no stack trace
    assert not (tmp_path / "run").exists()


def test_the_roll_call_knows_which_processes_are_there():
    port = free_port()
    roll = roll_call.listen(port, 4)
    with (
        roll_call.announced("127.0.0.1", port, 2),
        roll_call.announced("localhost", port, 7),  # of another run
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        for text in (b"", b"hello", b"igerg_jax process -1", b"igerg_jax process 9", b"\xff" * 99):
            stranger.sendto(text, ("127.0.0.1", port))
        deadline = time.monotonic() + 20
        while roll.missing() != [1, 3] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert roll.missing() == [1, 3]
        with roll_call.announced("localhost", port, 1):
            while roll.missing() != [3] and time.monotonic() < deadline:
                time.sleep(0.01)
    assert roll.missing() == [3]


# Rows of a batch where processes do not lie one after another along the mesh, and where a tensor
# axis spans them. What each process puts in must come out at its place.
ROWS = """
import sys
import jax, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from igerg_jax.parallel import processes, roll_call, sharding
from igerg_jax.errors import RunError
from ml_collections import ConfigDict
index = int(sys.argv[2])
processes.start(ConfigDict(dict(
    cluster="none", coordinator_address=sys.argv[1], process_count=2, process_index=index,
    initialization_timeout_seconds=100, heartbeat_timeout_seconds=100)))
processes.wait_for_all("started", 100)
devices = np.array(jax.devices())
assert [d.process_index for d in devices] == [0, 0, 1, 1]
whole = np.arange(8 * 3).reshape(8, 3)
expected = {"one after another": ([0, 1, 2, 3], [4, 5, 6, 7]),
            "interleaved": ([0, 1, 4, 5], [2, 3, 6, 7]),
            "tensor over hosts": (list(range(8)), list(range(8)))}
orders = {"one after another": devices.reshape(1, 4, 1, 1),
          "interleaved": devices[[0, 2, 1, 3]].reshape(1, 2, 2, 1),
          "tensor over hosts": devices[[0, 2, 1, 3]].reshape(1, 2, 1, 2)}
for name, order in orders.items():
    placed = sharding.batch_sharding(Mesh(order, sharding.AXES))
    rows = sharding.process_rows(placed, 8)
    assert rows.tolist() == expected[name][index], (name, rows)
    array = sharding.to_devices({"x": whole[rows]}, placed)["x"]
    assert array.shape == (8, 3), (name, array.shape)
    found = multihost_utils.process_allgather(array, tiled=True)
    np.testing.assert_array_equal(found, whole, err_msg=name)
if index == 0:  # nobody comes
    try:
        processes.wait_for_all("alone", 1)
    except RunError as error:
        assert "process 0 of 2: alone, but not all others within 1 s" in str(error), error
    else:
        raise AssertionError("it did not wait")
"""


def test_each_process_reads_the_rows_that_its_devices_hold():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    address = f"127.0.0.1:{free_port()}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ROWS, address, str(index)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=LIMIT_SECONDS)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors


@pytest.fixture(scope="module")
def config() -> ConfigDict:
    return small_runs.make_config()


def assert_same_losses(found, expected, numbers) -> None:
    for number in numbers:
        for name, value in expected[number].items():
            np.testing.assert_allclose(
                found[number][name], value, rtol=1e-5, err_msg=f"step {number}: {name}"
            )


def stop_one(process: subprocess.Popen, workdir: pathlib.Path) -> str:
    """SIGTERM to process 1 of a launched run once it has made a few steps; returns stderr."""
    text = ""
    while not (found := re.search(r"\[1\] pid (\d+)", text)):
        text += process.stderr.readline()
    deadline = time.monotonic() + LIMIT_SECONDS
    while process.poll() is None and len(losses(workdir)) < 3:
        assert time.monotonic() < deadline, "no step was made"
        time.sleep(0.05)
    if process.poll() is None:
        os.kill(int(found[1]), signal.SIGTERM)
    return text + process.communicate(timeout=LIMIT_SECONDS)[1]


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory):
    """(folder, stderr, step) of a run of 2 processes x 4 devices, data=2 x fsdp=4, stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    config = config.copy_and_resolve_references()
    config.mesh.update(data=2, fsdp=4)
    process = subprocess.Popen(
        command(config, folder, 2),
        cwd=ROOT,
        env=without_tensorflow(folder / "env") | {"DEVICES": "4"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = stop_one(process, folder / "run")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143, said[-3000:]
    return folder, said, max(losses(folder / "run"))


@pytest.fixture(scope="module")
def uninterrupted(config, stopped) -> dict[int, dict[str, float]]:
    """Losses by step of one process and one device."""
    setup = train_state.set_up_training(
        config, config.data.tokenizer.vocab_size, SENTENCEPIECE_IDS, jax.devices()[:1]
    )
    step, state, out = train_step.lower_step(setup).compile(), train_state.init_state(setup), {}
    source = train_loop.batches(setup, datasets.open_dataset(config), 0)
    for number in range(1, stopped[2] + MORE_STEPS + 1):
        placed = sharding.to_devices(next(source), sharding.batch_sharding(setup.mesh))
        state, metrics = step(state, placed)
        values = jax.device_get(metrics).items()
        out[number] = {k: float(v) for k, v in values if k.startswith("loss/")}
    return out


@pytest.mark.slow
def test_processes_stop_together_and_write_once(stopped):
    folder, said, step = stopped
    run = folder / "run"
    assert [path.name for path in (run / "checkpoints").iterdir()] == [str(step)]
    files = ["checkpoints", "config.json", "history.json", "lock", "metrics.jsonl"]
    assert sorted(path.name for path in run.iterdir()) == files
    (start,) = json.loads((run / "history.json").read_text())
    assert (start["stopped"], start["last_step"], start["processes"]) == ("SIGTERM", step, 2)
    lines = storage.read_json_lines(run / "metrics.jsonl").objects
    numbers = [line["step"] for line in lines]
    assert numbers == list(range(1, step + 1))  # each once
    assert len(re.findall("stopped by SIGTERM after step", said)) == 1
    assert f"[0] stopped by SIGTERM after step {step}" in said
    assert "on 8 x cpu" in said and said.count("mesh: ") == 1


@pytest.mark.slow
def test_two_processes_compute_what_one_device_does(stopped, uninterrupted):
    folder, _, step = stopped
    assert_same_losses(losses(folder / "run"), uninterrupted, range(1, step + 1))


@pytest.mark.slow
def test_a_stopped_run_resumes_on_one_process(config, stopped, uninterrupted, tmp_path):
    """1 x 8 devices, data=8."""
    folder, _, step = stopped
    shutil.copytree(folder / "run", tmp_path / "run")
    config = config.copy_and_resolve_references()
    config.train.steps = step + MORE_STEPS
    summary = train_loop.run(config, epath.Path(tmp_path / "run"))
    assert summary["resumed_from"] == step
    found = losses(tmp_path / "run")
    assert sorted(found) == sorted(uninterrupted)
    assert_same_losses(found, uninterrupted, range(step + 1, step + MORE_STEPS + 1))


@pytest.mark.slow
def test_a_stopped_run_resumes_on_four_processes(config, stopped, uninterrupted, tmp_path):
    """4 x 2 devices, data=2 x fsdp=2 x tensor=2."""
    folder, _, step = stopped
    shutil.copytree(folder / "run", tmp_path / "run")
    config = config.copy_and_resolve_references()
    config.train.steps = step + MORE_STEPS
    config.mesh.update(data=2, fsdp=2, tensor=2)
    done = subprocess.run(
        command(config, tmp_path, 4),
        cwd=ROOT,
        env=without_tensorflow(tmp_path / "env") | {"DEVICES": "2"},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = losses(tmp_path / "run")
    assert sorted(found) == sorted(uninterrupted)
    assert_same_losses(found, uninterrupted, range(step + 1, step + MORE_STEPS + 1))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["resumed_from"], summary["final_step"]) == (step, step + MORE_STEPS)
    assert done.stderr.count("report: ") == 1


@pytest.mark.slow
def test_processes_read_and_evaluate_as_one(config, data_dir, tmp_path):
    """Data is prepared once, by whoever comes first; 13 windows end in the midst of a batch."""
    from igerg_jax.evaluation.evaluator import Evaluator

    with_data = small_runs.with_data(config, data_dir)
    done = subprocess.run(
        command(with_data, tmp_path, 2),
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "DEVICES": "2"},
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "run"
    # events.out.tfevents.<time>.<host>.<pid>.<number>.v2: one process writes them.
    assert len({path.name.rsplit(".", 3)[1] for path in (run / "tensorboard").iterdir()}) == 1
    _, _, setup, params, _, dataset = trained_run.open_run(run, with_data, mixtures.SPLIT_KEYS)
    evaluator = Evaluator(setup, dataset)
    summary = json.loads((run / "summary.json").read_text())
    found, confusion, sizes, _ = evaluator.metrics(params, "test", generate=True)
    assert confusion["image"] == summary["confusion_matrix"]["test"]
    assert confusion["response"] == summary["response_matrix"]["test"]
    assert sizes == summary["sizes"]["test"]
    followed = evaluator.following(params, "test")
    assert followed.matrix == summary["following_matrix"]["test"]
    rows = storage.read_json_lines(run / "following.jsonl").objects
    for ours, theirs in zip(followed.rows, rows, strict=True):
        assert ours["index"] == theirs["index"]
        for name in ("generated", "image"):
            found_C = [response[name] for response in ours["responses"]]
            assert found_C == [response[name] for response in theirs["responses"]]
    found |= followed.values
    assert found.keys() == summary["evaluation"]["test"].keys()
    for name, value in summary["evaluation"]["test"].items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    samples = storage.read_json_lines(run / "samples.jsonl").objects
    for ours, theirs in zip(evaluator.samples(params, "test", 5), samples, strict=True):
        assert (ours["index"], ours["generated"]) == (theirs["index"], theirs["generated"])
        assert [t["image"] for t in ours["context"]] == [t["image"] for t in theirs["context"]]

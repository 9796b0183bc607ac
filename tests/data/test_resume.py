"""The order on any hosts and after any restart: ids of many steps, pixels of some, equal lengths.

Hosts are simulated: each asks for the rows that `sharding.process_rows` gives a process with some
of the mesh's devices. `tests/parallel/test_processes.py` runs real processes.
"""

import itertools

import jax
import numpy as np
import pytest
import raw_data
from ml_collections import ConfigDict

from igerg_jax.data import mixtures, order, pipeline, prepare, windows
from igerg_jax.parallel import sharding

# {name: mesh}; over 4 hosts, `tensor` spans two of them, which then share rows.
MESHES = {
    "data": dict(dcn=1, data=8, fsdp=1, tensor=1),
    "fsdp": dict(dcn=1, data=2, fsdp=4, tensor=1),
    "tensor": dict(dcn=1, data=1, fsdp=2, tensor=4),
}


class Host:
    """A batch's sharding as one of `hosts` processes sees it, with its own devices only."""

    def __init__(self, mesh, host: int, hosts: int):
        self._placed = sharding.batch_sharding(mesh)
        self._mine = np.array_split(mesh.devices.ravel(), hosts)[host].tolist()

    def addressable_devices_indices_map(self, shape):
        whole = self._placed.devices_indices_map(shape)
        return {device: whole[device] for device in self._mine}


def rows_of(mesh, hosts: int, batch_size: int) -> list[np.ndarray]:
    """Each host's rows; together they are all."""
    rows = [sharding.process_rows(Host(mesh, h, hosts), batch_size) for h in range(hosts)]
    np.testing.assert_array_equal(np.unique(np.concatenate(rows)), np.arange(batch_size))
    return rows


def assembled(parts: list[np.ndarray], rows: list[np.ndarray], batch_size: int) -> np.ndarray:
    """The global array of hosts' rows; those that share a row must agree on it."""
    whole = np.zeros((batch_size, *parts[0].shape[1:]), parts[0].dtype)
    for part, row in zip(parts, rows, strict=True):
        whole[row] = part
    for part, row in zip(parts, rows, strict=True):
        np.testing.assert_array_equal(whole[row], part)
    return whole


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    return raw_data.fer_zip(raw_data.meld(folder, dialogues=30), raw_data.fer_names(6))


@pytest.fixture
def mixed(tiny_config, raw):
    """Paired faces for all but one objective, which reads two datasets; more than an epoch."""
    tiny_config.data.update(dataset="paired/meld+fer2013", manual_dir=str(raw), test_split="valid")
    tiny_config.data.tokenizer.update(model_type="bpe", vocab_size=300)
    mine = {"objectives": ("image_emotion",), "datasets": {"fer2013": 3.0}}
    mine["datasets"]["paired/meld+fer2013"] = 1.0
    tiny_config.data.mixtures = ConfigDict({"faces": mine})
    return tiny_config


@pytest.mark.parametrize("name", MESHES)
def test_ids_of_200_steps_from_4_then_2_hosts_then_1(mixed, name):
    prepared = prepare.prepare(mixed)
    mesh, size = sharding.make_mesh(MESHES[name], jax.devices()), mixed.train.batch_size

    def ids(steps, hosts):
        rows = rows_of(mesh, hosts, size)
        for step, stream in itertools.product(steps, mixtures.streams(prepared, mixed).values()):
            parts = [np.stack(pipeline.example_ids(stream, mixed, step, r), 1) for r in rows]
            yield assembled(parts, rows, size)

    uninterrupted = np.stack(list(ids(range(200), 1)))
    for hosts in (2, 4):
        np.testing.assert_array_equal(uninterrupted, np.stack(list(ids(range(200), hosts))))
    resumed = [*ids(range(77), 4), *ids(range(77, 143), 2), *ids(range(143, 200), 1)]
    np.testing.assert_array_equal(uninterrupted, np.stack(resumed))
    windows_shown = uninterrupted[::2, :, 1].ravel()
    total = prepared.split("train").num_windows
    assert total < len(windows_shown)
    assert sorted(windows_shown[:total]) == list(range(total))


def test_pixels_from_4_then_2_hosts_then_1_are_those_of_no_interruption(mixed):
    """Every array of every batch, bit by bit: crops, flips and colours with it."""
    prepared = prepare.prepare(mixed)
    mesh, size = sharding.make_mesh(MESHES["data"], jax.devices()), mixed.train.batch_size

    def batches(start, end, hosts):
        rows = rows_of(mesh, hosts, size)
        parts = [pipeline.train_batches(prepared, mixed, start, r) for r in rows]
        for _ in range(start, end):
            found = [next(part) for part in parts]
            yield {n: assembled([f[n] for f in found], rows, size) for n in found[0]}

    # 90 windows: step 11 has the end of the first epoch and the start of the next.
    uninterrupted = list(batches(8, 14, 1))
    resumed = [*batches(8, 10, 4), *batches(10, 12, 2), *batches(12, 14, 1)]
    assert {"images", "faces/images"} <= uninterrupted[0].keys()
    for step, (one, other) in enumerate(zip(uninterrupted, resumed, strict=True)):
        for array in one:
            np.testing.assert_array_equal(one[array], other[array], err_msg=f"{step} {array}")


def test_a_late_step_costs_what_the_first_one_does(mixed, monkeypatch):
    """Positions that the order permutes and windows that are read until a batch is there."""
    prepared = prepare.prepare(mixed)
    mixed.data.update(read_threads=1, prefetch_batches=1)
    counts = {"permuted": 0, "read": 0}
    permute, read = order.permute, windows.read
    size = mixed.train.batch_size

    def spy_permute(seed, epoch, values, total):
        counts["permuted"] += len(values)
        return permute(seed, epoch, values, total)

    def spy_read(split, i):
        counts["read"] += 1
        return read(split, i)

    monkeypatch.setattr(order, "permute", spy_permute)
    monkeypatch.setattr(windows, "read", spy_read)
    for start in (0, 1_000_000, 10**12):
        counts.update(permuted=0, read=0)
        next(pipeline.train_batches(prepared, mixed, start, np.arange(size)))
        assert 0 < counts["permuted"] <= 2 * 6 * size  # two groups, and the batches after the first
        assert 0 < counts["read"] <= 2 * 6 * size


@pytest.mark.parametrize(("hosts", "more_or_fewer"), [(2, (-1, 0, 1, 11)), (8, (-7,))])
def test_every_host_gets_as_many_evaluation_batches_whatever_the_split(mixed, hosts, more_or_fewer):
    """Fewer windows than hosts, and one more or fewer than fill a batch: none waits for another."""
    prepared = prepare.prepare(mixed)
    size = mixed.evaluate.batch_size
    rows = rows_of(sharding.make_mesh(MESHES["data"], jax.devices()), hosts, size)
    for total in (size + more for more in more_or_fewer):
        steps = -(-total // size)
        asked = [
            pipeline.window_batches(prepared, "train", np.arange(total), mixed, r) for r in rows
        ]
        found = [list(batches) for batches in asked]
        assert {len(batches) for batches in found} == {steps}
        for step in range(steps):
            real = sum(batches[step][1] for batches in found)
            assert real == min(size, total - step * size)
            shapes = {tuple((n, a.shape) for n, a in b[step][0].items()) for b in found}
            assert len(shapes) == 1

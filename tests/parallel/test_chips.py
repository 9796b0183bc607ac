"""Rates of devices: of one device, whether or not it is a whole chip."""

import importlib.util
import os
import subprocess
import sys
import types

import pytest

from igerg_jax.parallel import chips
from igerg_jax.parallel.chips import CHIPS, GIB


def test_two_devices_of_tpu7x_have_the_rates_of_its_chip():
    """https://docs.cloud.google.com/tpu/docs/tpu7x gives those of a chip."""
    device = CHIPS["TPU7x"]
    assert 2 * device.peak_flops == 2307e12
    assert 2 * device.hbm_bytes == 192 * GIB
    assert 2 * device.hbm_bytes_per_second == 7380e9
    # Three axes, both directions.
    assert 2 * 3 * 2 * device.link_bytes_per_second == 1200e9


@pytest.mark.parametrize("kind", CHIPS)
def test_rates_are_in_proportion(kind):
    """A digit too many or too few, or two columns exchanged, would break one of these."""
    chip = CHIPS[kind]
    assert 1e14 < chip.peak_flops < 1e16 and 10e9 < chip.hbm_bytes < 1e12
    # Memory, links and networks: the farther they reach, the slower.
    memory, links, network = chip[3:6]
    assert chip.peak_flops / 50 > memory > links > network > 1e9
    assert chip.xla_flops <= chip.peak_flops
    assert chip.xla_bytes_per_second <= chip.hbm_bytes_per_second
    assert bool(chip.xla_flops) == bool(chip.xla_bytes_per_second)


def test_the_peak_of_a_kind_that_is_not_in_the_table_is_not_known():
    assert chips.peak_flops(types.SimpleNamespace(device_kind="NVIDIA B200")) == 2.25e15
    assert chips.peak_flops(types.SimpleNamespace(device_kind="cpu")) is None


TWO_DEVICES_A_CHIP = """
import collections
from jax.experimental import topologies
from igerg_jax.parallel import chips

devices = topologies.get_topology_desc("tpu7x:2x2x1", "tpu").devices
assert {chips.chip_of(device.device_kind).name for device in devices} == {"TPU7x"}
counts = collections.Counter(tuple(device.coords) for device in devices)
assert len(counts) == 4 and set(counts.values()) == {2}, counts
"""


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs pip install -r requirements-tpu.txt"
)
def test_a_chip_of_tpu7x_is_two_devices():
    environment = os.environ | dict(
        JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1"
    )
    command = [sys.executable, "-c", TWO_DEVICES_A_CHIP]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

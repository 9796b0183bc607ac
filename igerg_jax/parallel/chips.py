"""What chips can do: peak rates and memory, as their makers state them.

A "device" is what JAX calls one: a whole chip, both cores of a v4 or v5p together.

Sources: https://cloud.google.com/tpu/docs/v4, .../v5e, .../v5p, .../v6e (peak, HBM); for links and
the data-centre network (25 GB/s a host, of 8 chips, 4 of v4 and v5p)
https://jax-ml.github.io/scaling-book/tpus; NVIDIA's data sheets of H100 SXM, H200 SXM and A100 80GB
SXM, with one adaptor of 400 (A100: 200) Gbit/s a GPU, as in DGX.
"""

from typing import Any, NamedTuple


class Chip(NamedTuple):
    """Rates of one device."""

    name: str
    peak_flops: float  # bfloat16 matrix products, FLOP/s, dense
    hbm_bytes: float  # of which the compiler keeps some for itself
    hbm_bytes_per_second: float
    # What a device can send along one axis of its torus, on both links; of a GPU, over NVLink.
    link_bytes_per_second: float
    dcn_bytes_per_second: float  # a device's share of what its host sends to other slices or nodes
    # The rates behind XLA's own `optimal_seconds`, found by compiling a large product and a large
    # copy; 0 = not known.
    xla_flops: float
    xla_bytes_per_second: float


GIB = 2**30

# jax.Device.device_kind -> Chip
CHIPS = {
    "TPU v4": Chip("v4", 275e12, 32 * GIB, 1228e9, 90e9, 6.2e9, 241e12, 982.5e9),
    "TPU v5 lite": Chip("v5e", 197e12, 16 * GIB, 819e9, 90e9, 3.1e9, 197e12, 737.7e9),
    "TPU v5": Chip("v5p", 459e12, 95 * GIB, 2765e9, 180e9, 6.2e9, 394e12, 2350.4e9),
    "TPU v6 lite": Chip("v6e", 918e12, 32 * GIB, 1640e9, 180e9, 3.1e9, 918e12, 1638e9),
    "NVIDIA H100 80GB HBM3": Chip("H100", 989e12, 80e9, 3350e9, 450e9, 50e9, 0.0, 0.0),
    "NVIDIA H200": Chip("H200", 989e12, 141e9, 4800e9, 450e9, 50e9, 0.0, 0.0),
    "NVIDIA A100-SXM4-80GB": Chip("A100", 312e12, 80e9, 2039e9, 300e9, 25e9, 0.0, 0.0),
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip behind a `jax.Device.device_kind`; None for one that is not in `CHIPS` (a CPU)."""
    return CHIPS.get(device_kind)


def peak_flops(device: Any) -> float | None:
    """bfloat16 FLOP/s of a `jax.Device`; None where it is not known."""
    chip = chip_of(device.device_kind)
    return chip.peak_flops if chip else None

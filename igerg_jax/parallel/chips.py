"""Peak rates and memory of accelerators, from their vendors' documentation.

A "device" is what JAX calls a device. For most TPUs and for GPUs it is a chip (for v4 and v5p, both
cores of it together); for TPU7x (Ironwood) it is one of the two chiplets of a chip, with half of
the chip's rates.

Sources: https://cloud.google.com/tpu/docs/v4, .../v5e, .../v5p, .../v6e (peak, HBM);
https://jax-ml.github.io/scaling-book/tpus (links; data-centre network: 25 GB/s per host, which has
8 chips, or 4 of v4 and v5p); https://docs.cloud.google.com/tpu/docs/tpu7x (a chip: 2307 TFLOP/s,
192 GiB, 7380 GB/s, links of 1200 GB/s in both directions together, data-centre network of 100
Gbit/s); NVIDIA's data sheets of H100 SXM, H200 SXM and A100 80GB SXM, with one network adaptor of
400 (A100: 200) Gbit/s per GPU, as in DGX. B200, as in HGX at 1000 W:
https://glennklockwood.com/garden/processors/B200 (peak, NVLink; 8 TB/s at most),
https://github.com/mlcommons/inference_results_v6.0, closed/Nebius/systems (180 GB, network) and
https://github.com/pytorch/ao/pull/4002 (device kind; bandwidth, from its bus width and clock).
"""

from typing import Any, NamedTuple


class Chip(NamedTuple):
    """Rates of one device of a kind of chip."""

    name: str
    peak_flops: float  # bfloat16 matrix products, FLOP/s, dense
    hbm_bytes: float  # including what the compiler reserves
    hbm_bytes_per_second: float
    # Sent by a device along one axis of its torus, on both links together; by a GPU, over NVLink.
    link_bytes_per_second: float
    dcn_bytes_per_second: float  # to other slices or nodes: a device's share of its host's
    # The rates that XLA's own `optimal_seconds` assumes, found by compiling a large matrix product
    # and a large copy; 0 = not known.
    xla_flops: float
    xla_bytes_per_second: float


GIB = 2**30

# jax.Device.device_kind -> Chip
CHIPS = {
    "TPU v4": Chip("v4", 275e12, 32 * GIB, 1228e9, 90e9, 6.2e9, 241e12, 982.5e9),
    "TPU v5 lite": Chip("v5e", 197e12, 16 * GIB, 819e9, 90e9, 3.1e9, 197e12, 737.7e9),
    "TPU v5": Chip("v5p", 459e12, 95 * GIB, 2765e9, 180e9, 6.2e9, 394e12, 2350.4e9),
    "TPU v6 lite": Chip("v6e", 918e12, 32 * GIB, 1640e9, 180e9, 3.1e9, 918e12, 1638e9),
    # Links: 1200 GB/s / 2 directions / 3 axes / 2 devices. The two devices of a chip are connected
    # otherwise, which is not counted here.
    "TPU7x": Chip("TPU7x", 1153.5e12, 96 * GIB, 3690e9, 100e9, 6.2e9, 996e12, 3686e9),
    "NVIDIA H100 80GB HBM3": Chip("H100", 989e12, 80e9, 3350e9, 450e9, 50e9, 0.0, 0.0),
    "NVIDIA H200": Chip("H200", 989e12, 141e9, 4800e9, 450e9, 50e9, 0.0, 0.0),
    "NVIDIA B200": Chip("B200", 2250e12, 180e9, 7672e9, 900e9, 50e9, 0.0, 0.0),
    "NVIDIA A100-SXM4-80GB": Chip("A100", 312e12, 80e9, 2039e9, 300e9, 25e9, 0.0, 0.0),
}


def chip_of(device_kind: str) -> Chip | None:
    """The rates of a device of this `jax.Device.device_kind`; None if not in `CHIPS` (a CPU)."""
    return CHIPS.get(device_kind)


def peak_flops(device: Any) -> float | None:
    """bfloat16 FLOP/s of a `jax.Device`; None if it is not known."""
    chip = chip_of(device.device_kind)
    return chip.peak_flops if chip else None

"""Memory, time and communication of a training step on hardware that is not attached.

    igerg compile --config=configs/pretrain.py:large --topology=v5e:16x16

XLA's TPU compiler runs on any CPU (package libtpu, requirements-tpu.txt), and compiles the same
step that training runs. The report has two estimates of the step's time:

    roofline  max(compute, HBM, interconnect), each over the full step: everything overlaps, and
              every unit runs at its peak
    per_op    max(FLOPs / peak, bytes / bandwidth) of every instruction, summed: nothing overlaps.
              Rates and bytes are those of XLA's own `optimal_seconds`: on-chip memory counts as
              HBM, collectives as what they read and write locally, kernels as what they declare.
              With loops counted once, as XLA counts them, it is about 8 % above XLA's own sum for
              a step (`xla_loops_counted_once` in the JSON). Prefetches into on-chip memory, which
              overlap with other work, count too; `prefetch_seconds` is their part

With `data.length_buckets`, all of this is of the longest batches. The shorter ones, whose steps are
compiled too, are reported with their FLOPs and bytes.

Neither models how well a unit is used: small products, elementwise work on the vector unit, launch
overhead. The compiler's own `estimated_cycles`, also in the JSON, do, but do not cover kernels and
collectives. XLA's own totals count loops only once: see `hlo`.
"""

import importlib.util
import json
import re
import tempfile
import time
from collections.abc import Iterable
from typing import Any

import jax
from etils import epath
from jax.experimental import topologies

from igerg_jax import checks, storage
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.errors import OutOfMemory, UserError
from igerg_jax.parallel import chips, sharding
from igerg_jax.parallel.chips import GIB
from igerg_jax.tools.tpu_report import hlo, hlo_collectives, out_of_memory
from igerg_jax.tools.tpu_report.hlo_collectives import Collective
from igerg_jax.training import model_flops, train_state, train_step

SLOWEST = 12  # instructions that a report shows
MOST_DOUBLINGS = 6  # of the batch in a search: each is a compilation of minutes
# Remat policies of (vision, text) that a search tries, from least to most rematerialisation.
REMAT_PAIRS = (
    ("none", "none"),
    ("all_dots", "all_dots"),
    ("dots", "dots"),
    ("full", "dots"),  # most of the tokens are patches
    ("full", "full"),
)


def topology_devices(name: str, slices: int) -> list[Any]:
    """The devices of a TPU topology such as v5e:16x16, `slices` times over; none is attached.

    Raises:
      UserError: libtpu is missing, or does not know the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("--topology needs XLA's TPU compiler: pip install -r requirements-tpu.txt")
    extra = {"num_slices": slices} if slices > 1 else {}
    if name.startswith("v4"):
        extra["chip_config_name"] = "megacore"  # both cores are one device, as at run time
    try:
        return list(topologies.get_topology_desc(name, "tpu", **extra).devices)
    except Exception as error:  # libtpu raises several exception types
        reason = str(error).split("\n")[0]
        raise UserError(
            f"topology '{name}': {reason} (examples: v5e:2x4, v5e:16x16, "
            "v5p:8x8x8, v6e:16x16, v4:4x4x4, tpu7x:4x4x4)"
        ) from error


def compile_for(config: Any, topology: str, slices: int) -> dict[str, Any]:
    """Compiles a config's step for a topology ("" = this machine) and reads its costs.

    Returns:
      The report, of JSON values; sizes are bytes on one device, times are seconds.

    Raises:
      UserError: the mesh or the batch does not fit the topology.
      OutOfMemory: the program does not fit a device.
    """
    devices = topology_devices(topology, slices) if topology else None
    if slices > 1 and config.mesh.dcn == 1:
        config = config.copy_and_resolve_references()
        config.mesh.dcn = slices
    checks.check_step(config, devices)
    *shorter, setup = train_state.set_up_training(
        config, config.data.tokenizer.vocab_size, SENTENCEPIECE_IDS, devices
    ).by_length()
    times = [time.perf_counter()]
    lowered = train_step.lower_step(setup)
    times.append(time.perf_counter())
    cpu_before = time.process_time()
    try:
        compiled, text = _compile(lowered, to_file=bool(topology))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(out_of_memory.explain(setup, str(error))) from error
    times.append(time.perf_counter())
    params = setup.abstract_state.params
    return {
        "config": f"{config.name}:{config.preset}",
        "topology": topology or "this machine",
        "slices": slices,
        "devices": setup.mesh.size,
        "device_kind": setup.mesh.devices.flat[0].device_kind,
        "mesh": dict(setup.mesh.shape),
        "batch_size": config.train.batch_size,
        "examples_per_device": config.train.batch_size / setup.mesh.size,
        "remat": {"vision": config.model.vision.remat, "text": config.model.text.remat},
        "lowering_seconds": times[1] - times[0],
        "compile_seconds": times[2] - times[1],
        "compile_cpu_seconds": time.process_time() - cpu_before,  # of all threads together
        "memory": memory(setup, compiled),
        "parameters": [group._asdict() for group in sharding.groups(params)],
        "parameter_table": sharding.table(params),
        **costs(setup, compiled, text, slices),
        "shorter": [_costs_of_shorter(each, topology, slices) for each in shorter],
    }


def _costs_of_shorter(setup: train_state.TrainingSetup, topology: str, slices: int) -> dict:
    """The size of a shorter batch, and the costs of its step."""
    compiled, text = _compile(train_step.lower_step(setup), to_file=bool(topology))
    names = ("model_flops", "program_flops", "hbm_bytes_accessed", "step_seconds")
    found = costs(setup, compiled, text, slices)
    return {
        "context_tokens": setup.spec.context_tokens,
        "response_tokens": setup.spec.response_tokens,
        **{name: found[name] for name in names if name in found},
    }


def _compile(lowered: Any, to_file: bool) -> tuple[Any, str]:
    """(the compiled step, its HLO text); not from a cache, because its time is reported.

    With `to_file` the compiler dumps the text into a file, because jaxlib cannot parse every
    program of libtpu (seen for v5p: an async-update with three operands).
    """
    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        if not to_file:
            compiled = lowered.compile()
            return compiled, compiled.as_text()
        with tempfile.TemporaryDirectory() as folder:
            options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
            compiled = lowered.compile(compiler_options=options)
            (file,) = epath.Path(folder).glob("*.after_codegen.txt")
            return compiled, file.read_text()
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)


def search(config: Any, topology: str, slices: int) -> list[dict[str, Any]]:
    """Finds the largest batch that fits under each of `REMAT_PAIRS`; each attempt is a compilation.

    Returns:
      A report for each pair under which some batch fits, least rematerialisation first; `best`
      chooses among them.

    Raises:
      UserError: no topology; only the TPU compiler is known to report programs that do not fit.
    """
    if not topology:
        raise UserError("--search needs a --topology, such as v5e:2x4")
    reports = [_largest(config, topology, slices, remat) for remat in REMAT_PAIRS]
    return [report for report in reports if report]


def _largest(config: Any, topology: str, slices: int, remat: tuple[str, str]) -> dict | None:
    """Doubles or halves `train.batch_size` from the config's own, up to `MOST_DOUBLINGS` times."""
    config = config.copy_and_resolve_references()
    config.model.vision.remat, config.model.text.remat = remat
    config.data.length_buckets = ()  # the longest batches decide what fits
    smallest = len(topology_devices(topology, slices))
    size, best, fits = config.train.batch_size, None, 0
    too_large = size * 2 ** (MOST_DOUBLINGS + 1)
    while smallest <= size and fits < size < too_large:
        config.train.batch_size = size
        try:
            best = compile_for(config, topology, slices)
            print(f"remat={','.join(remat)} batch_size={size} fits", flush=True)
            fits, size = size, size * 2
        except OutOfMemory:
            print(f"remat={','.join(remat)} batch_size={size} does not fit", flush=True)
            too_large, size = size, size // 2
    return best


def memory(setup: train_state.TrainingSetup, compiled: Any) -> dict[str, int]:
    """Bytes on one device, by part. The state is donated, so its output takes no extra memory."""
    stats, state = compiled.memory_analysis(), setup.abstract_state
    parts = {
        "parameters": sharding.bytes_per_device(state.params),
        "optimizer": sharding.bytes_per_device(state.opt_state),
        "moving_average": sharding.bytes_per_device(state.ema_params),
    }
    parts["batch"] = stats.argument_size_in_bytes - sum(parts.values())
    parts["temporaries"] = stats.temp_size_in_bytes
    parts["program"] = stats.generated_code_size_in_bytes
    parts["outputs"] = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return parts | {"total": sum(parts.values())}


def costs(setup: train_state.TrainingSetup, compiled: Any, text: str, slices: int) -> dict:
    """FLOPs, bytes, collectives and time estimates, from the program's text."""
    program = hlo.Program(text)
    ops = program.ops()
    xla = compiled.cost_analysis() or {}
    sent = hlo_collectives.collectives(program, setup.mesh.size, slices)
    out: dict[str, Any] = {
        "model_flops": model_flops.model_flops(setup) / setup.mesh.size,
        "program_flops": sum(op.count * op.flops for op in ops),
        "bytes_accessed": sum(op.count * op.bytes for op in ops),
        "hbm_bytes_accessed": sum(op.count * op.hbm_bytes for op in ops),
        "xla_loops_counted_once": {
            name: xla.get(name) for name in ("flops", "bytes accessed", "optimal_seconds")
        },
        "collectives": collectives(sent),
        "between_slices": between_slices(sent),
    }
    chip = chips.chip_of(setup.mesh.devices.flat[0].device_kind)
    return out | estimates(out, ops, chip) if chip else out


def collectives(sent: list[Collective]) -> list[dict[str, Any]]:
    """One row per kind, group size and network."""
    rows = _sums((one, one.kind, one.group, one.crosses) for one in sent)
    names = ("kind", "group", "crosses_slices", "count", "bytes")
    return [dict(zip(names, row, strict=True)) for row in sorted(rows)]


def between_slices(sent: list[Collective]) -> list[dict[str, Any]]:
    """Traffic over the data-centre network by its origin in the step, largest first."""
    rows = _sums((one, one.kind, _short(one.op_name)) for one in sent if one.crosses)
    names = ("kind", "from", "count", "bytes")
    return [dict(zip(names, row, strict=True)) for row in sorted(rows, key=lambda row: -row[-1])]


def _sums(keyed: Iterable[tuple]) -> list[tuple]:
    """(*key, times, bytes) summed over collectives with the same key, from (collective, *key)."""
    sums: dict[tuple, tuple[float, float]] = {}
    for one, *key in keyed:
        count, size = sums.get(tuple(key), (0.0, 0.0))
        sums[tuple(key)] = count + one.count, size + one.count * one.wire_bytes
    return [(*key, *total) for key, total in sums.items()]


def _short(op_name: str) -> str:
    """An instruction's place in the Python program, shortened."""
    parts = re.sub(r"jit\(step\)/|while/body/|closed_call/|Igerg\.", "", op_name).split("/")
    return "/".join(parts[:2] + parts[2:][-3:])


def estimates(costs: dict[str, Any], ops: list[hlo.Op], chip: chips.Chip) -> dict[str, Any]:
    """Step times and the MFU that each implies."""
    terms = {
        "compute": costs["program_flops"] / chip.peak_flops,
        "hbm": costs["hbm_bytes_accessed"] / chip.hbm_bytes_per_second,
        "interconnect": sum(
            row["bytes"]
            / (chip.dcn_bytes_per_second if row["crosses_slices"] else chip.link_bytes_per_second)
            for row in costs["collectives"]
        ),
    }
    seconds, slowest = {"roofline": max(terms.values()), "per_op": None}, []
    prefetch_seconds = 0.0
    if chip.xla_flops:
        timed = [
            (op, op.count * max(op.flops / chip.xla_flops, op.bytes / chip.xla_bytes_per_second))
            for op in ops
        ]
        seconds["per_op"] = sum(each for _, each in timed) or None
        prefetch_seconds = sum(each for op, each in timed if op.is_prefetch)
        slowest = sorted(timed, key=lambda pair: -pair[1])[:SLOWEST]
    ideal = costs["model_flops"] / chip.peak_flops
    return {
        "chip": chip.name,
        "roofline_terms_seconds": terms,
        "step_seconds": seconds,
        "prefetch_seconds": prefetch_seconds,  # of per_op
        "mfu": {name: ideal / value for name, value in seconds.items() if value},
        "estimated_cycles": sum(op.count * op.cycles for op in ops),
        "slowest": [
            {
                "from": _short(op.op_name) or op.name,
                "count": op.count,
                "seconds": each,
                "flops": op.count * op.flops,
                "bytes": op.count * op.bytes,
            }
            for op, each in slowest
        ],
    }


def describe(report: dict[str, Any]) -> str:
    """The report as text."""
    chip = chips.chip_of(report["device_kind"])
    mesh = ", ".join(f"{axis}={size}" for axis, size in report["mesh"].items())
    slices = f" x {report['slices']} slices" if report["slices"] > 1 else ""
    lines = [
        f"{report['config']} on {report['topology']}{slices}",
        f"  {report['devices']} x {report['device_kind']}; mesh {mesh}; "
        f"{report['examples_per_device']:g} examples per device of {report['batch_size']}; "
        f"remat vision={report['remat']['vision']}, text={report['remat']['text']}",
        f"  compiled in {report['compile_seconds']:.0f} s "
        f"({report['compile_cpu_seconds']:.0f} s of CPU); "
        f"traced and lowered in {report['lowering_seconds']:.0f} s",
        report["parameter_table"],
        "memory per device",
    ]
    lines += [f"  {name:>16} {size / GIB:9.3f} GiB" for name, size in report["memory"].items()]
    if chip:
        lines[-1] += f"  of {chip.hbm_bytes / GIB:.2f}"  # of the total
    lines += [
        "per step and device",
        f"  {'model':>16} {report['model_flops'] / 1e12:9.3f} TFLOP",
        f"  {'program':>16} {report['program_flops'] / 1e12:9.3f} TFLOP",
        f"  {'HBM':>16} {report['hbm_bytes_accessed'] / 1e9:9.2f} GB read and written",
    ]
    lines += [
        f"  {row['kind']:>16} {row['bytes'] / 1e9:9.3f} GB sent, {row['count']:g} times, "
        f"groups of {row['group']} ({'dcn' if row['crosses_slices'] else 'ici'})"
        for row in report["collectives"]
    ]
    lines += [
        f"  between slices: {row['bytes'] / 1e6:.2f} MB, {row['count']:g} times, "
        f"{row['kind']} of {row['from']}"
        for row in report["between_slices"][:8]
    ]
    lines += [
        f"  batches of {row['context_tokens']} + {row['response_tokens']} tokens: "
        f"{row['model_flops'] / 1e12:.3f} TFLOP of the model, {row['program_flops'] / 1e12:.3f} of "
        f"the program, {row['hbm_bytes_accessed'] / 1e9:.2f} GB"
        for row in report["shorter"]
    ]
    return "\n".join(lines + _describe_times(report) if chip else lines)


def _describe_times(report: dict[str, Any]) -> list[str]:
    return [
        "time",
        *(
            f"  {name:>16} {value * 1e3:9.2f} ms"
            for name, value in report["roofline_terms_seconds"].items()
        ),
        *(
            f"  {name:>16} {value * 1e3:9.2f} ms per step, MFU {report['mfu'][name]:.1%}"
            for name, value in report["step_seconds"].items()
            if value
        ),
        f"largest shares of the per_op time ({report['prefetch_seconds'] * 1e3:.2f} ms of it are "
        "prefetches)",
        *(
            f"  {row['seconds'] * 1e3:9.2f} ms  {row['flops'] / 1e12:7.3f} TFLOP  "
            f"{row['bytes'] / 1e9:7.2f} GB  {row['count']:g} times  {row['from']}"
            for row in report["slowest"]
        ),
    ]


def best(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """The report with the highest MFU by its most pessimistic estimate, else the first one."""
    return max(reports, key=lambda r: list(r.get("mfu", {"": 0.0}).values())[-1])


def compare(reports: list[dict[str, Any]]) -> str:
    """One line per report."""
    lines = []
    for r in reports:
        mfu = "  ".join(f"MFU by {name} {value:.1%}" for name, value in r.get("mfu", {}).items())
        lines.append(
            f"remat={','.join(r['remat'].values()):<18} "
            f"{r['examples_per_device']:g} examples per device  "
            f"{r['memory']['total'] / GIB:.2f} GiB  {mfu}".rstrip()
        )
    return "\n".join(lines)


def write(report: dict[str, Any], path: epath.PathLike) -> None:
    """Writes the report as JSON."""
    storage.write_text(epath.Path(path), json.dumps(report, indent=1) + "\n")

"""The message for a training step that does not fit a device: largest arrays, what to change."""

from typing import Any

import jax

from igerg_jax.parallel import sharding
from igerg_jax.parallel.chips import GIB
from igerg_jax.setup import base_key
from igerg_jax.training import train_state, train_step


def explain(setup: train_state.TrainingSetup, message: str) -> str:
    """The message for a step that does not fit."""
    config, state = setup.config, setup.abstract_state
    first = next((line for line in message.split("\n") if "memory" in line.lower()), message)
    rows = sorted(largest(setup), key=lambda row: -row[1])[:8]
    lines = [
        f"{config.name}:{config.preset} does not fit: {first.split('RESOURCE_EXHAUSTED: ')[-1]}"
    ]
    lines += [f"  {size / GIB:8.2f} GiB  {name}" for name, size in rows]
    resident = sharding.bytes_per_device((state.params, state.opt_state, state.ema_params))
    lines.append(f"  {resident / GIB:8.2f} GiB  of parameters and optimizer stay between steps")
    lines.append(
        "Lower train.batch_size or raise train.accumulate_steps; set model.vision.remat and "
        "model.text.remat to 'full'; raise mesh.fsdp; lower model.vocab_chunk_tokens"
    )
    return "\n".join(lines)


def largest(setup: train_state.TrainingSetup) -> list[tuple[str, int]]:
    """The largest arrays of the traced step: (shape and place, bytes on one device).

    These are the arrays before XLA fuses; batch dimensions are assumed to be sharded over the
    devices that hold examples.
    """
    shards = sharding.batch_shards(setup.mesh)
    rows = setup.spec.batch_size
    sizes: dict[str, int] = {}
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in setup.spec.shapes().items()
    }

    def gradient(params, batch):
        key = base_key(setup.config)
        return train_step.loss_gradient(setup.config, setup.model, params, batch, key, 0)[0]

    jaxpr = jax.make_jaxpr(gradient)(setup.abstract_state.params, batch)
    for equation in _equations(jaxpr.jaxpr):
        for out in equation.outvars:
            shape = getattr(out.aval, "shape", ())
            if any(size and size % rows == 0 for size in shape):
                size = out.aval.size * out.aval.dtype.itemsize // shards
                name = f"{out.aval.str_short()} {equation.primitive.name}"
                where = str(equation.source_info.name_stack)
                sizes[f"{name} in {where}"] = size
    return list(sizes.items())


def _equations(jaxpr: Any):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)

"""Model FLOPs of a training step, counted in its jaxpr.

    model FLOPs = 3 x (FLOPs of the matrix products of the loss's forward pass)

A product of [m, k] with [k, n] is 2 m k n. The count covers vision, both sides of the text model,
attention's two products, the heads, the vocabulary and the judge; a backward pass costs two forward
passes. It excludes rematerialisation (Chowdhery et al. 2022, PaLM, appendix B) and elementwise
operations. A frozen vision tower has no backward pass and counts once. Whatever no loss depends on
(vision, for a mixture whose objectives read only text) is not counted: XLA removes it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import partial_eval

from igerg_jax import kept_traces
from igerg_jax.objectives import combination
from igerg_jax.setup import base_key
from igerg_jax.training import train_state


def model_flops(setup: train_state.TrainingSetup) -> int:
    """Model FLOPs of one step over the global batch; where traces are kept, so is the count."""
    description = f"model_flops {setup.describe()}"
    return int(kept_traces.kept(description, lambda: str(_counted(setup)).encode()))


def _counted(setup: train_state.TrainingSetup) -> int:
    """`model_flops`, from a trace."""
    config, model, params = setup.config, setup.model, setup.abstract_state.params

    def loss(params, batch):
        return combination.sums(config, model, params, batch, base_key(config), 0)[0]

    arguments = params, setup.abstract_batch
    total = 3 * forward_flops(loss, *arguments)
    if config.model.vision.frozen:
        total -= 2 * forward_flops(loss, *arguments, module="vision_tower")
    return total


def forward_flops(function: Callable, *arguments: Any, module: str = "") -> int:
    """FLOPs of the matrix products and convolutions that a function's results need.

    Args:
      function: a function that JAX can trace.
      module: count only those inside Linen modules of this name; "" = all.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    live, _ = partial_eval.dce_jaxpr(jaxpr, used_outputs=True)
    return _count(live, module)


def _count(jaxpr: Any, module: str) -> int:
    return sum(_equation(equation, module) for equation in jaxpr.eqns)


def _equation(equation: Any, module: str) -> int:
    name, parameters = equation.primitive.name, equation.params
    if module in str(equation.source_info.name_stack).split("/"):
        module = ""  # inside it, everything counts
    if name in ("dot_general", "conv_general_dilated") and module:
        return 0
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * kernel.size // features
    if name == "cond":
        return max(_count(branch.jaxpr, module) for branch in parameters["branches"])
    times = parameters["length"] if name == "scan" else 1
    inner = [getattr(value, "jaxpr", value) for value in parameters.values()]
    return times * sum(_count(jaxpr, module) for jaxpr in inner if hasattr(jaxpr, "eqns"))

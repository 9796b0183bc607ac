"""summary.json: what a run that has ended says about itself."""

from __future__ import annotations

from typing import Any

import jax
from etils import epath

from igerg_jax import objectives
from igerg_jax.run import logs
from igerg_jax.training.step_log import StepLog
from igerg_jax.training.train_state import TrainState


def summarise(
    config: Any, workdir: epath.Path, state: TrainState, resumed_from: int | None, log: StepLog
) -> dict[str, Any]:
    """summary.json, except for what the final evaluation adds."""
    done, clock = int(state.step) - (resumed_from or 0), log.clock
    return {
        "name": config.name,
        "preset": config.preset,
        "steps": config.train.steps,
        "final_step": int(state.step),
        "examples_per_second": None,
        "input_wait_fraction": clock.input_seconds / clock.training_seconds if done else None,
        "seconds_to_first_step": log.seconds_to_first_step,
        "skipped_steps": int(state.skipped_steps),
        "parameters": count_parameters(state.params),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "objectives": objective_summaries(workdir, objectives.active(config)),
        "resumed_from": resumed_from,
    } | (log.rates(done) if done else {})


def count_parameters(params: Any) -> dict[str, int]:
    """Numbers of parameters by part of the model."""
    parts = {"vision_tower": "vision", "judge_network": "judge"}
    counts = {"vision": 0, "text": 0, "judge": 0}
    for name, tree in params.items():
        counts[parts.get(name, "text")] += sum(leaf.size for leaf in jax.tree.leaves(tree))
    return counts | {"total": sum(counts.values())}


def objective_summaries(workdir: epath.Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """summary.json's "objectives": {name: {"summary", "first_loss", "last_loss"}}.

    The losses are those of the first and the last line of metrics.jsonl that have one.
    """
    lines = logs.read_jsonl(workdir / "metrics.jsonl")
    summaries = {}
    for name in names:
        values = [line[f"loss/{name}"] for line in lines if line.get(f"loss/{name}") is not None]
        if values:
            summary = objectives.OBJECTIVES[name].summary
            summaries[name] = {"summary": summary, "first_loss": values[0], "last_loss": values[-1]}
    return summaries

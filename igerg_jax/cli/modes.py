"""What main.py's modes do once the command line is parsed. Results are printed to stdout."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import jax
from etils import epath

from igerg_jax import report, storage
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.data import datasets
from igerg_jax.errors import OutOfMemory, UserError
from igerg_jax.evaluation import evaluators, trained_run
from igerg_jax.parallel import sharding
from igerg_jax.run import checkpoint, workdirs
from igerg_jax.setup import build_model
from igerg_jax.training import train_loop

Turns = list[tuple[str, str | None]]  # (words, image file or None), oldest first


def keep_compiled(config: Any) -> None:
    """Keeps compiled programs between runs, unless JAX is told already where to."""
    if config.compilation_cache_dir and jax.config.jax_compilation_cache_dir is None:
        folder = os.path.expanduser(config.compilation_cache_dir)
        jax.config.update("jax_compilation_cache_dir", folder)


def train(config: Any, folder: epath.Path) -> None:
    """Trains in the workdir `folder`; `igerg_jax.training.train_loop` says what that leaves there.

    Raises:
      UserError: what needs no data is refused before any is prepared.
    """
    train, mesh = config.train, sharding.make_mesh(config.mesh)
    sharding.check_batch(train.batch_size, train.accumulate_steps, mesh, "train.batch_size")
    sharding.check_batch(config.evaluate.batch_size, 1, mesh, "evaluate.batch_size")
    build_model(config, config.data.tokenizer.vocab_size, SENTENCEPIECE_IDS)
    if not (folder / workdirs.CHECKPOINTS).exists():
        check_first_parameters(config)
    train_loop.run(config, folder)


def check_first_parameters(config: Any) -> None:
    """Raises UserError where there is nothing to start from, or too little."""
    if config.init_from:
        checkpoint.find(config.init_from)
    elif config.model.vision.frozen and config.data.dataset != datasets.SYNTHETIC:
        raise UserError(
            "model.vision.frozen=True would keep random weights: start from a checkpoint that has "
            "the vision tower (--config.init_from=DIR), or train it "
            "(--config.model.vision.frozen=False)"
        )


def evaluate(config: Any, path: epath.PathLike, folder: epath.Path | None) -> None:
    """Prints metrics on the validation and test splits; with a workdir, renews its report."""
    setup, prepared, params = trained_run.load_with_data(config, path)
    evaluator = evaluators.Evaluator(setup, prepared)
    if folder is None:
        splits = {"valid": config.data.eval_split, "test": config.data.test_split}
        metrics = {
            name: evaluator.metrics(params, split, generate=True)[0]
            for name, split in splits.items()
        }
    else:
        folder.mkdir(parents=True, exist_ok=True)
        found = evaluators.run(setup, evaluator, params, folder)
        metrics = found["evaluation"]
        if jax.process_index() == 0:
            renew_summary(folder, config, found)
            print(f"report: {report.write_report(folder)}", file=sys.stderr)
    if jax.process_index() == 0:
        print(json.dumps(metrics, indent=2))


def answer_split(config: Any, path: epath.PathLike, folder: epath.Path | None) -> None:
    """Answers `generate.examples` windows of the test split: samples.jsonl, or printed lines."""
    setup, prepared, params = trained_run.load_with_data(config, path)
    evaluator = evaluators.Evaluator(setup, prepared)
    rows = evaluator.samples(params, config.data.test_split, config.generate.examples)
    if jax.process_index():
        return
    if folder is None:
        for row in rows:
            print(json.dumps({"reference": row["reference"], "generated": row["generated"]}))
        return
    folder.mkdir(parents=True, exist_ok=True)
    evaluators.write_samples(rows, folder)
    print(f"{len(rows)} conversations in {folder / evaluators.SAMPLES_FILE}", file=sys.stderr)


def talk(config: Any, path: epath.PathLike, turns: Turns, response_image: str | None) -> None:
    """Prints the emotions that the model sees, then its answer."""
    if response_image and not config.data.include_response_image:
        raise UserError(
            "this config does not show the model the answering turn's image "
            "(data.include_response_image=False); leave the last --image out"
        )
    folder = checkpoint.find(path)
    tokenizer = trained_run.tokenizer_of(config, folder)
    setup, params = trained_run.load(config, folder, tokenizer)
    answer = evaluators.respond_once(setup, tokenizer, params, turns, response_image)
    if jax.process_index() == 0:
        print(describe(answer))


def compile_only(config: Any, topology: str, slices: int, file: str | None, search: bool) -> None:
    """Compiles the training step for `topology` ("" = this machine); prints what it needs.

    Args:
      search: find the largest batch of several remat policies instead, and report the best.

    Raises:
      UserError: no such topology, or none for a search; or the config does not fit it.
      OutOfMemory: the step does not fit a device.
    """
    from igerg_jax.tools.tpu_report import compile_report

    if search:
        found = compile_report.search(config, topology, slices)
        if not found:
            raise OutOfMemory("no remat policy fits, however small the batch: raise mesh.fsdp")
        print(compile_report.compare(found))
        report = compile_report.best(found)
    else:
        report = compile_report.compile_for(config, topology, slices)
    if file:
        compile_report.write(report, file)
    print(compile_report.describe(report))


def renew_summary(folder: epath.Path, config: Any, found: dict[str, Any]) -> None:
    """Puts a new evaluation into summary.json; the rest of it stays."""
    path = folder / "summary.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    summary = {"name": config.name, "preset": config.preset} | old | found
    storage.write_text(path, json.dumps(summary, indent=2) + "\n")


def describe(answer: dict[str, Any]) -> str:
    """`evaluate.respond_once`'s answer, for a person to read."""
    lines = []
    for turn in answer["context"]:
        lines += [turn["text"], f"    seen: {probabilities(turn['seen'])}"]
    if answer["response_image"]:
        seen = answer["response_image"]["seen"]
        lines += ["(the one who answers)", f"    seen: {probabilities(seen)}"]
    if answer["sequence_emotion"]:
        lines.append(f"all images together: {probabilities(answer['sequence_emotion'])}")
    lines.append(f"response: {answer['response']}")
    lines.append(f"    the judge reads: {probabilities(answer['judge'])}")
    return "\n".join(lines)


def probabilities(p: dict[str, float] | None) -> str:
    """Every emotion, the likeliest first."""
    if p is None:
        return "no image"
    return "  ".join(f"{name} {p[name]:.2f}" for name in sorted(p, key=p.get, reverse=True))

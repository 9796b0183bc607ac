"""The modes, once the command line is parsed. Results go to stdout."""

import contextlib
import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from igerg_jax import checks, report, storage
from igerg_jax.cli.chat import converse, typed_lines
from igerg_jax.data import image_domain, mixtures, pipeline
from igerg_jax.errors import OutOfMemory, UserError
from igerg_jax.evaluation import conversation, samples, trained_run
from igerg_jax.evaluation.evaluator import Evaluator
from igerg_jax.evaluation.final_evaluation import evaluate_run
from igerg_jax.evaluation.responder import Responder, Turn
from igerg_jax.run import checkpoint, command_line, workdirs
from igerg_jax.tools.tpu_report import compile_report
from igerg_jax.training import train_loop


def train(config: Any, workdir: epath.Path) -> None:
    """Trains in `workdir`; `igerg_jax.training.train_loop.run` lists the files that it writes."""
    checks.check_training(config, starts=not (workdir / workdirs.CHECKPOINTS).exists())
    train_loop.run(config, workdir)


def evaluate(config: Any, path: epath.PathLike, workdir: epath.Path | None) -> None:
    """Prints metrics on `final_evaluation.final_splits`; with a workdir, updates its report.

    Args:
      path: a checkpoint, in any form that `igerg_jax.run.checkpoint.find` accepts.
    """
    checks.check_inference(config)
    run = trained_run.open_run(path, config, mixtures.SPLIT_KEYS)
    evaluator = Evaluator(run.setup, run.dataset)
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
    results = evaluate_run(evaluator, config, run.params, workdir)
    if jax.process_index():
        return
    if workdir is not None:
        update_summary(workdir, config, results)
        print(f"report: {report.write_report(workdir)}", file=sys.stderr)
    print(json.dumps(results["evaluation"], indent=2))


def generate_samples(config: Any, path: epath.PathLike, workdir: epath.Path | None) -> None:
    """Responds to `generate.examples` windows of the test split; writes samples.jsonl or stdout."""
    checks.check_inference(config)
    run = trained_run.open_run(path, config, ["test_split"])
    evaluator = Evaluator(run.setup, run.dataset)
    rows = evaluator.samples(run.params, config.data.test_split, config.generate.examples)
    if jax.process_index():
        return
    if workdir is None:
        for row in rows:
            print(json.dumps({"reference": row["reference"], "generated": row["generated"]}))
        return
    workdir.mkdir(parents=True, exist_ok=True)
    samples.write(rows, workdir)
    print(f"{len(rows)} conversations in {workdir / samples.FILE}", file=sys.stderr)


def generate_once(
    config: Any,
    path: epath.PathLike,
    turns: Sequence[Turn],
    response_image: str | None,
    emotion: str | None,
) -> None:
    """Prints the emotions that the model sees in a conversation, then its response.

    Args:
      response_image: the file of the responder's face, if any.
      emotion: the emotion to respond with; None = the one seen in the response's image.
    """
    checks.check_inference(config)
    if response_image and not config.data.include_response_image:
        raise UserError(
            "this config does not show the model the response's image "
            "(data.include_response_image=False); leave the last --image out"
        )
    responder = Responder.open(path, config)
    answer = conversation.respond(responder, turns, response_image, emotion)
    if jax.process_index() == 0:
        print(conversation.describe(answer))
        images = [image for _, image in turns] + [response_image]
        _warn_of_unfamiliar_images(config, path, [image for image in images if image])


def _warn_of_unfamiliar_images(config: Any, path: epath.PathLike, given: Sequence[Any]) -> None:
    """Names the images that are unlike those that the checkpoint under `path` was trained on."""
    if not given:
        return
    domain = image_domain.read(checkpoint.tokenizer_file(checkpoint.find(path)).parent)
    if domain is None:
        print(image_domain.unknown(path), file=sys.stderr)
        return
    pixels = np.stack([pipeline.read_pixels(image, config) for image in given])
    strange_N = domain.outside(pixels)
    if strange_N.any():
        names = ", ".join(image for image, strange in zip(given, strange_N, strict=True) if strange)
        print(f"{domain.warning(strange_N.sum(), len(given))}: {names}", file=sys.stderr)


def chat(config: Any, path: epath.PathLike) -> None:
    """Talks with a model in the terminal, until Ctrl-D or Ctrl-C."""
    checks.check_inference(config)
    if jax.process_count() > 1:
        raise UserError("--mode=chat runs in one process: leave out config.distributed's keys")
    responder = Responder.open(path, config)
    print("compiling", file=sys.stderr)
    responder.compile([responder.strategy], for_each_face=False)
    print("/face FILE shows it a face; /help lists what else there is", file=sys.stderr)
    is_terminal = sys.stdin.isatty()
    lines = typed_lines(is_terminal)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C while it answers
        converse(responder, lines, functools.partial(print, flush=True))


def compile_step(config: Any, topology: str, slices: int, file: str | None, search: bool) -> None:
    """Compiles the training step for `topology` ("" = this machine); prints its memory and FLOPs.

    Args:
      slices: the number of slices, each of that topology.
      file: a file to which the report is also written, as JSON.
      search: find the largest batch under each of several remat policies instead, and report the
        best.

    Raises:
      UserError: unknown topology, or none for a search; or the config does not fit it.
      OutOfMemory: the step does not fit a device.
    """
    if file:
        path = _report_file(file)
    if search:
        reports = compile_report.search(config, topology, slices)
        if not reports:
            raise OutOfMemory("no remat policy fits, however small the batch: raise mesh.fsdp")
        print(compile_report.compare(reports))
        best = compile_report.best(reports)
    else:
        best = compile_report.compile_for(config, topology, slices)
    print(compile_report.describe(best), flush=True)
    if file:
        compile_report.write(best, path)


def _report_file(text: str) -> pathlib.Path:
    """The path in --report; creates its folder. Raises UserError where no file can be written."""
    folder = storage.local_path(text).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--report={text}: cannot create '{folder}': {error.strerror}") from error
    return command_line.new_file("report", text)


def update_summary(workdir: epath.Path, config: Any, results: dict[str, Any]) -> None:
    """Replaces the evaluation in summary.json and keeps the rest."""
    path = workdir / workdirs.SUMMARY_FILE
    old = storage.read_json_object(path)
    summary = {"name": config.name, "preset": config.preset} | old | results
    storage.write_text(path, json.dumps(summary, indent=2) + "\n")

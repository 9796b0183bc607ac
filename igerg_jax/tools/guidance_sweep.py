"""The trade-off of guidance: how well responses follow the face, against fluency, by strength.

    python -m igerg_jax.tools.guidance_sweep --workdir=RUN --guidance=0,0.5,1,2,4
    python -m igerg_jax.tools.guidance_sweep --workdir=DIR --checkpoint=small

RUN is a run's folder; its newest checkpoint, or the one that --checkpoint names, responds to
windows of a split once for each value of generate.guidance, all else as the run was configured.
RUN/guidance.json gets one entry a value, and RUN/report.html shows them. --text_labeller names the
files of labellers besides the lexicon (else the run's own evaluate.text_labeller). All values share
the compiled programs. Exit codes: 0; 2 = a mistake in the command or its files, named in one
message.

    emotion_following      and the others of that name, as in summary.json: responses to seven faces
    emotion_asked          the same of responses to windows with their own faces that were asked for
                           each emotion, as `--emotion` does; not without model.emotion_embedding
    generated_perplexity   of the generated responses under the model without guidance
    response_perplexity    of people's responses under the guided model, generate.guidance_floor
                           left out: it gives no probability to many words that people use
    dist_2                 of the generated responses, "reference_dist_2" of people's
    with_cue, mean_cues, mostly_cues, repeats, broken_off
                           of the responses to seven faces, as in answers.json
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from igerg_jax import checks, environment, report, storage, text_labeller
from igerg_jax.data import mixtures
from igerg_jax.decoding.guidance import RANGE
from igerg_jax.errors import UserError
from igerg_jax.evaluation import response_statistics, trained_run
from igerg_jax.evaluation.evaluator import Evaluator
from igerg_jax.run import checkpoint, command_line, workdirs
from igerg_jax.text_labeller import ORDINALS

FILE = "guidance.json"  # in a workdir
RESPONSE_STATISTICS = ("with_cue", "mean_cues", "mostly_cues", "repeats", "broken_off")


def measure(
    evaluator: Evaluator, params: Any, split: str, guidance: Sequence[float], windows: int
) -> dict[str, Any]:
    """The measurements in `FILE`: "points", one for each value of `guidance`; "people", the same
    metrics of people's responses; "following_windows", the number shown with seven faces.

    Args:
      params: on the evaluator's mesh.
      windows: number shown with their own face, for the metrics other than following;
        `evaluate.following_examples` are shown with seven faces.

    Raises:
      UserError: the split's windows have no face of every emotion to show.
    """
    points, people = [], {}
    conditioned = evaluator.inference.setup.config.model.emotion_embedding != "none"
    for value in guidance:
        guided = evaluator.at_guidance(value)
        followed = guided.following(params, split)
        if followed is None:
            raise UserError(
                f"'{split}' has no labelled image of every emotion that the model is shown, or "
                "evaluate.following_examples is 0: there is no following to measure"
            )
        fluency = guided.fluency(params, split, windows)
        of_model, of_people = (
            followed.answers[k][response_statistics.ALL] for k in ("model", "people")
        )
        people = {name: of_people[name] for name in RESPONSE_STATISTICS}
        people["dist_2"] = fluency["reference_dist_2"]
        points.append(
            {"guidance": value}
            | followed.values
            | (guided.asked(params, split) if conditioned else {})
            | fluency
            | {name: of_model[name] for name in RESPONSE_STATISTICS}
        )
    shown = sum(followed.matrix[0])
    return {"following_windows": shown, "points": points, "people": people}


def run(argv: list[str]) -> None:
    """Runs a command line. Raises UserError if it is wrong."""
    values = command_line.parse(argv, _flags)
    command_line.require(values, "workdir")
    guidance, workdir = _guidance(values.guidance), storage.parse_path(values.workdir)
    if not values.checkpoint and not (workdir / workdirs.CHECKPOINTS).is_dir():
        raise UserError(f"--workdir={values.workdir} is not a run's folder: it has no checkpoints")
    folder = checkpoint.find(values.checkpoint or workdir)
    config = trained_run.stored_config(folder, values.batch_size)
    config.evaluate.text_labeller = values.text_labeller or config.evaluate.text_labeller
    if values.windows is not None:
        config.evaluate.following_examples = values.windows
    windows = values.windows or config.evaluate.generated_examples
    split = values.split or config.data.test_split
    workdirs.check_writable(workdir)
    checks.check_inference(config)
    opened = trained_run.open_run(folder, config, mixtures.SPLIT_KEYS)
    dataset = opened.dataset
    if split not in dataset.split_names:
        raise UserError(f"no split '{split}'; available: {', '.join(dataset.split_names)}")
    evaluator = Evaluator(opened.setup, dataset)
    measured = {
        "checkpoint": folder.name,
        "split": split,
        "windows": min(windows, dataset.split(split).num_windows),
        "text_labeller": text_labeller.summary(evaluator.labellers),
        **measure(evaluator, opened.params, split, guidance, windows),
    }
    if jax.process_index():
        return
    print(describe(measured["points"]), flush=True)  # first: it took minutes
    workdir.mkdir(parents=True, exist_ok=True)
    storage.write_text(workdir / FILE, json.dumps(measured, indent=1) + "\n")
    print(f"report: {report.write_report(workdir)}", file=sys.stderr)


def describe(points: Sequence[dict[str, Any]]) -> str:
    """A line for each value of guidance."""
    lines = []
    for point in points:
        by = {ordinal: point.get(f"emotion_following_{ordinal}") for ordinal in ORDINALS}
        found = [f"{x:.3f} by the {ordinal} labeller" for ordinal, x in by.items() if x is not None]
        also = f" ({', '.join(found)})" if found else ""
        lines.append(
            f"guidance {point['guidance']:g}: following {point['emotion_following']:.3f}{also}, "
            f"perplexity of the generated {point['generated_perplexity']:.1f}, of people's "
            f"{point['response_perplexity']:.1f}, dist-2 {point['dist_2']:.3f}"
        )
    return "\n".join(lines)


def _guidance(texts: Sequence[str]) -> list[float]:
    """The distinct values in ascending order. Raises UserError for one that is not allowed."""
    try:
        values = sorted({float(text) for text in texts})
    except ValueError as error:
        raise UserError(f"--guidance takes numbers separated by commas: {error}") from error
    if not values or not all(map(RANGE.allows, values)):
        raise UserError(f"--guidance={','.join(texts)}: give numbers of at least 0")
    return values


def _flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    define = functools.partial(flags.DEFINE_string, default="", flag_values=values)
    define("workdir", help="A run's folder, or that of an evaluation.")
    define("checkpoint", help="Checkpoint or published weights; default the newest of --workdir.")
    define("text_labeller", help="Files of igerg_jax.tools.train_text_labeller.")
    define("split", help="Split to respond to; default the run's data.test_split.")
    strengths = ["0", "0.5", "1", "2", "4"]
    flags.DEFINE_list("guidance", strengths, "Values of generate.guidance.", flag_values=values)
    number = functools.partial(flags.DEFINE_integer, default=None, lower_bound=1)
    number(
        "windows",
        help="Windows to respond to; default evaluate.following_examples with seven faces, and "
        "evaluate.generated_examples with their own.",
        flag_values=values,
    )
    number("batch_size", help="Default evaluate.batch_size of the run.", flag_values=values)
    return values


main = functools.partial(command_line.main, doc=__doc__, define_flags=_flags, run=run)

if __name__ == "__main__":
    environment.run(main)

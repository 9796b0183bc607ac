"""The evaluation that ends a run, on every split that the config names, and the files it leaves."""

import functools
import json
from typing import Any

import jax
from etils import epath

from igerg_jax import storage, text_labeller
from igerg_jax.data import mixtures
from igerg_jax.evaluation import following, response_statistics, samples
from igerg_jax.evaluation.evaluator import Evaluator, Measured

WINDOWS_FILE = "windows.json"  # in a workdir: what was measured on each window


def final_splits(config: Any) -> dict[str, str]:
    """{name in summary.json: split} of the splits on which a trained model is evaluated."""
    data = config.data
    named = {"valid": data.eval_split, "test": data.test_split}
    return named | {split: split for split in data.extra_test_splits}


def evaluate_run(
    evaluator: Evaluator, config: Any, params: Any, workdir: Any | None
) -> dict[str, Any]:
    """Measures every metric on all of `final_splits`.

    Args:
      params: on the evaluator's mesh.
      workdir: a path (pathlib or epath) that exists; process 0 writes samples.jsonl, windows.json
        and, if emotion following was measured, following.jsonl and answers.json to it. None: no
        files.

    Returns:
      summary.json's "evaluation", "sizes" (`uncertainty.sizes`), "confusion_matrix" (of image
      emotions), "response_matrix" (emotions labelled and expressed), "following_matrix" (emotions
      shown and expressed) and "cut" (`lengths.cut_shares`), by the names of `final_splits`;
      "labels" (`mixtures.labels`); and "text_labeller", how well the labellers besides the lexicon
      do on held-out texts (`text_labeller.summary`).
    """
    kinds = "evaluation sizes confusion_matrix response_matrix following_matrix cut".split()
    results: dict[str, Any] = {kind: {} for kind in kinds}
    results["labels"] = mixtures.labels(config.data)
    results["text_labeller"] = text_labeller.summary(evaluator.labellers)
    gallery: list[dict[str, Any]] = []
    statistics: dict[str, Any] = {}
    windows: dict[str, dict[str, Any]] = {}
    # Where data have no public test split, `test` may be the split that `valid` is: measured once.
    measure = functools.cache(functools.partial(_measure, evaluator, params))
    for name, split in final_splits(config).items():
        measured, followed = measure(split)
        values, windows[name] = dict(measured.values), {"response": measured.windows}
        if followed is not None:
            values |= followed.values
            results["following_matrix"][name] = followed.matrix
            statistics[name] = followed.answers
            windows[name]["following"] = followed.windows
            if name == "test":
                gallery = followed.rows
        results["evaluation"][name], results["sizes"][name] = values, measured.sizes
        for kind, of in {"confusion_matrix": "image", "response_matrix": "response"}.items():
            if of in measured.confusion:
                results[kind][name] = measured.confusion[of]
        if cut := evaluator.cut_shares(split):
            results["cut"][name] = cut
    if workdir is None:
        return results
    rows = evaluator.samples(params, config.data.test_split, config.generate.examples)
    if jax.process_index() == 0:
        workdir = epath.Path(workdir)
        samples.write(rows, workdir)
        storage.write_text(workdir / WINDOWS_FILE, json.dumps(windows) + "\n")
        if gallery:
            samples.write(gallery, workdir, following.FILE)
        if statistics:
            text = json.dumps(statistics, indent=1, ensure_ascii=False)
            storage.write_text(workdir / response_statistics.FILE, text + "\n")
    return results


def _measure(
    evaluator: Evaluator, params: Any, split: str
) -> tuple[Measured, following.Following | None]:
    return evaluator.metrics(params, split, generate=True), evaluator.following(params, split)

"""Evaluates a model on the splits of a dataset: metrics, and sample conversations.

The emotion of a generated text is the one that `lexicon.label` finds. The generator never sees the
word list, but the embedded datasets are labelled with it, so there the judge and the target
emotions come from it, and the labellers of `text_labeller` are the independent ones. For texts that
people labelled, the word list is independent as well. Letters as in `igerg_jax.batch`.
"""

import collections
import copy
import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from igerg_jax import lexicon, metrics, similarity, storage, text_labeller, text_metrics
from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.data import lengths, mixtures, pipeline
from igerg_jax.data.order import evenly_spaced
from igerg_jax.data.prepared import Prepared
from igerg_jax.data.windows import Split
from igerg_jax.decoding import search
from igerg_jax.evaluation import following, response_statistics, samples, uncertainty
from igerg_jax.evaluation.following import Following
from igerg_jax.evaluation.predictions import batch_counts, emotion_probabilities, guided_nll
from igerg_jax.parallel import sharding
from igerg_jax.setup import Jitted, Setup, replicated_key

WINDOWS_FILE = "windows.json"  # in a workdir: what was measured on each window

Confusion = list[list[int]]


class Measured(NamedTuple):
    """What `Evaluator.metrics` finds. What cannot be measured is left out."""

    values: dict[str, float]
    # Labelled (rows) and found emotions: "image" and, where responses are generated, "response".
    confusion: dict[str, Confusion]
    sizes: dict[str, int]  # `uncertainty.sizes`
    # Of each window, in the order of the split: "nll" of its response (nats), its "tokens", and the
    # number of its "conversation".
    windows: dict[str, list]


class Evaluator:
    """Evaluates parameters on the splits of a prepared dataset; compiles once per shape."""

    def __init__(
        self, setup: Setup, prepared: Prepared, between_batches: Callable[[], None] = lambda: None
    ):
        """`between_batches` is called before each batch; what it raises ends an evaluation."""
        self._setup, self._prepared, self._between_batches = setup, prepared, between_batches
        self.labellers = text_labeller.of_config(setup.config)
        self._similarity = similarity.of_config(setup.config)
        self._respond = search.Respond(setup)
        self._batch_counts = Jitted(setup, batch_counts)
        self._probabilities = Jitted(setup, emotion_probabilities)
        self._guided_nll = Jitted(setup, guided_nll)
        self._key = replicated_key(setup)

    def compile(self, params: Any, split: str) -> None:
        """Compiles what evaluations run, so that they need not wait for it.

        Args:
          params: `jax.ShapeDtypeStruct`s with their shardings will do.
          split: any of the dataset, for the shapes of a batch.
        """
        _, batch, rows_B = next(self._batches(self._prepared.split(split), np.arange(1)))
        self._batch_counts.compile(params, batch)
        if self._setup.config.evaluate.generated_examples:
            self._respond.compile(params, batch, self._key, rows_B)

    def metrics(self, params: Any, split: str, generate: bool) -> Measured:
        """Metrics over the first `evaluate.examples` windows of a split.

        Args:
          params: on the setup's mesh.
          split: its name in the dataset.
          generate: also generate responses to the first `evaluate.generated_examples` of those
            windows, compare them with the references, and say how certain each figure is.

        Every process returns the same.
        """
        evaluate = self._setup.config.evaluate
        data = self._prepared.split(split)
        examples = min(evaluate.examples or data.num_windows, data.num_windows)
        to_generate = min(evaluate.generated_examples, examples) if generate else 0
        totals, tokens, pending = _Totals(), [], None
        for start, batch, rows_B in self._batches(data, np.arange(examples)):
            launched = self._batch_counts(params, batch)
            if pending is not None:  # read one batch late, so that the device never waits
                totals.add(pending)
            pending = launched
            if start < to_generate:
                responses = self._respond(params, batch, self._key, rows_B)
                tokens.append(jax.device_get(responses.tokens_BxT)[: to_generate - start])
        totals.add(pending)
        counts, windows = totals.counts, totals.windows(examples)
        values = metrics.of_counts(counts)
        values["unigram_perplexity"] = text_metrics.unigram_perplexity(
            self._train_counts_V, counts["response_tokens"]
        )
        confusion = {"image": counts["image_emotion_accuracy"]}
        if to_generate:
            texts = [self._prepared.tokenizer.decode(row) for rows in tokens for row in rows]
            references, meant = _references(data, np.arange(to_generate))
            values |= metrics.of_texts(texts, references)
            if self._similarity is not None:
                values["similarity"] = self._similarity(texts, references)
            said, confusion["response"], of_emotions = self._expressed(texts, references, meant)
            values |= of_emotions | uncertainty.standard_errors(data, windows, said)
        return Measured(
            {name: value for name, value in values.items() if not math.isnan(value)},
            {name: matrix.tolist() for name, matrix in confusion.items() if matrix.any()},
            uncertainty.sizes(data, windows["image"], to_generate),
            {
                "nll": windows["nll"].round(4).tolist(),
                "tokens": windows["tokens"].tolist(),
                "conversation": uncertainty.conversations(data)[:examples].tolist(),
            },
        )

    def _expressed(
        self, texts: list[str], references: list[str], meant: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, float]]:
        """The emotions in generated texts by each labeller, "" = the lexicon; the lexicon's
        confusion matrix; and the metrics of them all, those of people's texts beside them."""
        said = {"": np.array([lexicon.label(text) for text in texts], np.int64)}
        said |= {ordinal: labeller.labels(texts) for ordinal, labeller in self.labellers.items()}
        values = {}
        for labeller, said_G in said.items():
            confusion = metrics.confusion_matrix(meant, said_G)
            values |= metrics.response_emotions(confusion, labeller)
        for ordinal, labeller in self.labellers.items():
            of_people = metrics.confusion_matrix(meant, labeller.labels(references))
            found = metrics.response_emotions(of_people, ordinal)
            values |= {f"reference_{name}": value for name, value in found.items()}
        confusion = metrics.confusion_matrix(meant, said[""])
        values["response_emotion_majority_rate"] = metrics.majority_rate(confusion)
        return said, confusion, values

    @functools.cached_property
    def _train_counts_V(self) -> np.ndarray:
        return self._prepared.response_token_counts(self._setup.config.data.train_split)

    def samples(self, params: Any, split: str, count: int) -> list[dict[str, Any]]:
        """Generates responses to `count` windows that are spread evenly over a split.

        Returns:
          The rows of samples.jsonl; every process returns the same.
        """
        data = self._prepared.split(split)
        ids = evenly_spaced(count, data.num_windows)
        rows: list[dict[str, Any]] = []
        for start, batch, rows_B in self._batches(data, ids):
            left = len(ids) - start
            tokens, probabilities, mask = self._responses(params, batch, rows_B, left)
            for i, window in enumerate(ids[start : start + len(tokens)]):
                of_window = {name: value[i] for name, value in probabilities.items()}
                text = self._prepared.tokenizer.decode(tokens[i])
                rows.append(samples.row(int(window), data, of_window, mask[i], text))
        return rows

    def following(self, params: Any, split: str) -> Following | None:
        """Responds to `evaluate.following_examples` windows of a split, with each of seven faces.

        Returns:
          None if that is 0, where the model is not shown the response's image, and where the
          split has no labelled image of some emotion. Every process returns the same.
        """
        config, data = self._setup.config, self._prepared.split(split)
        chosen = None
        if config.data.use_images and config.data.include_response_image:
            chosen = following.plan(data, config.evaluate.following_examples)
        if chosen is None:
            return None
        ids, face_ids = np.repeat(chosen.windows_W, NUM_EMOTIONS), chosen.faces_WxC.ravel()
        texts, probabilities, masks, cut = [], [], [], []
        for start, batch, rows_B in self._batches(data, ids, face_ids):
            tokens, of_rows, mask = self._responses(params, batch, rows_B, len(ids) - start)
            texts += [self._prepared.tokenizer.decode(row) for row in tokens]
            probabilities.append(of_rows)
            masks.append(mask)
            cut.append(tokens[:, -1] != self._setup.model.special.pad)  # EOS was forced there
        together = jax.tree.map(lambda *x: np.concatenate(x), *probabilities)
        return following.measure(
            chosen,
            data,
            texts,
            together,
            np.concatenate(masks),
            np.concatenate(cut),
            self.labellers,
        )

    def at_guidance(self, guidance: float) -> Self:
        """This evaluator, generating with another `generate.guidance`.

        All such evaluators share one compiled function, which may differ in the last bits from the
        one that has `generate.guidance` compiled in.
        """
        config = self._setup.config.copy_and_resolve_references()
        config.generate.guidance = guidance
        other = copy.copy(self)
        other._setup = dataclasses.replace(self._setup, config=config)
        other._respond = functools.partial(self._respond, guidance=np.float32(guidance))
        return other

    def fluency(self, params: Any, split: str, count: int) -> dict[str, float]:
        """How fluent responses to `count` windows, spread evenly over a split, are.

        Returns:
          "generated_perplexity", of the generated responses under the model without guidance;
          "response_perplexity", of people's responses under the model with `generate.guidance`
          but without `generate.guidance_floor`; and "dist_2" of the generated responses and
          "reference_dist_2" of people's. Every process returns the same.
        """
        data, guidance = self._prepared.split(split), self._setup.config.generate.guidance
        ids = evenly_spaced(count, data.num_windows)
        tokens, sums = [], {"generated": np.zeros(2), "response": np.zeros(2)}
        for start, batch, rows_B in self._batches(data, ids):
            generated_BxT = self._respond(params, batch, self._key, rows_B).tokens_BxT
            scored = {
                "generated": self._guided_nll(params, batch, generated_BxT, np.float32(0)),
                "response": self._guided_nll(
                    params, batch, batch["response"], np.float32(guidance)
                ),
            }
            left = len(ids) - start
            for name, nll in jax.device_get(scored).items():
                sums[name] += [nll["nll_B"][:left].sum(), nll["tokens_B"][:left].sum()]
            tokens.append(jax.device_get(generated_BxT)[:left])
        texts = [self._prepared.tokenizer.decode(row) for rows in tokens for row in rows]
        references, _ = _references(data, ids)
        return {
            **{f"{name}_perplexity": text_metrics.perplexity(*pair) for name, pair in sums.items()},
            "dist_2": text_metrics.distinct(texts, 2),
            "reference_dist_2": text_metrics.distinct(references, 2),
        }

    def cut_shares(self, split: str) -> dict[str, float]:
        """`lengths.cut_shares` of a split: its metrics are of what is left of the words."""
        return lengths.cut_shares(self._prepared.split(split), self._setup.config)

    def _responses(
        self, params: Any, batch: dict[str, jax.Array], rows_B: jax.Array, count: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """Of at most `count` rows: response tokens, emotion probabilities, image masks."""
        responses = self._respond(params, batch, self._key, rows_B)
        launched = self._probabilities(params, batch, responses.tokens_BxT)
        tokens, probabilities = jax.device_get((responses.tokens_BxT, launched))
        mask = multihost_utils.process_allgather(batch["image_mask"], tiled=True)
        return jax.tree.map(lambda x: x[:count], (tokens, probabilities, mask))

    def _batches(
        self, split: Split, ids: np.ndarray, face_ids: np.ndarray | None = None
    ) -> Iterator[tuple[int, dict[str, jax.Array], jax.Array]]:
        """Yields (k * evaluate.batch_size, batch k of those windows on the mesh, rows_B).

        `rows_B` are the windows' numbers, so that a window gets the same response in any batch.
        With `face_ids`, the response's image of each window is that of another window's response.
        """
        config = self._setup.config
        size = config.evaluate.batch_size
        placed = sharding.batch_sharding(self._setup.mesh)
        rows_b = sharding.process_rows(placed, size)
        numbers = np.zeros(-(-len(ids) // size) * size, np.int32)
        numbers[: len(ids)] = ids
        read = functools.partial(
            pipeline.window_batches, self._prepared, split.name, config=config, rows_b=rows_b
        )
        faces = itertools.repeat((None, 0)) if face_ids is None else read(face_ids)
        for number, ((batch, _), (face_batch, _)) in enumerate(zip(read(ids), faces, strict=False)):
            if face_batch is not None:
                batch = following.with_faces(batch, face_batch, self._setup.model.special)
            local = numbers[number * size :][:size][rows_b]
            self._between_batches()
            yield number * size, *sharding.to_devices((batch, local), placed)


def final_splits(config: Any) -> dict[str, str]:
    """{name in summary.json: split} of the splits on which a trained model is evaluated."""
    data = config.data
    named = {"valid": data.eval_split, "test": data.test_split}
    return named | {split: split for split in data.extra_test_splits}


def evaluate_run(
    evaluator: Evaluator, config: Any, params: Any, workdir: Any | None
) -> dict[str, Any]:
    """The evaluation that ends a run: every metric, on all of `final_splits`.

    Args:
      params: on the evaluator's mesh.
      workdir: a path (pathlib or epath) that exists; process 0 writes samples.jsonl, windows.json
        and, if emotion following was measured, following.jsonl and answers.json to it. None: no
        files.

    Returns:
      summary.json's "evaluation", "sizes" (`uncertainty.sizes`), "confusion_matrix" (of image
      emotions), "response_matrix" (emotions meant and expressed), "following_matrix" (emotions
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
    for name, split in final_splits(config).items():
        measured = evaluator.metrics(params, split, generate=True)
        values, windows[name] = measured.values, {"response": measured.windows}
        followed = evaluator.following(params, split)
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
        samples.write(rows, epath.Path(workdir))
        storage.write_text(epath.Path(workdir) / WINDOWS_FILE, json.dumps(windows) + "\n")
        if gallery:
            samples.write(gallery, epath.Path(workdir), following.FILE)
        if statistics:
            text = json.dumps(statistics, indent=1, ensure_ascii=False)
            storage.write_text(epath.Path(workdir) / response_statistics.FILE, text + "\n")
    return results


class _Totals:
    """What `batch_counts` returns, over the batches of a split."""

    def __init__(self):
        self.counts: dict[str, Any] = {}
        self._windows: dict[str, list[np.ndarray]] = collections.defaultdict(list)

    def add(self, launched: tuple[dict[str, Any], dict[str, jax.Array]]) -> None:
        counts, windows = jax.device_get(launched)
        # A split's sums outgrow what int32 and float32 can count.
        counts = jax.tree.map(lambda x: x.astype(np.result_type(x, np.int64)), counts)
        self.counts = jax.tree.map(np.add, self.counts, counts) if self.counts else counts
        for name, x_B in windows.items():
            self._windows[name].append(x_B)

    def windows(self, count: int) -> dict[str, np.ndarray]:
        """Of the first `count` windows; the others are padding."""
        return {
            name: np.concatenate(x)[:count].astype(np.result_type(x[0], np.int64))
            for name, x in self._windows.items()
        }


def _references(split: Split, ids: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The response texts and labelled emotions of those windows; no image is read."""
    turns = split.response_turn[ids]
    return [split.turns.text(int(turn)) for turn in turns], split.turns.emotion[turns]

"""Measures a model on the splits of a dataset: metrics, sample conversations, emotion following.

The emotion of a generated text is the one that `lexicon.label` finds. The generator never sees the
word list, but the embedded datasets are labelled with it, so there the judge and the target
emotions come from it, and the labellers of `text_labeller` are the independent ones. For texts that
people labelled, the word list is independent as well. Letters as in `igerg_jax.batch`; R =
responses.
"""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from igerg_jax import lexicon, metrics, similarity, text_labeller, text_metrics
from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.data import lengths
from igerg_jax.data.order import evenly_spaced
from igerg_jax.data.prepared import Prepared
from igerg_jax.data.windows import Split
from igerg_jax.evaluation import following, samples, uncertainty
from igerg_jax.evaluation.following import Following
from igerg_jax.evaluation.inference import Inference, in_order
from igerg_jax.prediction_metrics import confusion_matrix, majority_rate, response_emotions
from igerg_jax.setup import Setup

Confusion = list[list[int]]


class Measured(NamedTuple):
    """What `Evaluator.metrics` finds. What cannot be measured is left out."""

    values: dict[str, float]
    # Labelled (rows) and predicted emotions: "image" and, where responses are generated, "response"
    # (columns: the emotion in the words).
    confusion: dict[str, Confusion]
    sizes: dict[str, int]  # `uncertainty.sizes`
    # Of each window, in the order of the split: "nll" of its response (nats), its "tokens", and the
    # number of its "conversation" (`uncertainty.conversations`).
    windows: dict[str, list]


class Evaluator:
    """Measures parameters on the splits of a prepared dataset. Every process gets the same results.

    Attributes:
      inference: the programs, compiled once per shape.
      labellers: those of `evaluate.text_labeller`, by their ordinals.
    """

    def __init__(
        self, setup: Setup, prepared: Prepared, between_batches: Callable[[], None] = lambda: None
    ):
        """Takes the same arguments as `Inference`."""
        self.inference = Inference(setup, prepared, between_batches)
        self.labellers = text_labeller.of_config(setup.config)
        self._similarity = similarity.of_config(setup.config)

    @property
    def _config(self) -> Any:
        return self.inference.setup.config

    def compile(self, params: Any, split: str) -> None:
        """Compiles ahead of time what `metrics` runs; see `Inference.compile`."""
        self.inference.compile(params, split)

    def metrics(self, params: Any, split: str, generate: bool) -> Measured:
        """Metrics over the first `evaluate.examples` windows of a split.

        Args:
          params: on the setup's mesh.
          split: its name in the dataset.
          generate: also generate responses to the first `evaluate.generated_examples` of those
            windows, compare them with the references, and add standard errors.
        """
        evaluate, data = self._config.evaluate, self.inference.prepared.split(split)
        examples = min(evaluate.examples or data.num_windows, data.num_windows)
        to_generate = min(evaluate.generated_examples, examples) if generate else 0
        counts, windows, tokens_RxT = self._count(params, data, examples, to_generate)
        values = metrics.of_counts(counts)
        if not self._config.data.reverse:  # then a unigram model would be one of contexts
            values["unigram_perplexity"] = text_metrics.unigram_perplexity(
                self._train_counts_V, counts["response_tokens"]
            )
        confusion = {"image": counts["image_emotion_accuracy"]}
        if to_generate:
            texts = self.inference.texts(tokens_RxT)
            references, labels_R = _references(data, np.arange(to_generate))
            values |= metrics.of_texts(texts, references)
            if self._similarity is not None:
                values["similarity"] = self._similarity(texts, references)
            expressed = self._expressed(texts)
            confusion["response"] = confusion_matrix(labels_R, expressed[""])
            values |= self._emotion_metrics(expressed, references, labels_R)
            values |= uncertainty.standard_errors(data, windows, expressed)
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

    def _count(
        self, params: Any, data: Split, examples: int, to_generate: int
    ) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
        """(`batch_counts` of the first windows, summed, and of each; responses to some, [R, T])."""
        totals, places, tokens, pending = _Totals(), [], [], None
        size = self._config.evaluate.batch_size
        answered = min(examples, -(-to_generate // size) * size)  # whole batches
        for ids in (np.arange(answered), np.arange(answered, examples)):
            for places_R, batch, rows_B in self.inference.batches(data, ids):
                launched = self.inference.batch_counts(params, batch)
                if pending is not None:  # read one batch late, so that the device never waits
                    totals.add(*pending)
                pending = ids[places_R], launched
                if ids[0] < to_generate:
                    places.append(places_R)
                    tokens.append(jax.device_get(self.inference.respond(params, batch, rows_B)))
        totals.add(*pending)
        tokens_RxT = in_order(places, tokens)[:to_generate] if tokens else np.zeros((0, 0))
        return totals.counts, totals.windows, tokens_RxT

    def _expressed(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The emotion ids that each labeller finds, int64 [R], by its ordinal; "": the lexicon."""
        of_lexicon = np.array([lexicon.label(text) for text in texts], np.int64)
        return {"": of_lexicon, **{name: by.labels(texts) for name, by in self.labellers.items()}}

    def _emotion_metrics(
        self, expressed: dict[str, np.ndarray], references: Sequence[str], labels_R: np.ndarray
    ) -> dict[str, float]:
        """Metrics of the emotions expressed in generated responses, by each labeller; those of
        people's responses by all but the lexicon, for comparison; and the majority rate."""
        values = {}
        for ordinal, expressed_R in expressed.items():
            confusion = confusion_matrix(labels_R, expressed_R)
            values |= response_emotions(confusion, ordinal)
        for ordinal, labeller in self.labellers.items():
            of_people = confusion_matrix(labels_R, labeller.labels(references))
            for name, value in response_emotions(of_people, ordinal).items():
                values[f"reference_{name}"] = value
        confusion = confusion_matrix(labels_R, expressed[""])
        return values | {"response_emotion_majority_rate": majority_rate(confusion)}

    @functools.cached_property
    def _train_counts_V(self) -> np.ndarray:
        return self.inference.prepared.response_token_counts(self._config.data.train_split)

    def samples(self, params: Any, split: str, count: int) -> list[dict[str, Any]]:
        """The rows of samples.jsonl: responses to `count` windows spread evenly over a split."""
        data = self.inference.prepared.split(split)
        ids, rows = evenly_spaced(count, data.num_windows), []
        if not len(ids):
            return []
        tokens, probabilities, mask = self._responses(params, data, ids)
        for i, text in enumerate(self.inference.texts(tokens)):
            of_window = {name: value[i] for name, value in probabilities.items()}
            rows.append(samples.row(int(ids[i]), data, of_window, mask[i], text))
        return rows

    def _responses(
        self, params: Any, data: Split, ids: np.ndarray, face_ids: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """`Inference.responses` to windows, in their order."""
        places, found = [], []
        for places_R, batch, rows_B in self.inference.batches(data, ids, face_ids):
            places.append(places_R)
            found.append(self.inference.responses(params, batch, rows_B))
        return in_order(places, found)

    def following(self, params: Any, split: str) -> Following | None:
        """Responds to `evaluate.following_examples` windows of a split, with each of seven faces.

        Returns:
          None where that is 0, where the model is not shown the response's image, and where the
          split has no labelled image of some emotion.
        """
        config, data = self._config, self.inference.prepared.split(split)
        chosen = None
        if config.data.use_images and config.data.include_response_image:
            chosen = following.plan(data, config.evaluate.following_examples)
        if chosen is None:
            return None
        ids, face_ids = np.repeat(chosen.windows_W, NUM_EMOTIONS), chosen.faces_WxC.ravel()
        tokens, probabilities, mask = self._responses(params, data, ids, face_ids)
        return following.measure(
            chosen,
            data,
            self.inference.texts(tokens),
            probabilities,
            mask,
            tokens[:, -1] != self.inference.setup.model.special.pad,  # EOS was forced there
            self.labellers,
        )

    def asked(self, params: Any, split: str) -> dict[str, float]:
        """Responds to windows with their own faces, asked for each of seven emotions in turn.

        The model is conditioned on emotions; the windows are those of `following`, which is
        measurable.

        Returns:
          The metrics of `following`, of the emotions asked for: "emotion_asked" in the place of
          "emotion_following".
        """
        data = self.inference.prepared.split(split)
        chosen = following.plan(data, self._config.evaluate.following_examples)
        ids, places, tokens = np.repeat(chosen.windows_W, NUM_EMOTIONS), [], []
        one_hot_CxC = np.eye(NUM_EMOTIONS, dtype=np.float32)
        for places_R, batch, rows_B in self.inference.batches(data, ids):
            asked_BxC = self.inference.on_mesh(one_hot_CxC[places_R % NUM_EMOTIONS])
            tokens_BxT = self.inference.respond(params, batch, rows_B, asked_BxC)
            places.append(places_R)
            tokens.append(jax.device_get(tokens_BxT))
        texts = self.inference.texts(in_order(places, tokens))
        values, _, _ = following.figures(texts, self.labellers)
        return {
            name.replace("emotion_following", "emotion_asked"): value
            for name, value in values.items()
        }

    def at_guidance(self, guidance: float) -> Self:
        """This evaluator with another `generate.guidance`: see `Inference.at_guidance`."""
        other = copy.copy(self)
        other.inference = self.inference.at_guidance(guidance)
        return other

    def fluency(self, params: Any, split: str, count: int) -> dict[str, float]:
        """How fluent responses to `count` windows, spread evenly over a split, are.

        Returns:
          "generated_perplexity", of the generated responses under the model without guidance;
          "response_perplexity", of people's responses under the model with `generate.guidance`
          but without `generate.guidance_floor`; and "dist_2" of the generated responses and
          "reference_dist_2" of people's.
        """
        inference, guidance = self.inference, np.float32(self._config.generate.guidance)
        data = inference.prepared.split(split)
        ids = evenly_spaced(count, data.num_windows)
        tokens, sums = [], {"generated": np.zeros(2), "response": np.zeros(2)}
        for places_R, batch, rows_B in inference.batches(data, ids):
            generated_BxT = inference.respond(params, batch, rows_B)
            scored = {
                "generated": inference.guided_nll(params, batch, generated_BxT, np.float32(0)),
                "response": inference.guided_nll(params, batch, batch["response"], guidance),
            }
            rows = len(places_R)
            for name, nll in jax.device_get(scored).items():
                sums[name] += [nll["nll_B"][:rows].sum(), nll["tokens_B"][:rows].sum()]
            tokens.append(jax.device_get(generated_BxT)[:rows])
        references, _ = _references(data, ids)
        return {
            **{f"{name}_perplexity": text_metrics.perplexity(*pair) for name, pair in sums.items()},
            "dist_2": text_metrics.distinct(inference.texts(np.concatenate(tokens)), 2),
            "reference_dist_2": text_metrics.distinct(references, 2),
        }

    def cut_shares(self, split: str) -> dict[str, float]:
        """`lengths.cut_shares` of a split: metrics are computed on the truncated texts."""
        return lengths.cut_shares(self.inference.prepared.split(split), self._config)


class _Totals:
    """What `batch_counts` returns, over the batches of a split."""

    def __init__(self):
        self.counts: dict[str, Any] = {}
        self._places: list[np.ndarray] = []
        self._windows: list[dict[str, np.ndarray]] = []

    def add(self, ids_R: np.ndarray, launched: tuple[dict[str, Any], dict[str, jax.Array]]) -> None:
        """`ids_R`: the windows of the first R rows; the others are padding."""
        counts, windows = jax.device_get(launched)
        # A split's sums outgrow what int32 and float32 can count.
        counts = jax.tree.map(lambda x: x.astype(np.result_type(x, np.int64)), counts)
        self.counts = jax.tree.map(np.add, self.counts, counts) if self.counts else counts
        self._places.append(ids_R)
        self._windows.append(windows)

    @property
    def windows(self) -> dict[str, np.ndarray]:
        """Figures of each window, in the order of the windows."""
        windows = in_order(self._places, self._windows)
        return {name: x.astype(np.result_type(x, np.int64)) for name, x in windows.items()}


def _references(split: Split, ids: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The response texts and labelled emotions of those windows; no image is read."""
    turns = split.response_turn[ids]
    return [split.turns.text(int(turn)) for turn in turns], split.turns.emotion[turns]

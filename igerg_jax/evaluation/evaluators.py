"""A model and a split to metrics, to sample conversations, or to one answer.

Images are judged alone, without words, as the single-modal objectives see them; responses are
scored and generated from images and words. The emotion of a generated text is what `cues.label`
finds: a lexicon that shares nothing with the generator or its judge. Letters as in
`igerg_jax.batch`.
"""

from __future__ import annotations

import base64
import functools
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from igerg_jax import lexicon
from igerg_jax.batch import EMOTIONS, NUM_EMOTIONS, UNKNOWN
from igerg_jax.decoding import search
from igerg_jax.evaluation import metrics
from igerg_jax.models import igerg
from igerg_jax.objectives import losses
from igerg_jax.parallel import sharding
from igerg_jax.run import workdirs
from igerg_jax.setup import Setup, base_key, mesh_context

if TYPE_CHECKING:  # TensorFlow comes with the pipeline, so it is imported where it is used
    from igerg_jax.data.prepare import Prepared, Split
    from igerg_jax.data.tokenizers import Tokenizer

SAMPLES_FILE = "samples.jsonl"
# Of the text metrics, those that a set of texts has by itself: the references' are shown beside.
OWN_TEXT_METRICS = ("dist_1", "dist_2", "dist_3", "dist_4", "entropy_4", "mean_words")
Confusion = list[list[int]]


class Evaluator:
    """Evaluates parameters on the splits of a prepared dataset; compiles once a shape."""

    def __init__(self, setup: Setup, prepared: Prepared):
        """Raises UserError where `evaluate.batch_size` does not divide or `generate` is wrong."""
        config = setup.config
        sharding.check_batch(config.evaluate.batch_size, 1, setup.mesh, "evaluate.batch_size")
        self._setup, self._prepared = setup, prepared
        self._respond = search.make_respond(setup)
        self._scores = _jitted(setup, scores)
        self._look = _jitted(setup, look)
        self._rng = _base_key(setup)

    def metrics(
        self, params: Any, split: str, generate: bool
    ) -> tuple[dict[str, float], Confusion | None]:
        """Metrics over the first `evaluate.examples` windows of a split.

        Args:
          params: on the setup's mesh.
          split: its name in the dataset.
          generate: also answer the first `evaluate.generated_examples` of those windows, and
            compare the answers with the references. Needs `evaluate.batch_size` at a time.

        Returns:
          ({name: value}, the confusion matrix of image emotions, or None without a labelled
          image). What cannot be measured is left out. Every process returns the same.
        """
        evaluate = self._setup.config.evaluate
        chosen = self._prepared.split(split)
        total = min(evaluate.examples or chosen.num_windows, chosen.num_windows)
        wanted = min(evaluate.generated_examples, total) if generate else 0
        sums: dict[str, np.ndarray] = {}
        tokens, pending = [], None
        for start, batch, rows_B in self._batches(chosen, np.arange(total)):
            started = self._scores(params, batch)
            if pending is not None:  # one batch late, so that the device never waits
                sums = _add(sums, pending)
            pending = started
            if start < wanted:
                answers = self._respond(params, batch, self._rng, rows_B)
                tokens.append(jax.device_get(answers.tokens_BxT)[: wanted - start])
        sums = _add(sums, pending)
        found = _readable(sums)
        found["unigram_perplexity"] = metrics.unigram_perplexity(
            self._train_counts_V, sums["response_tokens"]
        )
        if wanted:
            texts = [self._prepared.tokenizer.decode(row) for rows in tokens for row in rows]
            found |= response_metrics(texts, *_references(chosen, np.arange(wanted)))
        images = sums["image_emotion"]
        found = {name: value for name, value in found.items() if not math.isnan(value)}
        return found, images.tolist() if images.any() else None

    @functools.cached_property
    def _train_counts_V(self) -> np.ndarray:
        return self._prepared.response_token_counts(self._setup.config.data.train_split)

    def samples(self, params: Any, split: str, count: int) -> list[dict[str, Any]]:
        """Answers `count` windows that are spread evenly over a split.

        Returns:
          The rows of samples.jsonl; every process returns the same.
        """
        chosen = self._prepared.split(split)
        count = min(count, chosen.num_windows)
        ids = np.arange(count) * chosen.num_windows // max(count, 1)
        rows: list[dict[str, Any]] = []
        for start, batch, rows_B in self._batches(chosen, ids):
            answers = self._respond(params, batch, self._rng, rows_B)
            views = self._look(params, batch, answers.tokens_BxT)
            tokens, views = jax.device_get((answers.tokens_BxT, views))
            mask = multihost_utils.process_allgather(batch["image_mask"], tiled=True)
            for i, window in enumerate(ids[start : start + len(tokens)]):
                view = {name: value[i] for name, value in views.items()}
                text = self._prepared.tokenizer.decode(tokens[i])
                rows.append(_sample(int(window), chosen, view, mask[i], text))
        return rows

    def _batches(
        self, split: Split, ids: np.ndarray
    ) -> Iterator[tuple[int, dict[str, jax.Array], jax.Array]]:
        """Yields (k * evaluate.batch_size, batch k of those windows on the mesh, rows_B).

        `rows_B` are the windows' numbers, so that a window is answered alike in every batch.
        """
        from igerg_jax.data import pipeline

        config = self._setup.config
        size = config.evaluate.batch_size
        placed = sharding.batch_sharding(self._setup.mesh)
        rows_b = sharding.process_rows(placed, size)
        numbers = np.zeros(-(-len(ids) // size) * size, np.int32)
        numbers[: len(ids)] = ids
        source = pipeline.window_batches(self._prepared, split.name, ids, config, rows_b)
        for number, (batch, _) in enumerate(source):
            local = numbers[number * size :][:size][rows_b]
            yield number * size, *sharding.to_devices((batch, local), placed)


def run(setup: Setup, evaluator: Evaluator, params: Any, workdir: Any) -> dict[str, Any]:
    """The evaluation that ends a run: valid and test with generation, and `samples.jsonl`.

    Args:
      params: on the setup's mesh.
      workdir: a path (pathlib or epath) that exists; process 0 writes to it.

    Returns:
      summary.json's "evaluation" and "confusion_matrix", by "valid" and "test".
    """
    config = setup.config
    out: dict[str, Any] = {"evaluation": {}, "confusion_matrix": {}}
    for name, split in (("valid", config.data.eval_split), ("test", config.data.test_split)):
        found, confusion = evaluator.metrics(params, split, generate=True)
        out["evaluation"][name] = found
        if confusion is not None:
            out["confusion_matrix"][name] = confusion
    rows = evaluator.samples(params, config.data.test_split, config.generate.examples)
    if jax.process_index() == 0:
        write_samples(rows, workdir)
    return out


def write_samples(rows: Sequence[Mapping[str, Any]], workdir: Any) -> None:
    """Writes `samples.jsonl`, as a whole."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    workdirs.write_whole(epath.Path(workdir) / SAMPLES_FILE, text)


def respond_once(
    setup: Setup,
    tokenizer: Tokenizer,
    params: Any,
    turns: Sequence[tuple[str, str | pathlib.Path | None]],
    response_image: str | pathlib.Path | None,
) -> dict[str, Any]:
    """Answers a conversation that someone typed.

    Args:
      params: on the setup's mesh.
      turns: (text, image file or None), oldest first; the last `data.context_turns` are read.
      response_image: file of the answering turn's image, or None.

    Returns:
      {"context": [{"text", "seen"}, ...] of the turns that were read, "response_image": {"seen"}
      or None, "sequence_emotion", "response", "score" (log-probability, or the beam's score),
      "judge", "spoken_emotion"}. "seen", "sequence_emotion" and "judge" are {emotion:
      probability}, or None where the model was shown no image.

    Raises:
      UserError: no words, an image that cannot be read, or wrong `generate` settings.
    """
    from igerg_jax.data import pipeline

    respond = search.make_respond(setup)
    example = pipeline.single_example(tokenizer, setup.config, turns, response_image)
    turns = list(turns)[-setup.config.data.context_turns :]
    # As many equal rows as it takes to give every data shard one.
    placed = sharding.batch_sharding(setup.mesh)
    shards = placed.num_devices // setup.mesh.shape["tensor"]
    rows = len(sharding.process_rows(placed, shards))
    copies = {name: np.repeat(array, rows, axis=0) for name, array in example.items()}
    batch, rows_B = sharding.to_devices((copies, np.zeros(rows, np.int32)), placed)
    answers = respond(params, batch, _base_key(setup), rows_B)
    views = _jitted(setup, look)(params, batch, answers.tokens_BxT)
    answers, views = jax.tree.map(lambda x: x[0], jax.device_get((answers, views)))
    shown = example["image_mask"][0]
    text = tokenizer.decode(answers.tokens_BxT)
    seen = [
        _probabilities(p) if real else None for p, real in zip(views["images"], shown, strict=True)
    ]
    return {
        "context": [{"text": words, "seen": seen[i]} for i, (words, _) in enumerate(turns)],
        "response_image": {"seen": seen[len(turns)]} if shown[len(turns)] else None,
        "sequence_emotion": _probabilities(views["sequence"]) if shown.any() else None,
        "response": text,
        "score": float(answers.score_B),
        "judge": _probabilities(views["judge"]),
        "spoken_emotion": EMOTIONS[lexicon.label(text)],
    }


def scores(model: igerg.Igerg, params: Any, batch: Mapping[str, jax.Array]) -> dict:
    """Sums over a batch; rows and images that are unlabelled or padding add nothing.

    Returns:
      Confusion matrices int32 [C, C] (label, prediction) "image_emotion", "sequence_emotion" and
      "judge" (of the reference response); float32 scalar "nll" (nats) of the response's tokens,
      EOS included, and int32 [V] "response_tokens", how often each occurs.
    """
    variables = {"params": params}
    images = igerg.image_side(batch, model.apply(variables, batch, method="visual_tokens"))
    image_logits_BxNxC, sequence_logits_BxC = _image_logits(model, variables, images)
    real_BxN, response_BxT = batch["image_mask"], batch["response"]
    spoken_BxT = response_BxT != model.special.pad
    words = igerg.text_side(batch, model.special)
    encoded = model.apply(variables, images, words, method="encode")
    hidden_BxTxD = model.apply(
        variables,
        igerg.shift_right(response_BxT, model.special),
        encoded.hidden_BxLxD,
        encoded.mask_BxL,
        method="decode",
    )
    nll, _, _ = losses.vocabulary(
        hidden_BxTxD,
        params["token_embedding"],
        response_BxT,
        spoken_BxT,
        model.vocab_chunk_tokens,
    )
    judged_BxC = model.apply(variables, response_BxT, method="judge_tokens")
    return {
        "image_emotion": _confusion(image_logits_BxNxC, batch["image_emotion"], real_BxN),
        "sequence_emotion": _confusion(
            sequence_logits_BxC, batch["sequence_emotion"], real_BxN.any(1)
        ),
        "judge": _confusion(judged_BxC, batch["response_emotion"], spoken_BxT.any(1)),
        "nll": nll,
        "response_tokens": jnp.zeros(model.vocab_size, jnp.int32)
        .at[response_BxT]
        .add(spoken_BxT.astype(jnp.int32)),
    }


def look(
    model: igerg.Igerg, params: Any, batch: Mapping[str, jax.Array], tokens_BxT: jax.Array
) -> dict[str, jax.Array]:
    """Emotion probabilities, float32: "images" [B, N, C], "sequence" [B, C], "judge" [B, C].

    The first two are of the images alone, the third is the judge's of `tokens`.
    """
    images_BxNxC, sequence_BxC = image_probabilities(model, params, batch)
    judged_BxC = model.apply({"params": params}, tokens_BxT, method="judge_tokens")
    return {"images": images_BxNxC, "sequence": sequence_BxC, "judge": jax.nn.softmax(judged_BxC)}


def image_probabilities(
    model: igerg.Igerg, params: Any, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Emotion probabilities of (each image [B, N, C], the sequence [B, C]) from images alone."""
    variables = {"params": params}
    images = igerg.image_side(batch, model.apply(variables, batch, method="visual_tokens"))
    logits = _image_logits(model, variables, images)
    return tuple(jax.nn.softmax(x) for x in logits)


def response_metrics(
    texts: Sequence[str], references: Sequence[str], emotions: np.ndarray
) -> dict[str, float]:
    """`metrics.text_metrics`, the emotions that the labeller finds, and the references' own.

    Args:
      texts: the generated responses.
      references: what people said.
      emotions: the labelled emotion of each reference, int [len(texts)], UNKNOWN = none.
    """
    said = np.array([lexicon.label(text) for text in texts], np.int64)
    own = metrics.text_metrics(references, references)
    return (
        metrics.text_metrics(texts, references)
        | metrics.classification_metrics(
            "response_emotion", metrics.confusion_matrix(emotions, said)
        )
        | {f"reference_{name}": own[name] for name in OWN_TEXT_METRICS}
    )


def _image_logits(model, variables, images) -> tuple[jax.Array, jax.Array]:
    """Emotion logits of (each image, the sequence), from an encoding of images alone."""
    encoded = model.apply(variables, images, None, method="encode")
    return (
        model.apply(variables, encoded, method="image_emotion_logits"),
        model.apply(variables, encoded, method="sequence_emotion_logits"),
    )


def _confusion(logits_xC: jax.Array, labels_x: jax.Array, real_x: jax.Array) -> jax.Array:
    """int32 [C, C]: labelled (rows) and likeliest (columns) emotions where `real`."""
    known_x = real_x & (labels_x != UNKNOWN)
    labels_IxC = jax.nn.one_hot(jnp.where(known_x, labels_x, UNKNOWN).ravel(), NUM_EMOTIONS)
    guesses_IxC = jax.nn.one_hot(logits_xC.argmax(-1).ravel(), NUM_EMOTIONS)
    return jnp.einsum("ic,ig->cg", labels_IxC, guesses_IxC).astype(jnp.int32)


def _jitted(setup: Setup, function):
    """`function(model, ...)` under the setup's mesh, with a result that is whole everywhere."""
    jitted = jax.jit(
        lambda *arguments: function(setup.model, *arguments),
        out_shardings=sharding.replicated(setup.mesh),
    )

    def call(*arguments):
        with mesh_context(setup):
            return jitted(*arguments)

    return call


def _base_key(setup: Setup) -> jax.Array:
    """The run's key, on every device."""
    return _jitted(setup, lambda model: base_key(setup.config))()


def _add(sums: dict[str, np.ndarray], more: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    # float64 and int64: a split's sums outgrow what float32 and int32 can count.
    wide = {"f": np.float64, "i": np.int64}
    more = {name: x.astype(wide[x.dtype.kind]) for name, x in jax.device_get(more).items()}
    return {name: sums.get(name, 0) + x for name, x in more.items()}


def _readable(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in ("image_emotion", "sequence_emotion"):
        found |= metrics.classification_metrics(name, sums[name])
    found["judge_accuracy"] = metrics.accuracy(sums["judge"])
    found["response_perplexity"] = metrics.perplexity(
        float(sums["nll"]), float(sums["response_tokens"].sum())
    )
    return found


def _references(split: Split, ids: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The response texts and labelled emotions of those windows; no image is read."""
    turns = split.response_turn[ids]
    return [split.turns.text(int(turn)) for turn in turns], split.turns.emotion[turns]


def _sample(
    index: int, split: Split, view: dict[str, np.ndarray], shown_N: np.ndarray, text: str
) -> dict[str, Any]:
    """A row of samples.jsonl."""
    window = split.window(index)
    emotions = (*window.turn_emotions, window.response_emotion)
    images = (*window.turn_images, window.response_image)

    def face(slot: int) -> dict[str, Any]:
        return {
            "emotion": _name(emotions[slot]),
            "seen": _probabilities(view["images"][slot]) if shown_N[slot] else None,
            "image": _data_url(images[slot]),
        }

    last = len(window.turn_texts)
    return {
        "index": index,
        "context": [
            {"text": words, **face(slot), "has_image": images[slot] is not None}
            for slot, words in enumerate(window.turn_texts)
        ],
        "response_image": face(last) if images[last] is not None else None,
        "reference": window.response_text,
        "reference_emotion": _name(window.response_emotion),
        "generated": text,
        "spoken_emotion": EMOTIONS[lexicon.label(text)],
        "judge": _probabilities(view["judge"]),
    }


def _name(emotion: int) -> str | None:
    return None if emotion == UNKNOWN else EMOTIONS[emotion]


def _probabilities(p_C: np.ndarray) -> dict[str, float]:
    return {name: round(float(p), 4) for name, p in zip(EMOTIONS, p_C, strict=True)}


def _data_url(jpeg: bytes | None) -> str | None:
    return None if jpeg is None else f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"

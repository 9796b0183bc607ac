"""A model and the windows of a dataset: batches on the mesh, and the jitted functions that they are
given to.

Letters as in `igerg_jax.batch`.
"""

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from igerg_jax.data import length_buckets, pipeline
from igerg_jax.data.prepared import Prepared
from igerg_jax.data.windows import Split
from igerg_jax.decoding import reranking, search
from igerg_jax.evaluation import following
from igerg_jax.evaluation.predictions import batch_counts, emotion_probabilities, guided_nll
from igerg_jax.parallel import sharding
from igerg_jax.setup import Jitted, Setup, replicated_key


class Inference:
    """Compiles each program once per shape.

    Attributes:
      batch_counts, probabilities, guided_nll: the functions of `predictions`, jitted: parameters
        and a batch on the mesh first.
    """

    def __init__(
        self, setup: Setup, prepared: Prepared, between_batches: Callable[[], None] = lambda: None
    ):
        """`between_batches` is called before each batch; what it raises ends an evaluation.

        Raises UserError as `reranking.load`.
        """
        self.setup, self.prepared, self._between_batches = setup, prepared, between_batches
        self.batch_counts = Jitted(setup, batch_counts)
        self.probabilities = Jitted(setup, emotion_probabilities)
        self.guided_nll = Jitted(setup, guided_nll)
        backward = reranking.load(setup, prepared.tokenizer.digest)
        self._respond = search.Respond(setup, backward=backward)
        self._placed = sharding.batch_sharding(setup.mesh)
        self._key = replicated_key(setup)

    def compile(self, params: Any, split: str) -> None:
        """Compiles `batch_counts` and, where responses are generated, `respond`, for all sizes of a
        split's batches.

        Args:
          params: arrays, or `jax.ShapeDtypeStruct`s with shardings.
          split: its name in the dataset.
        """
        data = self.prepared.split(split)
        buckets_W = length_buckets.numbers(data, self.setup.config)
        for window in np.unique(buckets_W, return_index=True)[1]:  # one of each size
            _, batch, rows_B = next(self.batches(data, np.array([window])))
            self.batch_counts.compile(params, batch)
            if self.setup.config.evaluate.generated_examples:
                self._respond.compile(params, batch, self._key, rows_B)

    def at_guidance(self, guidance: float) -> Self:
        """A copy that generates with another `generate.guidance`.

        All copies share one compiled function, which may differ in the last bits from the one that
        has `generate.guidance` compiled in.
        """
        config = self.setup.config.copy_and_resolve_references()
        config.generate.guidance = guidance
        other = copy.copy(self)
        other.setup = dataclasses.replace(self.setup, config=config)
        other._respond = functools.partial(self._respond, guidance=np.float32(guidance))
        return other

    def respond(
        self,
        params: Any,
        batch: dict[str, jax.Array],
        rows_B: jax.Array,
        target_emotion_BxC: jax.Array | None = None,
    ) -> jax.Array:
        """The generated response of each row: int32 [B, T], on the mesh; EOS, then PAD.

        `target_emotion_BxC`: the emotion to respond with; default: the one seen.
        """
        return self._respond(params, batch, self._key, rows_B, target_emotion_BxC).tokens_BxT

    def on_mesh(self, values_R: np.ndarray) -> jax.Array:
        """[B, ...] on the mesh: a value for each of a batch's first rows, and zeros."""
        placed, size = self._placed, self.setup.config.evaluate.batch_size
        padding = [(0, size - len(values_R))] + [(0, 0)] * (values_R.ndim - 1)
        values_B = np.pad(values_R, padding)
        return sharding.to_devices(values_B[sharding.process_rows(placed, size)], placed)

    def responses(
        self, params: Any, batch: dict[str, jax.Array], rows_B: jax.Array
    ) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """Of a batch's rows, on the host: response tokens [B, T], emotion probabilities (as
        `predictions.emotion_probabilities`), and `image_mask` [B, N]."""
        tokens_BxT = self.respond(params, batch, rows_B)
        launched = self.probabilities(params, batch, tokens_BxT)
        tokens, probabilities = jax.device_get((tokens_BxT, launched))
        mask = multihost_utils.process_allgather(batch["image_mask"], tiled=True)
        return tokens, probabilities, mask

    def batches(
        self, split: Split, ids: np.ndarray, face_ids: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, dict[str, jax.Array], jax.Array]]:
        """Yields (places_R, a batch on the mesh, rows_B): row r shows window `ids[places_R[r]]`.

        Rows from R on are padding. With `data.length_buckets`, windows of one size share a batch;
        without, they come as in `ids`. `in_order` puts what is found in that order. `rows_B` are
        the windows' numbers, so that a window gets the same response in any batch. With `face_ids`,
        the response's image of each window is that of another window's response.
        """
        config = self.setup.config
        size = config.evaluate.batch_size
        by_size_I = np.argsort(length_buckets.numbers(split, config)[ids], kind="stable")
        read = functools.partial(
            pipeline.window_batches,
            self.prepared,
            split.name,
            config=config,
            rows_b=sharding.process_rows(self._placed, size),
        )
        batches = read(ids[by_size_I])
        faces = itertools.repeat((None, 0)) if face_ids is None else read(face_ids[by_size_I])
        for number, ((batch, _), (face_batch, _)) in enumerate(zip(batches, faces, strict=False)):
            if face_batch is not None:
                batch = following.with_faces(batch, face_batch, self.setup.model.special)
            places_R = by_size_I[number * size :][:size]
            self._between_batches()
            rows_B = self.on_mesh(ids[places_R].astype(np.int32))
            yield places_R, sharding.to_devices(batch, self._placed), rows_B

    def texts(self, tokens_RxT: np.ndarray) -> list[str]:
        """The words of generated responses."""
        return [self.prepared.tokenizer.decode(row) for row in tokens_RxT]


def in_order(places: Sequence[np.ndarray], found: Sequence[Any]) -> Any:
    """What was found of each of some windows, in the order of the windows.

    Args:
      places, found: of each batch, the `places_R` of `Inference.batches` and a tree of arrays
        [B, ...] with at least R rows.
    """
    rows, order = [len(places_R) for places_R in places], np.argsort(np.concatenate(places))

    def joined(*batches_B: np.ndarray) -> np.ndarray:
        return np.concatenate([x_B[:r] for r, x_B in zip(rows, batches_B, strict=True)])[order]

    return jax.tree.map(joined, *found)

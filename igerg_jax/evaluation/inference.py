"""A model and the windows of a dataset: batches on the mesh, and the jitted functions that they are
given to.

Letters as in `igerg_jax.batch`.
"""

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.data import pipeline
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
        self._key = replicated_key(setup)

    def compile(self, params: Any, split: str) -> None:
        """Compiles `batch_counts` and, where responses are generated, `respond`.

        Args:
          params: arrays, or `jax.ShapeDtypeStruct`s with shardings.
          split: any of the dataset, for the shapes of a batch.
        """
        _, batch, rows_B = next(self.batches(self.prepared.split(split), np.arange(1)))
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

    def each_emotion(self, start: int) -> jax.Array:
        """float32 [B, C] on the mesh, one emotion a row, all in turn: row 0 has `start` % C."""
        placed = sharding.batch_sharding(self.setup.mesh)
        rows_b = sharding.process_rows(placed, self.setup.config.evaluate.batch_size)
        one_hot_CxC = np.eye(NUM_EMOTIONS, dtype=np.float32)
        return sharding.to_devices(one_hot_CxC[(start + rows_b) % NUM_EMOTIONS], placed)

    def responses(
        self, params: Any, batch: dict[str, jax.Array], rows_B: jax.Array, count: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """Of at most `count` rows, on the host: response tokens [R, T], emotion probabilities (as
        `predictions.emotion_probabilities`), and `image_mask` [R, N]."""
        tokens_BxT = self.respond(params, batch, rows_B)
        launched = self.probabilities(params, batch, tokens_BxT)
        tokens, probabilities = jax.device_get((tokens_BxT, launched))
        mask = multihost_utils.process_allgather(batch["image_mask"], tiled=True)
        return jax.tree.map(lambda x: x[:count], (tokens, probabilities, mask))

    def batches(
        self, split: Split, ids: np.ndarray, face_ids: np.ndarray | None = None
    ) -> Iterator[tuple[int, dict[str, jax.Array], jax.Array]]:
        """Yields (k * evaluate.batch_size, batch k of those windows on the mesh, rows_B).

        `rows_B` are the windows' numbers, so that a window gets the same response in any batch.
        With `face_ids`, the response's image of each window is that of another window's response.
        """
        config = self.setup.config
        size = config.evaluate.batch_size
        placed = sharding.batch_sharding(self.setup.mesh)
        rows_b = sharding.process_rows(placed, size)
        numbers = np.zeros(-(-len(ids) // size) * size, np.int32)
        numbers[: len(ids)] = ids
        read = functools.partial(
            pipeline.window_batches, self.prepared, split.name, config=config, rows_b=rows_b
        )
        faces = itertools.repeat((None, 0)) if face_ids is None else read(face_ids)
        for number, ((batch, _), (face_batch, _)) in enumerate(zip(read(ids), faces, strict=False)):
            if face_batch is not None:
                batch = following.with_faces(batch, face_batch, self.setup.model.special)
            local = numbers[number * size :][:size][rows_b]
            self._between_batches()
            yield number * size, *sharding.to_devices((batch, local), placed)

    def texts(self, tokens_RxT: np.ndarray) -> list[str]:
        """The words of generated responses."""
        return [self.prepared.tokenizer.decode(row) for row in tokens_RxT]

"""Reads the images of a batch, for `igerg_jax.data.input_graph`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from igerg_jax.data import augment, decode, store
from igerg_jax.data.splits import Split


@dataclasses.dataclass(frozen=True)
class StoredImages:
    """The M images of a batch: their slots in it, and their records in the splits' stores."""

    splits: Sequence[Split]
    row_M: np.ndarray
    slot_M: np.ndarray
    source_M: np.ndarray  # number of the split
    record_M: np.ndarray

    @classmethod
    def of(
        cls, splits: Sequence[Split], source_B: np.ndarray, images_BxN: np.ndarray
    ) -> StoredImages:
        """Takes each row's split number, and each slot's record or NO_IMAGE."""
        row_M, slot_M = np.nonzero(images_BxN != store.NO_IMAGE)
        return cls(splits, row_M, slot_M, source_B[row_M], images_BxN[row_M, slot_M])

    def _by_split(self) -> Iterator[tuple[store.TurnStore, np.ndarray]]:
        for source in np.unique(self.source_M):
            yield self.splits[source].turns, np.flatnonzero(self.source_M == source)

    def height_width(self) -> np.ndarray:
        """int32[M, 2] pixels."""
        sizes_Mx2 = np.zeros((len(self.record_M), 2), np.int32)
        for turns, at in self._by_split():
            sizes_Mx2[at] = turns.image_height_width[self.record_M[at]]
        return sizes_Mx2

    def with_jpegs(
        self, batch: dict[str, np.ndarray], recipe: augment.Recipe
    ) -> tuple[np.ndarray, ...]:
        """Reads the images; returns the arrays of an `input_graph.Fetch`."""
        jpegs_M = np.empty(len(self.record_M), object)
        for turns, at in self._by_split():
            jpegs_M[at] = turns.read_images(self.record_M[at])
        return _arrays(batch, jpegs_M, recipe)

    def with_vectors(
        self, batch: dict[str, np.ndarray], feature_dim: int
    ) -> tuple[np.ndarray, ...]:
        """Reads the vectors; returns the batch's arrays, `features` (zero if masked) first."""
        features_BxNxF = np.zeros((*batch["image_mask"].shape, feature_dim), np.float32)
        for turns, at in self._by_split():
            vectors = turns.read_features(self.record_M[at])
            features_BxNxF[self.row_M[at], self.slot_M[at]] = vectors
        return features_BxNxF, *batch.values()


def with_encoded(
    batch: dict[str, np.ndarray],
    images_BxN: np.ndarray,
    encoded: Sequence[tuple[bytes, tuple[int, int]] | None],
    image_size: int,
) -> tuple[np.ndarray, ...]:
    """Returns the arrays of an `input_graph.Fetch` with images that are not in a store.

    Args:
      images_BxN: each slot's index in `encoded`, where `image_mask` is True.
      encoded: (JPEG bytes, (height, width)) of each image.
      image_size: pixels a side of the result.
    """
    shown = [encoded[i] for i in images_BxN[batch["image_mask"]]]
    sizes_Mx2 = np.array([size for _, size in shown], np.int32).reshape(-1, 2)
    jpegs_M = np.array([jpeg for jpeg, _ in shown], object)
    return _arrays(batch, jpegs_M, augment.plain_recipe(sizes_Mx2, image_size))


def _arrays(
    batch: dict[str, np.ndarray], jpegs_M: np.ndarray, recipe: augment.Recipe
) -> tuple[np.ndarray, ...]:
    mask_BxN = batch["image_mask"]
    slot_M = np.flatnonzero(mask_BxN)
    return (*batch.values(), *decode.parts(jpegs_M, recipe, slot_M, mask_BxN.size))

"""Precomputed vectors instead of images. Letters as in `igerg_jax.models.vision`."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.errors import UserError
from igerg_jax.models.settings import check_one_token


@dataclasses.dataclass(frozen=True)
class Settings:
    """What this tower reads of `config.model.vision`."""

    tokens_per_image: int
    dtype: jnp.dtype

    def check(self, image_size: int, feature_dim: int) -> None:
        if not feature_dim:
            raise UserError(
                "model.vision.kind='features' and data.feature_dim > 0 go together: "
                "set both or none"
            )
        check_one_token("features", self.tokens_per_image)


class FeatureTower(nn.Module):
    """The vectors as they are: one token per image. A vector of zeros is an image too."""

    settings: Settings

    def __call__(self, features_IxF: jax.Array) -> jax.Array:
        """Maps [I, F] to [I, 1, F]."""
        return features_IxF[:, None].astype(self.settings.dtype)


TOWER = (Settings, FeatureTower)

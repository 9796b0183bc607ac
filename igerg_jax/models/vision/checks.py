"""Checks that several towers share."""

from __future__ import annotations

from igerg_jax.errors import UserError


def reads_pixels(feature_dim: int) -> None:
    """Raises UserError if the data are precomputed vectors of `feature_dim` entries (0 = none)."""
    if feature_dim:
        raise UserError(
            f"data.feature_dim={feature_dim} needs model.vision.kind='features', and other towers "
            "read images: set both or none"
        )


def one_token(kind: str, tokens_per_image: int) -> None:
    """Raises UserError unless one visual token per image is asked for."""
    if tokens_per_image != 1:
        raise UserError(
            f"model.vision.kind '{kind}' makes 1 token an image; "
            f"set model.vision.tokens_per_image=1, not {tokens_per_image}"
        )

"""Initializers whose parameters carry logical axis names, one per dimension."""

from collections.abc import Sequence

import flax.linen as nn

named = nn.with_logical_partitioning


def zeros(*axes: str | None):
    return named(nn.initializers.zeros, axes)


def ones(*axes: str | None):
    return named(nn.initializers.ones, axes)


def normal(*axes: str | None):
    """BERT's and BART's initialisation of embeddings: a normal of standard deviation 0.02."""
    return named(nn.initializers.normal(0.02), axes)


def xavier(
    *axes: str | None, in_axis: int | Sequence[int] = -2, out_axis: int | Sequence[int] = -1
):
    """Xavier's initialisation of weight matrices, as in ViT's code.

    BART's fixed 0.02 suits a width of 768; with it, a model of width 64 starts with such small
    activations that it needs twice the steps to learn the same.
    """
    return named(nn.initializers.xavier_uniform(in_axis, out_axis), axes)

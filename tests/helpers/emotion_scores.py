"""Scores of an emotion classifier, by the names that summary.json has for them."""

import numpy as np

from igerg_jax.prediction_metrics import accuracy, macro_f1, majority_rate


def classification_metrics(prefix: str, confusion: np.ndarray) -> dict[str, float]:
    """`{prefix}_accuracy`, `{prefix}_macro_f1` and `{prefix}_majority_rate` of counts."""
    return {
        f"{prefix}_accuracy": accuracy(confusion),
        f"{prefix}_macro_f1": macro_f1(confusion),
        f"{prefix}_majority_rate": majority_rate(confusion),
    }

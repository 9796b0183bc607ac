"""How long hypothesis looks for a counterexample: shortly and always at the same examples.

PROPERTY_EXAMPLES=5000 has every property tried with so many new ones; pytest's
--hypothesis-show-statistics counts them.
"""

import os

import hypothesis

MORE = int(os.environ.get("PROPERTY_EXAMPLES", "0"))


def examples(number: int) -> hypothesis.settings:
    """Settings for so many examples."""
    return hypothesis.settings(
        max_examples=MORE or number,
        derandomize=not MORE,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

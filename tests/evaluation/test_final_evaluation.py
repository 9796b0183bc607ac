"""The evaluation that ends a run."""

import collections

import small

from igerg_jax.evaluation.evaluator import Measured
from igerg_jax.evaluation.final_evaluation import evaluate_run
from igerg_jax.evaluation.following import Following


class Counting:
    """Stands for an evaluator, and counts what is asked of it."""

    def __init__(self):
        self.labellers = {}
        self.asked = collections.Counter()

    def metrics(self, params, split, generate):
        self.asked["metrics", split] += 1
        return Measured({"response_perplexity": float(len(split))}, {}, {}, {"nll": []})

    def following(self, params, split):
        self.asked["following", split] += 1
        return Following({"emotion_following": float(len(split))}, [], [], {}, {"index": []})

    def cut_shares(self, split):
        return {}


def test_a_split_that_is_named_twice_is_measured_once():
    """As where no public test split is there, and `test` means `valid`."""
    evaluator = Counting()
    config = small.make_config(data__test_split="valid", data__extra_test_splits=("unseen",))
    config.data.eval_split = "valid"
    results = evaluate_run(evaluator, config, params=None, workdir=None)
    assert set(evaluator.asked) == {
        (what, split) for what in ("metrics", "following") for split in ("valid", "unseen")
    }
    assert set(evaluator.asked.values()) == {1}
    both = {"response_perplexity": 5.0, "emotion_following": 5.0}
    assert results["evaluation"]["valid"] == results["evaluation"]["test"] == both
    assert results["evaluation"]["unseen"]["response_perplexity"] == 6

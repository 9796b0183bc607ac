"""Objectives of a mixture learn from its rows alone, and the step compiles and counts with them."""

import jax
import numpy as np
import small
from ml_collections import ConfigDict

from igerg_jax import batch as batch_lib
from igerg_jax.objectives import combination

MIXED = ("text_emotion", "text_denoising")


def configs():
    """(with a mixture for MIXED, without it)"""
    plain = small.only(small.make_config(), *MIXED, "image_emotion")
    mixed = plain.copy_and_resolve_references()
    mixed.data.mixtures = ConfigDict({"talk": {"objectives": MIXED, "datasets": {"meld": 1.0}}})
    return mixed, plain


def test_objectives_read_their_own_mixture():
    mixed, plain = configs()
    batch = small.make_batch(mixed)
    batch_lib.check(batch, batch_lib.BatchSpec.of(mixed.data, mixed.train.batch_size))
    model = small.make_model(plain)
    main, talk = batch_lib.group_of(batch, ""), batch_lib.group_of(batch, "talk")
    assert main.keys() == talk.keys() and (main["context"] != talk["context"]).any()
    params = small.make_params(model, main)
    sums = jax.jit(
        lambda config, batch: combination.sums(
            config.value, model, params, batch, jax.random.key(0), 0
        ),
        static_argnums=0,
    )

    class Static:  # a config that jit can compare
        def __init__(self, value):
            self.value = value

    terms, _ = sums(Static(mixed), batch)
    for own, alone in ((main, {"image_emotion"}), (talk, set(MIXED))):
        expected, _ = sums(Static(plain), own)
        for name, term in expected.items():
            same = np.isclose(terms[name].loss_sum, term.loss_sum, rtol=1e-5)
            assert same == (name[0] in alone), name
    # Where there is no such group (evaluation), everything reads the main one.
    small.assert_trees_close(sums(Static(mixed), main)[0], sums(Static(plain), main)[0])

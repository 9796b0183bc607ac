"""What objectives share: batches of mixtures, encoder passes, and dropout in them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


def losses_of(*subset, dropout_rate=0.0) -> dict:
    config = small.only(small.make_config(model__text__dropout_rate=dropout_rate), *subset)
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    run = lambda p: combination.sums(config, model, p, batch, jax.random.key(0), 0)[0]  # noqa: E731
    return {name: float(term.loss_sum) for name, term in jax.jit(run)(params).items()}


def test_what_is_encoded_in_one_pass_is_encoded_as_if_alone():
    """One encoder pass serves several objectives; each gets what it would get alone."""
    names = ("text_denoising", "masked_multimodal", "emotional_response", "image_text_contrastive")
    together = losses_of(*names)
    for name in names:
        for term, loss in losses_of(name).items():
            np.testing.assert_allclose(loss, together[term], rtol=1e-5, err_msg=str(term))


def test_dropout_does_not_depend_on_objectives_with_inputs_of_another_shape():
    subsets = (("text_denoising",), ("image_emotion", "text_denoising"))
    alone, together = (losses_of(*subset, dropout_rate=0.3) for subset in subsets)
    assert alone["text_denoising", ""] == pytest.approx(together["text_denoising", ""], rel=1e-6)


def test_every_encoder_pass_has_dropout_of_its_own():
    """Seen at CLS of the first example, where one key for all passes would drop the same."""
    config = small.make_config(model__text__dropout_rate=0.5)
    model, rows_B, key = small.make_model(config), jnp.arange(8), jax.random.key(0)
    names, dropped = ("text_denoising", "masked_multimodal"), []

    def watch(call, args, kwargs, context):
        if context.module.path == ("encoder",) and context.method_name == "__call__":
            dropped.append(tuple(np.asarray(args[0][0, 0] == 0)))
        return call(*args, **kwargs)

    batch = small.make_batch(config)
    params = small.make_params(model, batch)
    visual = model.apply({"params": params}, batch, method="visual_tokens")
    given = combination.contexts(config, model, batch, key, 0, rows_B, names, visual)
    with nn.intercept_methods(watch):
        combination.with_encodings(given, params, key)
    assert len(dropped) == 3, "images alone, text alone, both"
    assert all(map(any, dropped)) and len(set(dropped)) == 3

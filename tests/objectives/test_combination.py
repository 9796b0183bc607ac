"""What objectives share: batches of mixtures, encoder passes, and dropout in them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import small
from ml_collections import ConfigDict

from igerg_jax import batch as batch_lib
from igerg_jax.models.attention import split
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
    params, key = small.make_params(model, main), jax.random.key(0)

    def terms_of(config):
        return lambda batch: combination.sums(config, model, params, batch, key, 0)[0]

    of_mixtures, of_one_batch = jax.jit(terms_of(mixed)), jax.jit(terms_of(plain))
    terms = of_mixtures(batch)
    for own, alone in ((main, {"image_emotion"}), (talk, set(MIXED))):
        for name, term in of_one_batch(own).items():
            same = np.isclose(terms[name].loss_sum, term.loss_sum, rtol=1e-5)
            assert same == (name[0] in alone), name
    # Where there is no such group (evaluation), everything reads the main one.
    small.assert_trees_close(of_mixtures(main), of_one_batch(main))


def inputs_of(config) -> tuple:
    """(model, parameters, batch) of a config."""
    model, batch = small.make_model(config), small.make_batch(config)
    return model, small.make_params(model, batch), batch


def test_what_is_encoded_in_one_pass_is_encoded_as_if_alone():
    """One encoder pass serves several objectives; each gets what it would get alone."""
    names = ("text_denoising", "masked_multimodal", "emotional_response", "image_text_contrastive")
    config, key, rows_B = small.make_config(), jax.random.key(0), jnp.arange(8)
    model, params, batch = inputs_of(config)

    @jax.jit
    def hidden(params):
        visual = model.apply({"params": params}, batch, method="visual_tokens")

        def encodings(*names):
            given = combination.contexts(config, model, batch, key, 0, rows_B, names, visual)
            encoded = combination.with_encodings(given, params, key)
            return {name: context.encoding.hidden_BxLxD for name, context in encoded.items()}

        return encodings(*names), [encodings(name) for name in names]

    together, alone = hidden(params)
    for encoding in alone:
        ((name, hidden_BxLxD),) = encoding.items()
        np.testing.assert_allclose(hidden_BxLxD, together[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_dropout_does_not_depend_on_objectives_that_give_the_encoder_nothing():
    def program(*subset) -> str:
        config = small.only(small.make_config(model__text__dropout_rate=0.3), *subset)
        model, params, batch = inputs_of(config)

        def term(params, batch, key):
            return combination.sums(config, model, params, batch, key, 0)[0]["text_denoising", ""]

        return small.program(term, params, batch, jax.random.key(0))

    assert program("text_denoising") == program("image_emotion", "text_denoising")


def test_every_input_of_the_encoder_has_dropout_of_its_own():
    """Seen at CLS of the first example, where one mask for all inputs would drop the same."""
    config = small.make_config(model__text__dropout_rate=0.5)
    model, rows_B, key = small.make_model(config), jnp.arange(8), jax.random.key(0)
    names = ("text_denoising", "masked_multimodal")
    batch = small.make_batch(config)

    @jax.jit
    def dropped(params):
        found = []

        def watch(call, args, kwargs, context):
            if context.module.path == ("encoder",) and context.method_name == "__call__":
                x_BxPxD, _, lengths = args
                found.extend(cls_BxLxD[0, 0] == 0 for cls_BxLxD in split(x_BxPxD, lengths))
            return call(*args, **kwargs)

        visual = model.apply({"params": params}, batch, method="visual_tokens")
        given = combination.contexts(config, model, batch, key, 0, rows_B, names, visual)
        with nn.intercept_methods(watch):
            combination.with_encodings(given, params, key)
        return found

    found = [tuple(np.asarray(zero_D)) for zero_D in dropped(small.make_params(model, batch))]
    assert len(found) == 3, "images alone, text alone, both"
    assert all(map(any, found)) and len(set(found)) == 3

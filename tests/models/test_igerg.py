"""The model: what images and words do to each other, causality, the cache, and free sizes."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from igerg_jax.batch import NUM_EMOTIONS
from igerg_jax.models import igerg
from igerg_jax.models.igerg import ImageSide, TextSide
from igerg_jax.models.layers import DecodingStep

N, S, D = 3, 12, 16


def encode(model, params, features, image_mask, image_turn, words):
    """Everything the encoder's output is used for, by name."""
    batch = {"features": features, "image_mask": image_mask, "image_turn": image_turn}

    def run(module):
        encoded = module.encode(igerg.image_side(batch, module.visual_tokens(batch)), words)
        return {
            "cls": encoded.cls_BxD,
            "images": encoded.images_BxNxD,
            "text": encoded.text_BxSxD,
            "image_logits": module.image_emotion_logits(encoded),
            "sequence_logits": module.sequence_emotion_logits(encoded),
            "masked_tokens": module.masked_token_hidden(encoded.text_BxSxD),
        }

    return model.apply({"params": params}, method=run)


class Case(NamedTuple):
    run: object  # compiled `encode`, the model bound
    params: dict
    inputs: tuple  # features, image mask, image turns, words


def make_case(**changes) -> Case:
    config = small.make_config(**changes)
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    words = igerg.text_side({k: jnp.asarray(v) for k, v in batch.items()}, small.SPECIAL)
    words = TextSide(*map(np.asarray, words))
    # Every image is real, so that any two may change places.
    mask, turn = np.ones((8, N), bool), np.tile(np.arange(N, dtype=np.int32), (8, 1))
    inputs = (batch["features"], mask, turn, words)
    return Case(jax.jit(functools.partial(encode, model)), params, inputs)


@pytest.fixture(scope="module", params=[True, False], ids=["norm_first", "norm_last"])
def case(request) -> Case:
    return make_case(model__text__norm_first=request.param)


@pytest.fixture(scope="module")
def without_turns() -> Case:
    return make_case(model__turn_embeddings=False)


SWAP = np.array([2, 1, 0])


def test_images_with_their_turns_may_come_in_any_order(case):
    features, mask, turn, words = case.inputs
    before = case.run(case.params, *case.inputs)
    after = case.run(case.params, features[:, SWAP], mask[:, SWAP], turn[:, SWAP], words)
    for name in before:
        expected = before[name][:, SWAP] if "image" in name else before[name]
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_image_in_another_turn_is_another_input(case):
    features, mask, turn, words = case.inputs
    before = case.run(case.params, *case.inputs)
    after = case.run(case.params, features[:, SWAP], mask, turn, words)
    for name in ("cls", "text", "sequence_logits"):
        assert np.abs(after[name] - before[name]).max() > 1e-2, name


def test_without_turn_embeddings_nobody_knows_whose_face_it_is(without_turns):
    features, mask, turn, words = without_turns.inputs
    before = without_turns.run(without_turns.params, *without_turns.inputs)
    after = without_turns.run(without_turns.params, features[:, SWAP], mask, turn, words)
    np.testing.assert_allclose(after["cls"], before["cls"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["text"], before["text"], rtol=1e-4, atol=1e-5)


def test_words_and_images_know_their_turn_by_one_table(case):
    """All turns moved by one for both sides, and the table's rows with them: nothing changes."""
    features, mask, turn, words = case.inputs
    moved = jax.tree.map(np.copy, case.params)
    moved["turn_embedding"] = np.roll(moved["turn_embedding"], 1, axis=0)
    before = case.run(case.params, *case.inputs)
    shifted = words._replace(turn_BxS=(words.turn_BxS + 1) % 3)
    after = case.run(moved, features, mask, (turn + 1) % 3, shifted)
    small.assert_trees_close(after, before, 1e-4, 1e-5)


def test_a_vector_of_zeros_is_an_image(case):
    features, mask, turn, words = case.inputs
    features, hidden = features.copy(), mask.copy()
    features[:, 1], hidden[:, 1] = 0.0, False
    shown = case.run(case.params, features, mask, turn, words)
    masked = case.run(case.params, features, hidden, turn, words)
    assert np.abs(shown["cls"] - masked["cls"]).max(axis=1).min() > 1e-4


def test_what_is_masked_may_hold_anything(case):
    features, mask, turn, words = case.inputs
    mask = mask.copy()
    mask[::2, 2], mask[1, :] = False, False
    other = np.where(mask[..., None], features, np.nan)
    garbage = np.random.default_rng(0).integers(5, small.VOCAB_SIZE, words.tokens_BxS.shape)
    tokens = np.where(words.mask_BxS, words.tokens_BxS, garbage).astype(np.int32)
    strange = TextSide(
        tokens, np.where(words.mask_BxS, words.turn_BxS, 2).astype(np.int32), words.mask_BxS
    )
    assert not words.mask_BxS.all()
    before = case.run(case.params, features, mask, turn, words)
    after = case.run(case.params, other, mask, np.where(mask, turn, 1), strange)
    for name in before:
        real = {"image": mask, "text": words.mask_BxS, "masked": words.mask_BxS}
        where = next((real[k] for k in real if name.startswith(k)), np.ones(8, bool))
        first, second = np.asarray(before[name])[where], np.asarray(after[name])[where]
        np.testing.assert_array_equal(first, second, err_msg=name)


def test_the_amount_of_padding_changes_nothing(case):
    """Masked places are not read as blanks either: fewer of them, the same output."""
    features, mask, turn, words = case.inputs
    mask = np.where(np.arange(N) < 2, mask, False)
    read = words.mask_BxS & (np.arange(S) < 7)
    long = case.run(case.params, features, mask, turn, words._replace(mask_BxS=read))
    cut = TextSide(*(side[:, :7] for side in words))
    short = case.run(case.params, features[:, :2], mask[:, :2], turn[:, :2], cut)
    for name in ("cls", "sequence_logits"):
        np.testing.assert_allclose(long[name], short[name], rtol=1e-4, atol=1e-5, err_msg=name)
    real = cut.mask_BxS
    np.testing.assert_allclose(long["text"][:, :7][real], short["text"][real], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def gradient():
    """Of all that is read off real positions, by parameters and features; and what was masked."""
    config = small.make_config()
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    context_mask = batch["context"] != small.SPECIAL.pad
    # Token 39 and turn 2 occur only where the mask hides them.
    tokens = np.where(context_mask, np.minimum(batch["context"], 38), 39).astype(np.int32)
    turn = np.where(context_mask, np.minimum(batch["context_turn"], 1), 2).astype(np.int32)
    image_turn = np.where(batch["image_mask"], np.minimum(batch["image_turn"], 1), 2)
    words = TextSide(tokens, turn, context_mask)

    def loss(params, features):
        out = encode(model, params, features, batch["image_mask"], image_turn, words)
        weights = {
            "images": batch["image_mask"][..., None],
            "image_logits": batch["image_mask"][..., None],
            "text": context_mask[..., None],
            "masked_tokens": context_mask[..., None],
        }
        return sum(jnp.sin(x * weights.get(name, 1.0)).sum() for name, x in out.items())

    features = np.where(batch["image_mask"][..., None], batch["features"], np.nan)
    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, features)
    longest = int(context_mask.sum(1).max())
    return *jax.tree.map(np.asarray, grads), batch["image_mask"], longest


def test_masked_images_get_no_gradient(gradient):
    _, features, image_mask, _ = gradient
    assert not features[~image_mask].any()
    assert np.abs(features[image_mask]).max(axis=-1).min() > 0


def test_padding_gets_no_gradient(gradient):
    params, _, _, longest = gradient
    assert not params["token_embedding"][39].any() and params["token_embedding"][38].any()
    assert not params["turn_embedding"][2].any() and params["turn_embedding"][:2].all()
    positions = params["encoder_position_embedding"]
    assert not positions[longest:].any() and positions[:longest].all()
    small_finite = {name: np.isfinite(leaf).all() for name, leaf in small.flat(params).items()}
    assert all(small_finite.values()), small_finite


class Decoding(NamedTuple):
    model: igerg.Igerg
    params: dict
    tokens: np.ndarray
    memory: np.ndarray
    mask: np.ndarray


@pytest.fixture(scope="module", params=[True, False], ids=["norm_first", "norm_last"])
def decoding(request) -> Decoding:
    config = small.make_config(model__text__norm_first=request.param, model__text__decoder_layers=2)
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, small.VOCAB_SIZE, (4, 6)).astype(np.int32)
    memory = rng.standard_normal((4, 9, D)).astype(np.float32)
    mask = np.arange(9)[None] < np.array([[9], [4], [1], [6]])
    return Decoding(model, params, tokens, memory, mask)


def test_the_decoder_cannot_see_what_comes_later(decoding):
    """By gradient: position t's output may depend on inputs 0 to t, and does, on no other."""
    model, params, tokens, memory, mask = decoding

    @jax.jit
    @jax.grad
    def influence(positions, t):
        changed = {**params, "decoder_position_embedding": positions}
        hidden = model.apply({"params": changed}, tokens, memory, mask, None, method="decode")
        return hidden[:, t, 0].sum()  # one channel: after a layer norm their sum is a constant

    positions = params["decoder_position_embedding"]
    by_output = np.stack([np.abs(influence(positions, t)).max(-1)[:6] for t in range(6)])
    np.testing.assert_array_equal(by_output > 0, np.tril(np.ones((6, 6), bool)))


@pytest.mark.parametrize("prefix", [1, 3])
def test_decoding_with_a_cache_is_decoding_at_once(decoding, prefix):
    model, params, tokens, memory, mask = decoding
    apply = functools.partial(model.apply, {"params": params})
    emotion = np.eye(NUM_EMOTIONS, dtype=np.float32)[[3, 0, 5, 1]]
    whole = jax.jit(functools.partial(apply, method="decode"))(tokens, memory, mask, emotion)
    start = jax.jit(functools.partial(apply, method="start_decoding"), static_argnums=4)
    hidden, cache = start(tokens[:, :prefix], memory, mask, emotion, 6)
    step = jax.jit(functools.partial(apply, method="decode_step"))
    parts, paths = [hidden], jnp.zeros((len(tokens), 1, 6), jnp.int32)
    for at in range(prefix, 6):
        hidden, cache = step(
            tokens[:, at : at + 1], DecodingStep.of_paths(at, paths), cache, mask, emotion
        )
        parts.append(hidden)
    assert step._cache_size() == 1, "a step of decoding compiled again"
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", igerg.EMOTION_EMBEDDINGS)
def test_a_target_emotion_changes_what_is_decoded_and_none_adds_nothing(place):
    """By where it is added: other vectors, other outputs; without one there is no vector at all."""

    def decoder(scale: float):
        config = small.make_config(model__emotion_embedding=place, model__emotion_scale=scale)
        return config, jax.jit(functools.partial(small.make_model(config).apply, method="decode"))

    config, decode = decoder(3.0)
    batch = small.make_batch(config)
    params = small.make_params(small.make_model(config), batch)
    tables = {name for name in params if "emotion_" in name and name.endswith("_embedding")}
    places = {"none": (), "both": ("input", "output")}.get(place, (place,))
    assert tables == {f"emotion_{p}_embedding" for p in places}
    rng = np.random.default_rng(0)
    memory, mask = rng.standard_normal((4, 9, D)).astype(np.float32), np.ones((4, 9), bool)
    given = {"params": params}, batch["response"][:4], memory, mask
    unconditioned, nothing = decode(*given, None), np.zeros((4, NUM_EMOTIONS), np.float32)
    np.testing.assert_allclose(decode(*given, nothing), unconditioned, rtol=1e-4, atol=1e-5)
    conditioned = nothing.copy()
    conditioned[:2, 3] = 1.0  # two of four rows
    found = np.abs(decode(*given, conditioned) - unconditioned).max((1, 2))
    np.testing.assert_array_equal(found > 1e-3, np.array([1, 1, 0, 0], bool) & (place != "none"))
    # At the output it is the vector itself, at the scale that the config gives.
    if place == "output":
        double = decoder(6.0)[1](*given, conditioned)
        vector = params["emotion_output_embedding"][3]
        np.testing.assert_allclose(
            (double - unconditioned)[0], np.broadcast_to(6.0 * vector, (6, D)), rtol=1e-4, atol=1e-4
        )


def test_the_response_image_is_that_of_the_turn_after_the_context():
    pad, eos = small.SPECIAL.pad, small.SPECIAL.eos
    context = np.array([[7, eos, 8, eos], [7, eos, pad, pad], [7, eos, 8, eos], [pad] * 4])
    batch = {
        "context": context,
        # The turn at PAD may be anything; a context that was cut keeps its last turn.
        "context_turn": np.array([[0, 0, 1, 1], [0, 0, 2, 2], [1, 1, 1, 1], [0] * 4]),
        "image_mask": np.array([[1, 1, 1], [1, 1, 0], [1, 1, 0], [0, 0, 0]], bool),
        "image_turn": np.array([[0, 1, 2], [0, 1, 0], [0, 1, 2], [1, 0, 0]]),
    }
    found = igerg.response_image(batch, small.SPECIAL)
    np.testing.assert_array_equal(found, [[0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_the_emotion_that_is_told_is_that_seen_in_the_response_image():
    logits = np.random.default_rng(0).standard_normal((2, 3, NUM_EMOTIONS)).astype(np.float32)
    shown = np.array([[0, 1, 0], [0, 0, 0]], bool)
    got = igerg.target_emotion(logits, shown)
    np.testing.assert_allclose(got[0], np.exp(logits[0, 1]) / np.exp(logits[0, 1]).sum(), rtol=1e-5)
    assert not got[1].any()


def test_the_decoder_starts_from_the_start_token():
    targets = jnp.asarray([[7, 8, 2, 0]])
    shifted = igerg.shift_right(targets, small.SPECIAL)
    np.testing.assert_array_equal(shifted, [[small.SPECIAL.decoder_start, 7, 8, 2]])


@pytest.mark.parametrize(
    ("width", "heads", "encoder_layers", "decoder_layers", "norm_first", "images"),
    [(512, 8, 1, 3, True, 4), (24, 3, 3, 1, False, 1), (20, 1, 2, 2, True, 1)],
)
def test_width_depth_and_heads_are_free(
    width, heads, encoder_layers, decoder_layers, norm_first, images
):
    layers = dict(encoder_layers=encoder_layers, decoder_layers=decoder_layers)
    config = small.with_pixels(small.make_config(model__vision__tokens_per_image=images))
    config.model.text.update(norm_first=norm_first, width=width, heads=heads, **layers)
    model, batch = small.make_model(config), small.make_batch(config)

    def everything():
        params = model.init(jax.random.key(0), batch)  # calls every method that has parameters
        images = igerg.image_side(batch, model.apply(params, batch, method="visual_tokens"))
        words = igerg.text_side(batch, model.special)
        return params["params"], model.apply(params, images, words, method="encode")

    params, encoded = jax.eval_shape(everything)
    assert encoded.hidden_BxLxD.shape == (8, 1 + N * images + S, width)
    assert encoded.images_BxNxD.shape == (8, N, width)
    assert encoded.text_BxSxD.shape == (8, S, width)
    for stack in ("encoder", "decoder"):
        kernel = params[stack]["layers"]["self_attention"]["query"]["kernel"].value
        assert kernel.shape == (layers[f"{stack}_layers"], width, heads, width // heads)


def test_an_image_of_several_tokens_is_masked_and_pooled_whole():
    config = small.with_pixels(small.make_config(model__vision__tokens_per_image=4))
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    visual = np.random.default_rng(0).standard_normal((8, N, 4, D)).astype(np.float32)
    mask = batch["image_mask"]

    @jax.jit
    def run(visual):
        sides = ImageSide(visual, mask, batch["image_turn"]), None
        return model.apply({"params": params}, *sides, method="encode")

    before = run(visual)
    after = run(np.where(mask[..., None, None], visual, np.nan))
    tokens = np.asarray(before.hidden_BxLxD[:, 1:]).reshape(8, N, 4, D)
    np.testing.assert_allclose(before.images_BxNxD, tokens.mean(2), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(before.mask_BxL[:, 1:], np.repeat(mask, 4, axis=1))
    np.testing.assert_array_equal(before.cls_BxD, after.cls_BxD)
    assert before.text_BxSxD is None
    # The four tokens of an image have places of their own.
    assert np.abs(run(visual[:, :, ::-1]).cls_BxD - before.cls_BxD).max() > 1e-3


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_tower_gets_no_gradient(frozen):
    config = small.with_pixels(small.make_config(model__vision__frozen=frozen))
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    loss = lambda p: jnp.sin(model.apply({"params": p}, batch, method="visual_tokens")).sum()  # noqa: E731
    by_params = jax.jit(jax.grad(loss))(params)
    assert (small.largest(by_params["vision_tower"]) == 0) == frozen
    assert small.largest(by_params["image_projection"]) > 0


@pytest.fixture(scope="module")
def judge():
    config = small.make_config()
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    apply = functools.partial(model.apply, {"params": params})
    read = jax.jit(functools.partial(apply, method="judge_tokens"))
    embedded = jax.jit(functools.partial(apply, method="judge_embedded"))
    return params["judge_network"], read, embedded, batch["response"]


def test_the_judge_reads_ids_as_rows_of_its_embedding(judge):
    params, read, embedded, response = judge
    mask = response != small.SPECIAL.pad
    rows = np.where(mask[..., None], params["embedding"][response], np.nan)
    np.testing.assert_allclose(read(response), embedded(rows, mask), rtol=1e-5, atol=1e-6)


def test_the_judge_does_not_read_padding(judge):
    _, read, _, response = judge
    longer = np.pad(response, ((0, 0), (0, 3)), constant_values=small.SPECIAL.pad)
    np.testing.assert_allclose(read(longer), read(response), rtol=1e-4, atol=1e-5)


def test_the_judge_of_nothing_has_its_bias_alone(judge):
    params, read, _, response = judge
    logits = np.asarray(read(np.zeros_like(response)))
    np.testing.assert_allclose(logits, np.tile(params["classifier"]["bias"], (8, 1)), rtol=1e-6)


def test_the_judge_reads_the_order_of_words(judge):
    _, read, _, response = judge
    response = np.random.default_rng(0).integers(5, 40, response.shape).astype(np.int32)
    assert np.abs(read(response) - read(response[:, ::-1])).max() > 1e-3


def test_contrastive_scalars_start_where_siglip_does():
    config = small.make_config()
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    params |= {"contrastive_log_scale": jnp.zeros(()), "contrastive_bias": jnp.zeros(())}

    def run(module):
        words = igerg.text_side(batch, module.special)
        seen = module.encode(igerg.image_side(batch, module.visual_tokens(batch)), None)
        return module.contrastive_vectors(seen, module.encode(None, words))

    image, words, log_scale, bias = jax.jit(lambda: model.apply({"params": params}, method=run))()
    assert image.shape == words.shape == (8, 8)
    np.testing.assert_allclose([np.exp(log_scale), bias], [10.0, -10.0], rtol=1e-6)

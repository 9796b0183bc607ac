"""Schedules by their formulas, and what the chain does to each kind of parameter."""

import math

import jax
import numpy as np
import optax
import pytest
import small

from igerg_jax import optim
from igerg_jax.errors import UserError
from igerg_jax.training import train_state

SETTINGS = dict(
    name="adamw",
    first_moment_dtype="float32",
    schedule="cosine",
    peak_learning_rate=1e-2,
    initial_learning_rate=1e-4,
    final_learning_rate=1e-3,
    warmup_steps=10,
    b1=0.9,
    b2=0.98,
    eps=1e-8,
    weight_decay=0.1,
    clip_norm=0.0,
    ema_decay=0.0,
)


def rate(step: int, schedule: str) -> float:
    """The formulas, written once more, for 10 steps of warm-up and 50 in all."""
    if step < 10:
        return 1e-4 + (1e-2 - 1e-4) * step / 10
    if schedule == "inverse_sqrt":
        return 1e-2 * math.sqrt(10 / step)
    done = min((step - 10) / 40, 1.0)
    return 1e-3 + (1e-2 - 1e-3) * (1 + math.cos(math.pi * done)) / 2


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_schedule_follows_its_formula(name):
    schedule = optim.schedule(SETTINGS | dict(schedule=name), 50)
    steps = [0, 1, 9, 10, 11, 30, 49, 50, 80]
    np.testing.assert_allclose(
        [schedule(s) for s in steps], [rate(s, name) for s in steps], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(schedule="linear"), "optim.schedule 'linear' is not one of cosine, inverse_sqrt"),
        (dict(warmup_steps=0), "optim.warmup_steps=0 must be at least 1"),
        (dict(name="adam"), "optim.name 'adam' is not one of adamw, lion, adafactor"),
        (dict(first_moment_dtype="int8"), "optim.first_moment_dtype 'int8' is not one of float32"),
    ],
)
def test_wrong_settings_are_named(change, says):
    with pytest.raises(UserError, match=says):
        optim.check(SETTINGS | change)


# A tree with every kind of name; the values do not matter.
PARAMS = {
    "vision_tower": {"kernel": np.array([1.0, 2.0]), "bias": np.array([3.0])},
    "head": {"kernel": np.array([4.0, -5.0]), "bias": np.array([6.0])},
    "norm": {"scale": np.array([7.0])},
    "contrastive_bias": np.array(8.0),
    "contrastive_log_scale": np.array(9.0),
    "token_embedding": np.array([[10.0]]),
}
PARAMS = jax.tree.map(lambda x: x.astype(np.float32), PARAMS)
DECAYED = {"['vision_tower']['kernel']", "['head']['kernel']", "['token_embedding']"}


def random_like(params, size: float = 1.0):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: (size * rng.standard_normal(p.shape)).astype(np.float32), params)


def updates_of(settings, grads, frozen=(), steps=1):
    optimizer = optim.optimizer(SETTINGS | settings, 50, frozen)

    @jax.jit
    def run(grads):
        state, params = optimizer.init(PARAMS), PARAMS
        for _ in range(steps):
            updates, state = optimizer.update(grads, state, params)
        return updates

    return run(grads)


def test_weight_decay_pulls_matrices_and_tables_alone():
    updates = small.flat(updates_of({}, jax.tree.map(np.zeros_like, PARAMS)))
    for name, value in small.flat(PARAMS).items():
        expected = -1e-4 * 0.1 * value if name in DECAYED else np.zeros_like(value)
        np.testing.assert_allclose(updates[name], expected, rtol=1e-5, err_msg=name)


def test_decay_mask_of_the_whole_model():
    config = small.with_pixels(small.make_config())
    model = small.make_model(config)
    params = small.make_params(model, small.make_batch(config))
    for name, decays in small.flat(optim.decay_mask(params)).items():
        kept = ("bias']", "scale']")
        assert decays == (not name.endswith(kept)), name


def test_updates_are_adams():
    """Two steps of the textbook: the same gradient twice, without weight decay."""
    grads = random_like(PARAMS)
    updates = small.flat(updates_of(dict(weight_decay=0.0), grads, steps=2))
    for name, g in small.flat(grads).items():
        mean, square = 0.1 * g, 0.02 * g**2
        mean, square = 0.9 * mean + 0.1 * g, 0.98 * square + 0.02 * g**2
        direction = mean / (1 - 0.9**2) / (np.sqrt(square / (1 - 0.98**2)) + 1e-8)
        np.testing.assert_allclose(updates[name], -rate(1, "cosine") * direction, rtol=1e-4)


@pytest.mark.parametrize("frozen", [(), ("vision_tower",)])
def test_clipping_is_by_the_norm_of_what_is_trained(frozen):
    grads = random_like(PARAMS)
    trained = {k: g for k, g in grads.items() if k not in frozen}
    scale = 0.5 / float(optax.tree_utils.tree_norm(trained))
    assert scale < 1
    # A large eps makes Adam's update depend on the gradient's size.
    settings = dict(eps=1.0, weight_decay=0.0)
    clipped = updates_of(settings | dict(clip_norm=0.5), grads, frozen)
    scaled = updates_of(settings, jax.tree.map(lambda g: g * scale, grads), frozen)
    small.assert_trees_close(clipped, scaled, rtol=1e-5, atol=1e-9)
    short = jax.tree.map(lambda g: g * scale * 0.9, grads)
    unclipped = updates_of(settings | dict(clip_norm=0.5), short, frozen)
    small.assert_trees_close(unclipped, updates_of(settings, short, frozen), 1e-6, 1e-9)


def test_what_is_frozen_neither_moves_nor_has_state():
    updates = updates_of({}, random_like(PARAMS), ("vision_tower",))
    assert not small.largest(updates.pop("vision_tower"))
    assert all(leaf.all() for leaf in small.flat(updates).values())
    state = optim.optimizer(SETTINGS, 50, ("vision_tower",)).init(PARAMS)
    assert not any("vision_tower" in name for name in small.flat(state))
    assert any("token_embedding" in name for name in small.flat(state))


def fit(**changes) -> tuple[list[float], optax.OptState]:
    """A quadratic's values, and the last state."""
    optimizer = optim.optimizer(SETTINGS | dict(weight_decay=0.0) | changes, 200, ())
    target = {"kernel": np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)}
    loss = lambda p: ((p["kernel"] - target["kernel"]) ** 2).mean()  # noqa: E731

    def update(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = jax.tree.map(np.zeros_like, target)
    run = jax.jit(lambda p: jax.lax.scan(update, (p, optimizer.init(p)), None, length=200))
    (_, state), values = run(params)
    return values.tolist(), state


def size(state) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_each_optimizer_descends(name):
    values, _ = fit(name=name)
    assert values[-1] < 0.2 * values[0]


def test_what_the_state_of_each_takes():
    whole = 256 * 128 * 4
    taken = {name: size(fit(name=name)[1]) for name in optim.OPTIMIZERS}
    assert taken["adamw"] == pytest.approx(2 * whole, rel=0.01)
    assert taken["lion"] == pytest.approx(whole, rel=0.01)
    assert taken["adafactor"] < 0.05 * whole
    half = size(fit(first_moment_dtype="bfloat16")[1])
    assert half == pytest.approx(1.5 * whole, rel=0.01)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_each_optimizers_state_has_a_place_on_a_mesh(name):
    config = small.make_config(optim__name=name)
    config.mesh.update(data=2, fsdp=2, tensor=2)
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL)
    for leaf in jax.tree.leaves(setup.abstract_state.opt_state):
        leaf.sharding.shard_shape(leaf.shape)  # raises where a rank or a size does not fit

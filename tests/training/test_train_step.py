"""The training step: the same on every mesh, safe from bad batches, compiled once."""

import re

import jax
import jax.monitoring
import numpy as np
import pytest
import small

from igerg_jax import kept_traces, objectives
from igerg_jax.errors import UserError
from igerg_jax.objectives import combination
from igerg_jax.parallel import sharding
from igerg_jax.setup import base_key, mesh_context
from igerg_jax.training import train_state, train_step

STEPS = 3
# Randomness on rows, a chunked vocabulary, two terms each: what could depend on the layout.
SUBSET = ("masked_multimodal", "emotional_response")


def make_setup(
    devices: int, subset=SUBSET, pixels: bool = False, **changes
) -> train_state.TrainingSetup:
    config = small.only(small.make_config(), *subset)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    if pixels:
        small.with_pixels(config)
    return train_state.set_up_training(
        config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:devices]
    )


def place(setup: train_state.TrainingSetup, batch):
    return sharding.to_devices(batch, sharding.batch_sharding(setup.mesh))


def batches(setup: train_state.TrainingSetup, count: int = STEPS):
    return [place(setup, small.make_batch(setup.config, seed)) for seed in range(count)]


def drawn_state(setup: train_state.TrainingSetup) -> train_state.TrainState:
    """A state of step 0 on the devices, without compiling `init_state`."""
    abstract = setup.abstract_state
    params = small.make_params(setup.model, small.make_batch(setup.config), spread=0.1)
    params = jax.device_get(params)  # else both trees below would be one buffer, donated twice
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
    ema_params = params if abstract.ema_params is not None else None
    reference = params if abstract.reference_params is not None else None
    state = zeros.replace(params=params, ema_params=ema_params, reference_params=reference)
    return jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, abstract))


class Run:
    """A compiled step, and host copies of the states and metrics of a few steps."""

    def __init__(self, setup: train_state.TrainingSetup):
        self.setup = setup
        self.step = train_step.lower_step(setup).compile()
        state = drawn_state(setup)
        self.states, self.metrics = [jax.device_get(state)], []
        for batch in batches(setup):
            state, metrics = self.step(state, batch)
            self.states.append(jax.device_get(state))
            self.metrics.append(jax.device_get(metrics))

    def restored(self, index: int) -> train_state.TrainState:
        """The state after `index` steps, on the devices again."""
        where = jax.tree.map(lambda leaf: leaf.sharding, self.setup.abstract_state)
        return jax.device_put(self.states[index], where)


ONE = dict(optim__ema_decay=0.9, train__batch_size=16, objectives__masked_multimodal__weight=0.5)


@pytest.fixture(scope="module")
def one() -> Run:
    return Run(make_setup(1, **ONE))


@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        (8, dict(mesh__data=2, mesh__fsdp=2, mesh__tensor=2)),
        (8, dict(mesh__data=8, train__accumulate_steps=2)),
    ],
    ids=["data_fsdp_tensor", "data_accumulated"],
)
@pytest.mark.slow
def test_the_layout_changes_nothing(one, devices, changes):
    """Every mesh, and accumulation: the same losses, gradients and parameters."""
    other = Run(make_setup(devices, **ONE | changes))
    for ours, theirs in zip(other.metrics, one.metrics, strict=True):
        small.assert_trees_close(ours, theirs, rtol=1e-4, atol=1e-5)
    # Adam divides by the gradient's size, so that a rounding error in a gradient of zero shows.
    small.assert_trees_close(other.states[-1].params, one.states[-1].params, 1e-3, 2e-5)


def test_a_fresh_state_is_the_same_on_any_mesh_and_lies_where_the_setup_says():
    setup = make_setup(8, mesh__data=2, mesh__fsdp=2, mesh__tensor=2, optim__ema_decay=0.9)
    state = train_state.init_state(setup)
    alone = make_setup(1, optim__ema_decay=0.9)
    small.assert_trees_equal(jax.device_get(state), jax.device_get(train_state.init_state(alone)))
    wanted = jax.tree_util.tree_leaves_with_path(setup.abstract_state)
    for (path, abstract), leaf in zip(wanted, jax.tree.leaves(state), strict=True):
        name = jax.tree_util.keystr(path)
        assert (leaf.shape, leaf.dtype) == (abstract.shape, abstract.dtype), name
        assert leaf.sharding.is_equivalent_to(abstract.sharding, leaf.ndim), name
    # Adam's moments lie beside their parameter.
    table = state.params["token_embedding"].sharding
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.shape == (small.VOCAB_SIZE, 16)]
    assert len(moments) == 2 and all(m.sharding.is_equivalent_to(table, 2) for m in moments)


def test_the_loss_is_the_weighted_sum_of_means(one):
    """Against a sum by hand over the objectives' own terms."""
    config, model, batch = one.setup.config, one.setup.model, small.make_batch(one.setup.config)
    key = jax.random.fold_in(base_key(config), 0)
    sums = jax.jit(lambda params: combination.sums(config, model, params, batch, key, 0))
    (terms, metrics), expected = sums(one.states[0].params), 0.0
    for (name, part), term in terms.items():
        mean = float(term.loss_sum / term.count)
        np.testing.assert_allclose(one.metrics[0][f"loss/{name}/{part}"], mean, rtol=1e-4)
        expected += config.objectives[name].weight * float(term.scale) * mean
    np.testing.assert_allclose(one.metrics[0]["loss/total"], expected, rtol=1e-4)
    for (name, part), (right, count) in metrics.items():
        shown = one.metrics[0][f"metric/{name}/{part}"]
        np.testing.assert_allclose(shown, right / count, rtol=1e-5)


@pytest.mark.slow
def test_own_responses_are_the_same_on_any_mesh_and_the_reference_stays():
    """Whatever the mesh and the accumulation, each example draws and is scored the same."""
    terms = dict(preference_weight=1.0, policy_weight=1.0, policy_samples=2)
    terms |= dict(consistency_weight=0.0, contrast_weight=0.0)
    changes = {f"objectives__emotional_response__{key}": value for key, value in terms.items()}
    changes |= dict(generate__strategy="greedy", train__batch_size=8)
    found = []
    for devices, layout in ((1, {}), (4, dict(mesh__fsdp=2, train__accumulate_steps=2))):
        setup = make_setup(devices, ("emotional_response",), **changes, **layout)
        step = train_step.lower_step(setup).compile()
        state, metrics = step(drawn_state(setup), batches(setup, 1)[0])
        found.append(jax.device_get((state, metrics)))
    (state, metrics), (_, others) = found
    for name in ("loss/emotional_response/preference", "loss/emotional_response/policy"):
        assert np.isfinite(metrics[name]) and metrics[name] != 0
        np.testing.assert_allclose(metrics[name], others[name], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(metrics["grad_norm"], others["grad_norm"], rtol=1e-3)
    before = jax.device_get(drawn_state(setup).params)
    small.assert_trees_equal(state.reference_params, before)
    assert small.largest(jax.tree.map(np.subtract, state.params, before)) > 0
    assert make_setup(1).abstract_state.reference_params is None, "nothing reads it there"


def test_ema_follows_its_formula(one):
    for before, after in zip(one.states[:-1], one.states[1:], strict=True):
        expected = jax.tree.map(
            lambda average, new: 0.9 * average + 0.1 * new, before.ema_params, after.params
        )
        small.assert_trees_close(after.ema_params, expected, rtol=1e-5, atol=1e-7)
    small.assert_trees_equal(one.states[0].ema_params, one.states[0].params)


def test_counters_and_learning_rate(one):
    assert [int(state.step) for state in one.states] == [0, 1, 2, 3]
    # Warm-up from 1e-7 to 1e-3 in 4 steps.
    rates = [float(metrics["learning_rate"]) for metrics in one.metrics]
    expected = [1e-7 + (1e-3 - 1e-7) * i / 4 for i in range(3)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)
    assert all(metrics["skipped"] == 0 for metrics in one.metrics)


def poisoned(setup: train_state.TrainingSetup):
    batch = small.make_batch(setup.config, 1)
    assert batch["image_mask"][0, 0]
    batch["features"][0, 0, 0] = np.nan
    return place(setup, batch)


def test_a_bad_batch_changes_counters_alone_and_training_recovers(one):
    good = batches(one.setup)
    state, metrics = one.step(one.restored(1), poisoned(one.setup))
    after = jax.device_get(state)
    assert not np.isfinite(metrics["loss/total"]) and metrics["skipped"] == 1
    for part in ("params", "opt_state", "ema_params"):
        small.assert_trees_equal(getattr(after, part), getattr(one.states[1], part))
    counters = (after.step, after.skipped_steps, after.consecutive_skips)
    assert tuple(map(int, counters)) == (2, 1, 1)
    state, metrics = one.step(state, poisoned(one.setup))
    assert (int(state.consecutive_skips), float(metrics["consecutive_skips"])) == (2, 2.0)
    # The learning rate is the optimizer's, which has made one step so far.
    state, metrics = one.step(state, good[2])
    np.testing.assert_allclose(metrics["learning_rate"], one.metrics[1]["learning_rate"])
    assert (int(state.consecutive_skips), int(state.skipped_steps)) == (0, 2)
    assert metrics["skipped"] == 0 and np.isfinite(metrics["loss/total"])
    moved = jax.tree.map(
        lambda new, old: np.abs(new - old), jax.device_get(state.params), after.params
    )
    assert small.largest(moved) > 1e-6


def test_a_step_is_a_function_of_its_inputs(one):
    """Bitwise; and the step number, not history, is what randomness comes from."""
    state, metrics = one.step(one.restored(2), batches(one.setup)[2])
    small.assert_trees_equal(jax.device_get(state), one.states[3])
    small.assert_trees_equal(jax.device_get(metrics), one.metrics[2])
    shifted = one.restored(2)
    shifted = shifted.replace(step=shifted.step + 1)
    _, other = one.step(shifted, batches(one.setup)[2])
    name = "loss/masked_multimodal/tokens"
    assert float(other[name]) != float(one.metrics[2][name])


def test_the_state_is_donated(one):
    state = one.restored(0)
    held = jax.tree.leaves(state.params)
    one.step(state, batches(one.setup)[0])
    assert all(leaf.is_deleted() for leaf in held)


def test_nothing_compiles_or_moves_between_host_and_device_in_the_loop(one):
    state, ready = one.restored(0), batches(one.setup)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name)
    )
    try:
        with jax.transfer_guard("disallow"):
            for batch in ready:
                state, metrics = one.step(state, batch)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [name for name in compiled if "compile" in name or "trace" in name], compiled
    small.assert_trees_equal(jax.device_get(metrics), one.metrics[-1])


def test_another_shape_is_refused_not_compiled(one):
    batch = small.make_batch(one.setup.config, batch_size=4)
    with pytest.raises(TypeError, match="compiled"):
        one.step(one.restored(0), place(one.setup, batch))


class Untraceable(objectives.Objective):
    """Fails where it is traced."""

    name, summary = "untraceable", ""

    def loss(self, context):
        raise AssertionError("an objective of weight 0 was traced")


def traced(setup: train_state.TrainingSetup) -> str:
    with mesh_context(setup):
        step = train_step.make_step(setup)
        return str(step.trace(setup.abstract_state, setup.abstract_batch).jaxpr)


def test_weight_zero_is_not_traced(monkeypatch):
    for name in set(objectives.OBJECTIVES) - {"image_emotion"}:
        monkeypatch.setitem(objectives.OBJECTIVES, name, Untraceable())
    setup = make_setup(1, ("image_emotion",))
    program = traced(setup)
    monkeypatch.undo()
    products = lambda text: len(re.findall(r"dot_general", text))  # noqa: E731
    assert products(program) < products(traced(make_setup(1, ("image_emotion", *SUBSET)))) / 2


@pytest.fixture(scope="module")
def frozen() -> Run:
    return Run(make_setup(2, ("image_emotion",), True, model__vision__frozen=True))


def test_a_frozen_tower_keeps_its_values_and_costs_no_state(frozen):
    first, last = frozen.states[0], frozen.states[-1]
    small.assert_trees_equal(last.params["vision_tower"], first.params["vision_tower"])
    for part in ("image_projection", "encoder", "emotion_head"):
        moved = jax.tree.map(lambda a, b: a - b, last.params[part], first.params[part])
        assert small.largest(moved) > 1e-6, part
    names = small.flat(last.opt_state)
    assert not any("vision_tower" in name for name in names)
    assert any("image_projection" in name for name in names)


def test_an_image_that_does_not_divide_into_patches_is_refused():
    with pytest.raises(UserError, match=r"image_size=16 does not divide into patches .*=5"):
        make_setup(1, pixels=True, model__vision__patch_size=5)


def test_a_step_and_an_initial_state_are_the_same_from_a_kept_trace(tmp_path, monkeypatch):
    def trained(**changes):
        setup = make_setup(1, ("image_emotion",), optim__ema_decay=0.9, **changes)
        state = train_state.init_state(setup)
        (batch,) = batches(setup, 1)
        return jax.device_get(train_step.lower_step(setup).compile()(state, batch))

    plain = trained()
    kept_traces.keep_in(tmp_path)
    small.assert_trees_equal(trained(), plain)
    with monkeypatch.context() as patch:
        patch.delattr(train_step, "loss_gradient")
        patch.delattr(train_state, "init_params")
        small.assert_trees_equal(trained(), plain)
        with pytest.raises(NameError):  # another config has another trace
            trained(optim__b1=0.5)

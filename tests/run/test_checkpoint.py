"""Checkpoints: bitwise on any mesh, what is kept, what is refused, what fine-tuning takes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import NamedSharding, PartitionSpec

from igerg_jax.errors import UserError
from igerg_jax.models import igerg
from igerg_jax.run.checkpoint import Checkpoints, check_init, find, load_params
from igerg_jax.training import train_state

DIGEST = "0123456789abcdef"
MESHES = {
    "8 data": ({}, 8),
    "fsdp 2, tensor 2": ({"mesh__fsdp": 2, "mesh__tensor": 2}, 8),
    "1 device": ({}, 1),
}


def set_up(devices: int = 8, **changes) -> train_state.TrainingSetup:
    config = small.make_config(**changes)
    return train_state.set_up_training(
        config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:devices]
    )


def make_state(
    setup: train_state.TrainingSetup, number: int = 3, seed: int = 0
) -> train_state.TrainState:
    """A state of step `number` with random bits in every array, without compiling anything."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        kind = np.random.default_rng(rng.integers(2**31))
        if leaf.dtype == jnp.int32:
            value = kind.integers(0, 1000, leaf.shape, dtype=np.int32)
        else:
            value = kind.standard_normal(leaf.shape, dtype=leaf.dtype)
        return jax.device_put(value, leaf.sharding)

    state = jax.tree.map(draw, setup.abstract_state)
    at = jax.device_put(np.int32(number), setup.abstract_state.step.sharding)
    return state.replace(step=at)


def save(
    folder, setup: train_state.TrainingSetup, state: train_state.TrainState, metrics=None
) -> None:
    checkpoints = Checkpoints(folder, setup.config, DIGEST)
    checkpoints.save(state, metrics)
    checkpoints.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(a workdir with a checkpoint of step 3 that 8 devices wrote, its setup, its state)."""
    folder = tmp_path_factory.mktemp("workdir")
    setup = set_up()
    state = make_state(setup)
    save(folder, setup, state)
    return folder, setup, state


@pytest.mark.parametrize("mesh", MESHES)
def test_restores_bitwise_on_any_mesh(saved, mesh):
    folder, _, state = saved
    changes, devices = MESHES[mesh]
    setup = set_up(devices, **changes)
    restored = Checkpoints(folder, setup.config, DIGEST).restore(setup.abstract_state)
    assert jax.tree.structure(restored) == jax.tree.structure(setup.abstract_state)
    small.assert_trees_equal(restored, state)
    for leaf, wanted in zip(
        jax.tree.leaves(restored), jax.tree.leaves(setup.abstract_state), strict=True
    ):
        assert leaf.sharding == wanted.sharding
        assert leaf.dtype == wanted.dtype


def test_orbax_v1_reads_the_same_bits(saved):
    """Whole, on another mesh, or only the parameters: what moving to V1 needs of old runs."""
    v1 = pytest.importorskip("orbax.checkpoint.experimental.v1")
    if not hasattr(v1, "load"):
        pytest.skip("this Orbax is older than V1's present names")
    path, state = saved[0] / "checkpoints" / "3", saved[2]
    wanted = set_up(mesh__fsdp=2, mesh__tensor=2).abstract_state
    small.assert_trees_equal(v1.load(path, wanted, checkpointable_name="state"), state)
    context = v1.Context()
    context.pytree.loading.partial_load = True
    with context:
        part = v1.load(path, {"params": wanted.params}, checkpointable_name="state")
    small.assert_trees_equal(part, {"params": state.params})
    assert v1.load_checkpointables(path, {"run": None})["run"]["step"] == 3


def test_restored_leaves_are_spread_over_the_mesh(saved):
    setup = set_up(mesh__fsdp=2, mesh__tensor=2)
    restored = Checkpoints(saved[0], setup.config, DIGEST).restore(setup.abstract_state)
    table = restored.params["token_embedding"]
    assert table.sharding == NamedSharding(setup.mesh, PartitionSpec("tensor", "fsdp"))
    assert table.addressable_shards[0].data.shape == (small.VOCAB_SIZE // 2, 16 // 2)


def test_saves_what_the_state_was_when_asked_although_it_is_then_donated(tmp_path):
    setup = set_up(devices=2)
    state = make_state(setup)
    before = jax.tree.map(np.array, state)
    checkpoints = Checkpoints(tmp_path, setup.config, DIGEST)
    checkpoints.save(state)
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state)
    checkpoints.wait()
    small.assert_trees_equal(checkpoints.restore(setup.abstract_state), before)
    checkpoints.close()


def test_makes_nothing_before_the_first_save(tmp_path):
    setup = set_up(devices=1)
    checkpoints = Checkpoints(tmp_path / "run", setup.config, DIGEST)
    assert checkpoints.latest_step() is None
    checkpoints.close()
    assert not (tmp_path / "run").exists()


def state_of_little(number: int) -> train_state.TrainState:
    """Of one parameter: soon saved."""
    zero = jnp.int32(0)
    return train_state.TrainState(jnp.int32(number), {"one": jnp.ones(3)}, (), None, zero, zero)


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 1)])
def test_keeps_the_last_and_the_best(tmp_path, mode, best):
    setup = set_up(devices=1, train__keep_checkpoints=2, evaluate__best_mode=mode)
    checkpoints = Checkpoints(tmp_path, setup.config, DIGEST)
    # Steps 4 and 5 do not compete: no metrics, and a metric that is not a number.
    scores = {1: 9.0, 2: 1.0, 3: 5.0, 4: None, 5: float("nan"), 6: None}
    for number, score in scores.items():
        metrics = None if score is None else {"response_perplexity": score, "bleu_4": 0.1}
        assert checkpoints.save(state_of_little(number), metrics)
    assert not checkpoints.save(state_of_little(6)), "step 6 is saved already"
    checkpoints.wait()
    assert checkpoints.latest_step() == 6
    checkpoints.close()
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*"))
    assert kept == sorted({best, 5, 6})
    reopened = Checkpoints(tmp_path, setup.config, DIGEST)
    assert reopened.latest_step() == 6
    reopened.close()


def test_a_checkpoint_that_was_cut_off_is_not_one(saved, tmp_path):
    setup = saved[1]
    partial = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp"
    partial.mkdir(parents=True)
    (partial / "state").mkdir()
    assert Checkpoints(tmp_path, setup.config, DIGEST).latest_step() is None
    with pytest.raises(UserError, match="no checkpoint"):
        find(tmp_path)


def test_restore_names_what_does_not_fit(saved):
    folder, _, _ = saved
    # One more turn: another shape. No turn embeddings in the state: extra. An average: missing.
    setup = set_up(devices=1, data__context_turns=3, optim__ema_decay=0.9)
    with pytest.raises(UserError) as error:
        Checkpoints(folder, setup.config, DIGEST).restore(setup.abstract_state)
    message = str(error.value)
    assert "missing ema_params/cls_embedding" in message
    assert "of another shape params/turn_embedding (there (3, 16), here (4, 16))" in message
    fewer = set_up(devices=1)
    params = dict(fewer.abstract_state.params)
    del params["turn_embedding"]
    with pytest.raises(UserError, match="extra params/turn_embedding"):
        Checkpoints(folder, fewer.config, DIGEST).restore(
            fewer.abstract_state.replace(params=params)
        )


def test_refuses_another_tokenizer(saved):
    folder, setup, _ = saved
    with pytest.raises(UserError, match="tokenizer does not match the checkpoint") as error:
        Checkpoints(folder, setup.config, "fedcba").restore(setup.abstract_state)
    assert "tokenizer.path" in str(error.value)
    with pytest.raises(UserError, match="tokenizer does not match"):
        load_params(folder, setup, tokenizer_digest="fedcba")


def test_restores_nothing_where_nothing_was_saved(saved, tmp_path):
    setup = saved[1]
    with pytest.raises(UserError, match="no checkpoint in"):
        Checkpoints(tmp_path, setup.config, DIGEST).restore(setup.abstract_state)


@pytest.mark.parametrize("where", ["", "checkpoints", "checkpoints/3"])
def test_loads_parameters_from_a_workdir_its_checkpoints_or_one_step(saved, where):
    folder, _, state = saved
    setup = set_up(mesh__fsdp=2, mesh__tensor=2)
    params, loaded = load_params(folder / where, setup, tokenizer_digest=DIGEST)
    small.assert_trees_equal(params, state.params)
    shardings = [leaf.sharding for leaf in jax.tree.leaves(params)]
    assert shardings == [leaf.sharding for leaf in jax.tree.leaves(setup.abstract_state.params)]
    assert (len(loaded.loaded), loaded.skipped, loaded.initialised) == (len(shardings), (), ())


def test_finds_a_relative_path(saved, monkeypatch):
    folder, _, _ = saved
    monkeypatch.chdir(folder.parent)
    assert find(folder.name) == find(folder)


def test_prefers_the_moving_average(tmp_path):
    setup = set_up(devices=1, optim__ema_decay=0.9)
    state = make_state(setup)
    save(tmp_path, setup, state)
    params, loaded = load_params(tmp_path, set_up(devices=1))
    assert loaded.averaged
    small.assert_trees_equal(params, state.ema_params)


def test_fine_tuning_takes_what_fits_and_tells_the_rest(saved):
    folder, _, state = saved
    # Another turn, and no contrastive width in common.
    setup = set_up(devices=1, data__context_turns=3, model__contrastive_width=4)
    initial = make_state(setup, seed=1).params
    params, loaded = load_params(folder, setup, initial)
    other = ("contrastive_image/bias", "contrastive_image/kernel")
    other += ("contrastive_text/bias", "contrastive_text/kernel", "turn_embedding")
    assert loaded.initialised == loaded.skipped == other
    for name in ("turn_embedding", "contrastive_text"):
        small.assert_trees_equal(params[name], initial[name])
    for name in params.keys() - {"turn_embedding", "contrastive_text", "contrastive_image"}:
        small.assert_trees_equal(params[name], state.params[name])
    described = loaded.describe()
    assert f"loaded {len(loaded.loaded)} arrays" in described
    assert "turn_embedding" in described.split("skipped")[1].split("randomly")[0]
    assert "turn_embedding" in described.split("randomly initialised")[1]


def test_fine_tuning_counts_the_parts_that_it_has_no_use_for(saved):
    folder, _, state = saved
    config = small.only(small.make_config(init_from=str(folder)), "text_emotion")
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:1])
    check_init(folder, setup)
    params, loaded = load_params(folder, setup, make_state(setup, seed=1).params)
    small.assert_trees_equal(params, {name: state.params[name] for name in params})
    assert "sequence_emotion_head" in params, "evaluations predict with it"
    gone = {name.partition("/")[0] for name in loaded.skipped}
    assert gone == {"masked_token_head"} | {n for n in state.params if n.startswith("contrastive")}
    assert len(loaded.loaded) + len(loaded.skipped) == len(small.flat(state.params))
    assert f"and {len(loaded.skipped) - 6} more" in loaded.describe().split("skipped")[1]
    assert not loaded.initialised


def test_a_state_may_hold_more_parts_than_a_run_but_nothing_else_more(saved, capsys):
    folder, _, state = saved
    config = small.only(small.make_config(), "text_denoising")
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:1])
    restored = Checkpoints(folder, config, DIGEST).restore(setup.abstract_state)
    for name, tree in restored.params.items():
        small.assert_trees_equal(tree, state.params[name])
    left = len(jax.tree.leaves(state)) - len(jax.tree.leaves(restored))
    assert f"{left} arrays of" in capsys.readouterr().err
    fewer = dict(setup.abstract_state.params)
    del fewer["cls_embedding"]
    with pytest.raises(UserError, match=r"extra params/cls_embedding\."):
        Checkpoints(folder, config, DIGEST).restore(setup.abstract_state.replace(params=fewer))


def test_evaluation_takes_a_model_without_its_optional_parts(saved, tmp_path):
    _, setup, state = saved
    cut = {name: tree for name, tree in state.params.items() if name not in igerg.OPTIONAL_PARTS}
    save(tmp_path, setup, state.replace(params=cut))
    params, loaded = load_params(tmp_path, set_up(devices=1))
    small.assert_trees_equal(params, cut)
    assert not loaded.skipped and not loaded.initialised
    judge = dict(state.params["judge_network"])
    judge.pop("embedding")
    save(tmp_path / "broken", setup, state.replace(params=cut | {"judge_network": judge}))
    with pytest.raises(UserError, match="missing judge_network/embedding"):
        load_params(tmp_path / "broken", set_up(devices=1))


def test_takes_one_part_whatever_the_words_are(saved):
    """A part that knows no words, such as a vision tower, fits any tokenizer."""
    folder, _, state = saved
    setup = set_up(devices=1, data__context_turns=3)
    initial = make_state(setup, seed=1).params
    check_init(folder, setup, ("encoder",))
    params, loaded = load_params(folder, setup, initial, "fedcba", ("encoder",))
    small.assert_trees_equal(params["encoder"], state.params["encoder"])
    assert {name.partition("/")[0] for name in loaded.loaded} == {"encoder"}
    for name in params.keys() - {"encoder"}:
        small.assert_trees_equal(params[name], initial[name])


@pytest.mark.parametrize("part", ["token_embedding", "judge_network"])
def test_a_part_with_words_needs_the_same_tokenizer(saved, part):
    folder, _, state = saved
    with pytest.raises(UserError, match="tokenizer does not match"):
        load_params(folder, set_up(devices=1), state.params, "fedcba", ("encoder", part))


def test_a_part_is_taken_whole_or_refused(saved):
    folder, *_ = saved
    setup = set_up(devices=1, model__text__mlp_width=48)
    with pytest.raises(UserError, match=r"does not fit init_parts=\('encoder',\): encoder/"):
        check_init(folder, setup, ("encoder",))
    with pytest.raises(UserError, match=r"'coder' is not a part of the model; available: .*enc"):
        check_init(folder, setup, ("coder",))


def test_fine_tuning_from_another_size_is_refused_before_anything_is_read(saved):
    folder, *_ = saved
    check_init(folder, set_up(devices=1, data__context_turns=3))  # a little differs
    with pytest.raises(
        UserError, match=r"is of another model: of \d+ .* differ in shape: .*PRESET"
    ):
        check_init(folder, set_up(devices=1, model__text__width=32))


def test_evaluation_takes_nothing_less_than_the_whole_model(saved):
    folder, _, _ = saved
    with pytest.raises(UserError, match=r"turn_embedding \(there \(3, 16\), here \(4, 16\)\)"):
        load_params(folder, set_up(devices=1, data__context_turns=3))
    # The same shapes, and another function: nothing but the config can tell.
    with pytest.raises(UserError, match=r"model\.text\.norm_first \(there True, here False\)"):
        load_params(folder, set_up(devices=1, model__text__norm_first=False))


@pytest.mark.parametrize("key", ["model.text.norm_first", "model.emotion_scale"])
def test_fine_tuning_refuses_weights_of_another_function(saved, key):
    folder, _, state = saved
    changed = {"model.text.norm_first": False, "model.emotion_scale": 1.0}[key]
    setup = set_up(devices=1, **{key.replace(".", "__"): changed})
    with pytest.raises(UserError, match=rf"{key} \(there "):
        load_params(folder, setup, state.params)


def test_refuses_a_checkpoint_with_nothing_to_take(saved):
    folder, _, _ = saved
    setup = set_up(devices=1)
    renamed = {f"other_{name}": tree for name, tree in setup.abstract_params.items()}
    setup = dataclasses.replace(setup, abstract_params=renamed)
    with pytest.raises(UserError, match="no parameter"):
        load_params(folder, setup, initial=renamed)


def test_refuses_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in") as error:
        find(tmp_path / "nowhere")
    assert "workdir" in str(error.value)

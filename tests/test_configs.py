"""Every config file: builds at every preset, traces at its real size, and trains."""

import importlib
import pathlib
import types

import flax.linen as nn
import jax
import numpy as np
import pytest
import small

from configs import pretrain
from igerg_jax import checks, objectives
from igerg_jax.data import builders
from igerg_jax.objectives import combination
from igerg_jax.parallel import sharding
from igerg_jax.setup import mesh_context
from igerg_jax.training import train_state, train_step

ROOT = pathlib.Path(__file__).parent.parent / "configs"
NAMES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix()
    for path in ROOT.rglob("*.py")
    if not path.name.startswith("_")
)
ABLATIONS = [name for name in NAMES if name.startswith("ablations/")]


def get_config(name: str, preset: str = ""):
    return importlib.import_module("configs." + name.replace("/", ".")).get_config(preset)


def keys(config, prefix: str = "") -> set[str]:
    flat = set()
    for key, value in config.items():
        flat |= keys(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key}
    return flat


def trace(config):
    """(setup, the traced step) on 8 devices of data parallelism; no array is made."""
    config.mesh.update(dcn=1, data=-1, fsdp=1, tensor=1)
    vocab_size = config.data.tokenizer.vocab_size
    setup = train_state.set_up_training(config, vocab_size, small.SPECIAL)
    placed = sharding.batch_sharding(setup.mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=placed)
        for name, (shape, dtype) in setup.spec.shapes().items()
    }
    with mesh_context(setup):
        return setup, train_step.make_step(setup).trace(setup.abstract_state, batch)


def beside_weights(name: str) -> str:
    """What decides which step is compiled, the weights aside: equal for configs that differ in
    which objectives are trained, how long, or on which data."""
    config = get_config(name)
    for settings in config.objectives.values():
        del settings["weight"]
    data, optim = config.data, config.optim
    return str((config.model, config.objectives, data.feature_dim, data.image_size, optim.name))


# One config for each such step; "pretrain" where it is its own.
PROGRAMS = {beside_weights(name): name for name in reversed(["pretrain", *NAMES])}
DISTINCT = sorted(PROGRAMS.values())


def check_traced(config) -> None:
    setup, traced = trace(config)
    state, metrics = traced.out_info
    before = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(setup.abstract_state)]
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)] == before
    traced_objectives = {n.split("/")[1] for n in metrics if n.startswith("loss/")} - {"total"}
    assert traced_objectives == set(objectives.active(config))
    assert all(leaf.shape == () for leaf in metrics.values())


def shrink(config):
    """The sizes of `small.make_config`, and what makes the config itself."""
    tiny = small.make_config()
    for part, free in (("text", ("norm_first",)), ("judge", ())):
        changes = {k: v for k, v in tiny.model[part].items() if k not in free}
        config.model[part].update(changes)
    config.model.vision.update(patch_size=8, width=16, layers=1, heads=2, mlp_width=32)
    config.model.update(contrastive_width=8, vocab_chunk_tokens=6)
    config.data.update(context_turns=2, context_tokens=12, response_tokens=6, image_size=16)
    config.train.update(batch_size=2, steps=20)
    config.optim.warmup_steps = 4
    return config


@pytest.mark.parametrize("preset", ["", *pretrain.PRESETS])
@pytest.mark.parametrize("name", NAMES)
def test_builds(name, preset):
    config = get_config(name, preset)
    assert config.name == name, "the name says which file"
    assert config.preset == (preset or "local")
    assert keys(config) == keys(pretrain.get_config(preset)), "code reads no other keys"
    assert set(config.objectives) == set(objectives.OBJECTIVES)
    assert builders.layout(config.data.dataset).feature_dim == config.data.feature_dim


@pytest.mark.parametrize("name", NAMES)
def test_refuses_an_unknown_preset(name):
    with pytest.raises(ValueError, match="unknown preset 'huge'; there are: local"):
        get_config(name, "huge")


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("preset", pretrain.PRESETS)
def test_an_ablation_changes_little_and_something(name, preset):
    plain = pretrain.get_config(preset).to_dict()
    ablated = get_config(name, preset).to_dict()
    assert {k: v for k, v in plain.items() if plain[k] != ablated[k]}.keys() <= {
        "name",
        "data",
        "model",
        "objectives",
        "generate",
    }, "sizes, schedule and seed are those of pre-training"
    same = {
        "ablations/estimator_straight_through": set(pretrain.PRESETS),
        "ablations/with_consistency": {"paper"},
    }
    off = {
        "paper": "image_text_contrastive emotion_embedding face_contrast face_dropout",
        "small": "image_text_contrastive text_denoising masked_multimodal",
    }
    for in_preset, names in off.items():
        for ablation in names.split():
            same.setdefault(f"ablations/no_{ablation}", set()).add(in_preset)
    assert plain["generate"] | dict(guidance=0.0) == ablated["generate"] | dict(guidance=0.0)
    changed = any(plain[k] != ablated[k] for k in ("data", "model", "objectives"))
    assert changed != (preset in same.get(name, ()))


@pytest.mark.parametrize("preset", pretrain.PRESETS)
@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_allowed(name, preset, monkeypatch):
    """The model itself, which takes most of the time of the checks, is traced below."""
    config = get_config(name, preset)
    config.mesh.update(dcn=1, data=-1, fsdp=1, tensor=1)
    mesh = sharding.make_mesh(config.mesh)
    monkeypatch.setattr(checks, "set_up", lambda *_: types.SimpleNamespace(mesh=mesh))
    checks.check_training(config, starts=False)
    checks.check_inference(config)


@pytest.mark.parametrize("preset", pretrain.PRESETS)
@pytest.mark.parametrize("name", NAMES)
def test_guidance_and_emotions_go_with_what_is_trained(name, preset):
    config = get_config(name, preset)
    response = config.objectives.emotional_response
    face_is_shown = config.data.use_images and config.data.include_response_image
    if config.generate.guidance:
        assert response.face_dropout > 0, "guidance compares with responses without the face"
    if not face_is_shown:
        assert config.model.emotion_embedding == "none", "there is no face to take it from"
        assert not response.face_dropout, "there is no face to withhold"


@pytest.mark.parametrize("preset", pretrain.PRESETS)
def test_pretraining_traces_at_its_real_size(preset):
    check_traced(pretrain.get_config(preset))


@pytest.mark.parametrize("name", [name for name in DISTINCT if name != "pretrain"])
def test_traces_at_the_real_local_size(name):
    check_traced(get_config(name))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DISTINCT])
def test_trains_the_objectives_that_have_a_weight(name):
    """Their gradient is part of another config's, which is traced and run."""
    config = shrink(get_config(name))
    model, batch = small.make_model(config), small.make_batch(config)
    variables = jax.eval_shape(lambda: nn.meta.unbox(model.init(jax.random.key(0), batch)))
    terms, _ = jax.eval_shape(
        lambda params: combination.sums(config, model, params, batch, jax.random.key(0), 0),
        variables["params"],
    )
    assert {objective for objective, _ in terms} == set(objectives.active(config))


@pytest.mark.parametrize("name", DISTINCT)
def test_trains_a_step(name):
    config = shrink(get_config(name))
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:1])
    # Drawn, not initialised: that would be a second program to compile.
    draw = np.random.default_rng(0).normal
    state = jax.tree.map(
        lambda leaf: jax.device_put(
            draw(0.0, 0.02, leaf.shape).astype(leaf.dtype) ** 2, leaf.sharding
        ),
        setup.abstract_state,
    )
    before = jax.tree.map(np.array, state.params)
    batch = sharding.to_devices(small.make_batch(config), sharding.batch_sharding(setup.mesh))
    state, metrics = train_step.compile_step(setup)(state, batch)
    assert not metrics["skipped"]
    assert np.isfinite(metrics["loss/total"])
    assert small.largest(jax.tree.map(np.subtract, state.params, before)) > 0

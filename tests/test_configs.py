"""Every config file: builds at every preset, traces at its real size, and trains."""

import functools
import importlib
import pathlib
import re
import types

import flax.traverse_util
import jax
import numpy as np
import pytest
import small
from ml_collections import ConfigDict

from configs import pretrain
from igerg_jax import checks, objectives
from igerg_jax.data import builders
from igerg_jax.errors import UserError
from igerg_jax.objectives import combination
from igerg_jax.parallel import sharding
from igerg_jax.setup import set_up
from igerg_jax.training import train_state, train_step

ROOT = pathlib.Path(__file__).parent.parent / "configs"
NAMES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix()
    for path in ROOT.rglob("*.py")
    if "def get_config" in path.read_text(encoding="utf-8")
)
ABLATIONS = [name for name in NAMES if name.startswith("ablations/")]
SIZES = """patch_size width layers encoder_layers decoder_layers heads mlp_width
    max_positions""".split()


def get_config(name: str, preset: str = ""):
    return importlib.import_module("configs." + name.replace("/", ".")).get_config(preset)


def keys(config, prefix: str = "") -> set[str]:
    flat = set()
    for key, value in config.items():
        flat |= keys(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key}
    return flat


def abstract(config):
    """(setup, parameters, batch) at the config's own sizes; no array is made."""
    config.mesh.update(dcn=1, data=-1, fsdp=1, tensor=1)
    vocab_size = config.data.tokenizer.vocab_size
    setup = set_up(config, vocab_size, small.SPECIAL, jax.devices()[:1])
    return setup, setup.abstract_params, setup.abstract_batch


def shapes(tree) -> list:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


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


def settings_of_program(config) -> set[tuple]:
    """What decides which step is compiled, but for the objectives' weights and schedules."""
    keys = {**config.model.to_dict(), "objectives": config.objectives.to_dict()}
    keys |= {"feature_dim": config.data.feature_dim, "optimizer": config.optim.name}
    flat = flax.traverse_util.flatten_dict(keys, sep=".")
    left_out = re.compile(r"(^|\.)weight$|_steps?$")
    return {
        (key, bool(value) if key.endswith("_weight") else value)
        for key, value in flat.items()
        if not left_out.search(key)
    }


@functools.cache
def small_program(name: str) -> set[tuple]:
    return settings_of_program(shrink(get_config(name)))


def changes(name: str) -> set[tuple]:
    """The settings in which a config's program differs from pre-training's, at small sizes."""
    return small_program(name) - small_program("pretrain")


def cover() -> list[str]:
    """Configs that together have every one of those settings."""
    chosen, covered = [], set()
    for name in sorted(NAMES, key=lambda name: (-len(changes(name)), name)):
        if changes(name) - covered:
            chosen.append(name)
            covered |= changes(name)
    return chosen


@pytest.mark.parametrize("preset", ["", *pretrain.PRESETS])
@pytest.mark.parametrize("name", NAMES)
def test_builds(name, preset):
    config = get_config(name, preset)
    assert config.name == name, "the name says which file"
    assert config.preset == (preset or "local")
    for each in (config, plain := pretrain.get_config(preset)):
        each.data.mixtures = {}  # whose names are anyone's
    assert keys(config) == keys(plain), "code reads no other keys"
    assert set(config.objectives) == set(objectives.OBJECTIVES)
    assert builders.layout(config.data.dataset).feature_dim == config.data.feature_dim


@pytest.mark.parametrize("name", NAMES)
def test_refuses_an_unknown_preset(name):
    with pytest.raises(ValueError, match="unknown preset 'huge'; available: local"):
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
    }, "schedule and seed are those of pre-training"
    for part in ("vision", "text", "judge"):
        here, there = (config["model"][part] for config in (ablated, plain))
        assert [here.get(size) for size in SIZES] == [there.get(size) for size in SIZES], part
    same = {
        "ablations/estimator_straight_through": set(pretrain.PRESETS),
        "ablations/with_consistency": {"paper"},
        "ablations/guidance_0": {"paper", "small"},
        "ablations/guidance_2": {"paper"},
        "ablations/guidance_4": {"paper"},
    }
    off = {
        "paper": "image_text_contrastive emotion_embedding face_contrast face_dropout",
        "small": "image_text_contrastive text_denoising masked_multimodal",
    }
    for in_preset, names in off.items():
        for ablation in names.split():
            same.setdefault(f"ablations/no_{ablation}", set()).add(in_preset)
    assert plain["generate"] | dict(guidance=0.0) == ablated["generate"] | dict(guidance=0.0)
    changed = any(plain[k] != ablated[k] for k in ("data", "model", "objectives", "generate"))
    assert changed != (preset in same.get(name, ()))


def changed_keys(plain, changed) -> set[str]:
    """The keys, but `name`, in which two configs of the same keys differ."""
    plain, changed = (
        flax.traverse_util.flatten_dict(config.to_dict(), sep=".") for config in (plain, changed)
    )
    return {key for key in plain if plain[key] != changed[key]} - {"name"}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_says_how_many_changes_it_makes(name):
    """In `local`, which has everything on."""
    text = importlib.import_module("configs." + name.replace("/", ".")).get_config.__doc__
    base = "ablations/no_binding" if "`no_binding.get_config(preset)`" in text else "pretrain"
    assert f"`{base.split('/')[-1]}.get_config(preset)`" in text
    changes = changed_keys(get_config(base), get_config(name))
    assert ("with this one change" in text) <= (len(changes) == 1), changes


@pytest.mark.parametrize(
    "name",
    [f"ablations/{name}" for name in ("single_modal_only", "cross_modal_only", "no_images")]
    + [name for name in NAMES if name.startswith("baselines/")]
    + ["finetune"],
)
def test_configs_that_choose_objectives_leave_a_new_one_out(name, monkeypatch):
    plain = pretrain.get_config

    def with_new_objective(preset=""):
        config = plain(preset)
        config.objectives.new = ConfigDict(dict(weight=1.0))
        return config

    monkeypatch.setattr(pretrain, "get_config", with_new_objective)
    assert get_config(name).objectives.new.weight == 0


@pytest.mark.parametrize("preset", pretrain.PRESETS)
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("ablations/", "baselines/"))])
def test_every_ablation_can_be_fine_tuned(name, preset):
    """Its model, and how it learns to respond, stay what they were; all are trained alike."""
    stem = name.rpartition("/")[2]
    tuned, plain = get_config("finetune", f"{preset}+{stem}"), get_config("finetune", preset)
    ablated = get_config(name, preset)
    assert (tuned.name, tuned.preset) == ("finetune", f"{preset}+{stem}")
    assert tuned.model == ablated.model and tuned.data == ablated.data
    assert tuned.generate == ablated.generate
    assert tuned.optim == plain.optim and tuned.train == plain.train and not tuned.init_parts
    active, conditioned = set(objectives.active(tuned)), tuned.model.emotion_embedding != "none"
    assert active <= {"emotional_response", "text_emotion", "image_emotion"}
    # Decoding is conditioned on what is seen in the response's image, so that is not forgotten.
    reads_images = conditioned and ablated.objectives.image_emotion.weight > 0
    assert ("image_emotion" in active) == reads_images
    here, there = (c.objectives.emotional_response for c in (tuned, ablated))
    for key in ("estimator", "consistency_weight", "contrast_weight", "face_dropout"):
        assert here[key] == there[key]
    assert here.weight == 1


@pytest.mark.parametrize("preset", pretrain.PRESETS)
def test_without_pre_training_fine_tuning_is_the_same(preset):
    changed = changed_keys(
        get_config("finetune", preset), get_config("baselines/no_pretraining", preset)
    )
    response = "objectives.emotional_response.consistency"
    ramp = {f"{response}_start_step", f"{response}_ramp_steps"}
    assert changed <= ramp | {"init_from", "init_parts"}


def test_a_reversed_run_generates_nothing():
    config = get_config("backward")
    config.generate.examples = 4
    with pytest.raises(UserError, match=r"set generate\.examples to 0"):
        checks.check_inference(config)


def test_fine_tuning_refuses_an_unknown_ablation():
    with pytest.raises(ValueError, match=r"unknown ablation 'no_word'; available: .*no_images"):
        get_config("finetune", "local+no_word")


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


@pytest.mark.parametrize(
    ("name", "preset"),
    [("pretrain", preset) for preset in pretrain.PRESETS]
    + [(name, "local") for name in NAMES if name != "pretrain"],
)
def test_the_loss_traces(name, preset):
    """Of the objectives that have a weight, and of no other; at the real size.

    An ablation, whose sizes are those of pre-training, is traced with fewer layers: it is quicker.
    """
    config = get_config(name, preset)
    setup, params, batch = abstract(shrink(config) if name in ABLATIONS else config)
    terms, _ = jax.eval_shape(
        lambda *inputs: combination.sums(config, setup.model, *inputs, jax.random.key(0), 0),
        params,
        batch,
    )
    assert {objective for objective, _ in terms} == set(objectives.active(config))
    assert {leaf.shape for term in terms.values() for leaf in term[:2]} == {()}


def test_the_gradient_traces_at_a_large_size():
    """Through scanned layers, their rematerialisation and fused attention, in bfloat16."""
    config = pretrain.get_config("large")
    setup, params, batch = abstract(config)
    gradient, metrics = jax.eval_shape(
        lambda *inputs: train_step.loss_gradient(
            config, setup.model, *inputs, jax.random.key(0), 0
        ),
        params,
        batch,
    )
    assert shapes(gradient) == shapes(params)
    assert {leaf.shape for leaf in metrics.values()} == {()}
    traced = {name.split("/")[1] for name in metrics if name.startswith("loss/")} - {"total"}
    assert traced == set(objectives.active(config))


def test_pretraining_trains_a_step():
    config = shrink(pretrain.get_config())
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
    state, metrics = train_step.lower_step(setup).compile()(state, batch)
    assert shapes(state) == shapes(setup.abstract_state)
    assert not metrics["skipped"]
    assert np.isfinite(metrics["loss/total"])
    assert small.largest(jax.tree.map(np.subtract, state.params, before)) > 0


@pytest.mark.parametrize("name", cover())
def test_other_settings_than_pretrainings_have_a_gradient(name):
    """Of the response, which reads all that the model has, and of objectives with such settings."""
    config, changed = get_config(name), {key for key, _ in changes(name)}
    objectives_of = {key.split(".")[1] for key in changed if key.startswith("objectives.")}
    config = small.only(shrink(config), "emotional_response", *objectives_of)
    if not {"model.emotion_embedding", "emotional_response"} & (changed | objectives_of):
        # The words' likelihood alone: these two would double what compiles.
        config.objectives.emotional_response.update(consistency_weight=0.0, contrast_weight=0.0)
    model, batch = small.make_model(config), small.make_batch(config)
    params, key = small.make_params(model, batch, spread=0.1), jax.random.key(0)
    gradient, metrics = jax.jit(
        lambda params: train_step.loss_gradient(config, model, params, batch, key, 10_000)
    )(params)
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    for part in ("token_embedding", "encoder", "decoder", "vision_tower"):
        assert small.largest(gradient[part]) > 1e-6, part

"""Meshes, where parameters lie on them, and the messages for what does not fit."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import PartitionSpec

from configs import pretrain
from igerg_jax.errors import UserError
from igerg_jax.models.igerg import Encoded
from igerg_jax.models.partitioning import is_sharded, lookup
from igerg_jax.objectives import OBJECTIVES
from igerg_jax.objectives.base import Context
from igerg_jax.parallel import sharding
from igerg_jax.setup import set_up
from igerg_jax.tools.tpu_report import hlo
from igerg_jax.tools.tpu_report.hlo_collectives import collectives
from igerg_jax.training import train_state


def sizes(dcn=1, data=1, fsdp=1, tensor=1) -> dict[str, int]:
    return dict(dcn=dcn, data=data, fsdp=fsdp, tensor=tensor)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (sizes(data=-1), (1, 8, 1, 1)),
        (sizes(dcn=2, data=-1, tensor=2), (2, 2, 1, 2)),
        (sizes(data=2, fsdp=2, tensor=2), (1, 2, 2, 2)),
        (sizes(fsdp=-1), (1, 1, 8, 1)),
    ],
)
def test_a_mesh_has_the_sizes_it_was_given(given, expected):
    mesh = sharding.make_mesh(given)
    assert tuple(mesh.shape.values()) == expected and mesh.axis_names == sharding.AXES
    assert {d.id for d in mesh.devices.flat} == {d.id for d in jax.devices()}


def test_a_mesh_of_some_devices():
    assert sharding.make_mesh(sizes(data=-1), jax.devices()[:3]).shape["data"] == 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (sizes(data=3), "data=3.* does not fit 8 devices"),
        (sizes(data=-1, tensor=3), "tensor=3.* does not fit 8 devices"),
        (sizes(data=4), "does not fit 8 devices"),
        (sizes(data=-1, fsdp=-1), "one of them may be -1"),
        (sizes(data=0), "sizes must be positive"),
    ],
)
def test_a_mesh_that_does_not_fit_is_named(given, says):
    with pytest.raises(UserError, match=says):
        sharding.make_mesh(given)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "fits"),
    [(8, 1, True), (16, 2, True), (12, 1, False), (8, 2, False), (0, 1, False), (8, 0, False)],
)
def test_a_batch_divides_over_shards_and_micro_steps(batch_size, accumulate, fits):
    mesh = sharding.make_mesh(sizes(dcn=2, data=2, fsdp=2))
    if fits:
        sharding.check_batch(batch_size, accumulate, mesh, "train.batch_size")
        return
    with pytest.raises(UserError, match=f"train.batch_size={batch_size}"):
        sharding.check_batch(batch_size, accumulate, mesh, "train.batch_size")


def test_tensor_parallel_devices_share_examples():
    mesh = sharding.make_mesh(sizes(data=2, fsdp=2, tensor=2))
    sharding.check_batch(4, 1, mesh, "train.batch_size")  # four shards on eight devices
    batch = {"response": np.arange(8, dtype=np.int32).reshape(4, 2)}
    placed = sharding.to_devices(batch, sharding.batch_sharding(mesh))["response"]
    np.testing.assert_array_equal(placed, batch["response"])
    assert {shard.data.shape for shard in placed.addressable_shards} == {(1, 2)}
    rows = [int(shard.data[0, 0]) // 2 for shard in placed.addressable_shards]
    assert sorted(rows) == [0, 0, 1, 1, 2, 2, 3, 3]


def state_of(mesh, **changes):
    """{path: (shape, sharding)} of the model's parameters."""
    config = small.make_config(**changes)
    model, batch = small.make_model(config), small.make_batch(config)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch))["params"]
    placed = sharding.state_shardings(boxed, mesh, sharding.rules(config))
    shapes = nn.meta.unbox(boxed)
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    return dict(
        zip(names, zip(jax.tree.leaves(shapes), jax.tree.leaves(placed), strict=True), strict=True)
    )


def test_most_of_the_model_is_divided():
    """A table that named no axis would replicate the model, and nothing else would show it."""
    mesh = sharding.make_mesh(sizes(data=2, fsdp=2, tensor=2))
    whole = here = 0
    for shape, placed in state_of(mesh).values():
        whole += shape.size
        here += int(np.prod(placed.shard_shape(shape.shape)))
    assert here < 0.4 * whole  # a quarter, and norms and position tables


def test_every_matrix_names_its_axes():
    mesh = sharding.make_mesh(sizes(data=-1))
    config = small.with_pixels(small.make_config())
    model, batch = small.make_model(config), small.make_batch(config)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch))["params"]
    known = {name for name, _ in config.sharding_rules} | {None}
    boxes = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=lambda x: hasattr(x, "names"))
    for path, box in boxes:
        name = jax.tree_util.keystr(path)
        assert hasattr(box, "names") and len(box.names) == box.value.ndim, name
        assert set(box.names) <= known, (name, box.names)
    sharding.state_shardings(boxed, mesh, sharding.rules(config))


def test_a_dimension_that_does_not_divide_is_named():
    mesh = sharding.make_mesh(sizes(tensor=8))
    with pytest.raises(UserError, match=r"dimension 1 of .* does not divide over 8 .*tensor"):
        state_of(mesh, model__text__mlp_width=36)


def test_rules_may_name_several_mesh_axes():
    config = small.make_config()
    config.sharding_rules = (("batch", ["data", "fsdp"]), ("embed", None))
    assert sharding.rules(config) == (("batch", ("data", "fsdp")), ("embed", None))
    mesh = sharding.make_mesh(sizes(data=-1))
    assert sharding.replicated(mesh).spec == PartitionSpec()


# Parameter family -> the mesh axes of its dimensions, after the layers axis of a stack. The first
# pattern that matches the end of a parameter's path counts.
FAMILIES = {
    "token_embedding|judge_network/embedding": ("tensor", "fsdp"),
    "(query|key|value)/kernel": ("fsdp", "tensor", None),  # [D, H, E]
    "(query|key|value)/bias": ("tensor", None),
    "attention/out/kernel": ("tensor", None, "fsdp"),  # [H, E, D]
    "mlp/in/kernel|dense/kernel|contrastive_(image|text)/kernel": ("fsdp", "tensor"),
    "mlp/in/bias|dense/bias|contrastive_(image|text)/bias": ("tensor",),
    "mlp/out/kernel": ("tensor", "fsdp"),
    "emotion_head/classifier/kernel": ("tensor", None),
    "judge_network/classifier/kernel": ("fsdp", None),
    "image_projection/kernel": (None, "fsdp"),
    "patch_embedding/kernel": (None, None, None, "fsdp"),
    # Tables that are small, but moments and averages triple them.
    "(position|cls|type|turn|image_slot|emotion_(input|output))_embedding|pool/queries": (
        None,
        "fsdp",
    ),
    # Replicated: norms, biases of the model's width, logits' biases, scalars.
    "(scale|bias)|contrastive_log_scale|contrastive_bias": (None,),
}
SHARDED_FROM = 2**18  # parameters; the largest that fsdp leaves whole in xl are the MLPs' biases


def parameters(preset: str) -> dict[str, jax.ShapeDtypeStruct]:
    """{path: shape and sharding} on a mesh whose every axis divides something."""
    config = pretrain.get_config(preset)
    config.mesh.update(sizes(data=2, fsdp=2, tensor=2))
    setup = set_up(config, config.data.tokenizer.vocab_size, small.SPECIAL)
    leaves = jax.tree_util.tree_leaves_with_path(setup.abstract_params)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


@pytest.mark.parametrize("preset", ["base", "large", "xl"])
def test_every_parameter_is_sharded_as_its_family(preset):
    """A parameter that moves costs memory or communication: it must be meant."""
    used = set()
    for name, leaf in parameters(preset).items():
        family = next((f for f in FAMILIES if re.search(f"(^|/|_)({f})$", name)), None)
        assert family is not None, f"{name} belongs to no family"
        stack = (None,) * ("/layers/" in name)
        expected = (*stack, *FAMILIES[family])[: len(leaf.shape)]
        actual = (*leaf.sharding.spec, *[None] * (len(leaf.shape) - len(leaf.sharding.spec)))
        assert actual == expected, f"{name} {leaf.shape}: {actual}, not {expected}"
        used.add(family)
    assert used == FAMILIES.keys()


@pytest.mark.parametrize("preset", ["base", "large", "xl"])
def test_every_large_parameter_is_sharded_over_fsdp(preset):
    whole = {
        name: leaf.shape
        for name, leaf in parameters(preset).items()
        if leaf.size >= SHARDED_FROM and "fsdp" not in leaf.sharding.spec
    }
    assert not whole


def test_the_table_adds_up():
    config = small.make_config()
    config.mesh.update(data=2, fsdp=2, tensor=2)
    params = train_state.set_up_training(
        config, small.VOCAB_SIZE, small.SPECIAL
    ).abstract_state.params
    groups = sharding.groups(params)
    assert sum(g.bytes_per_device for g in groups) == sharding.bytes_per_device(params)
    assert len(groups) < len(jax.tree.leaves(params)) / 2
    by_name = {g.name: g for g in groups}
    assert by_name["encoder/layers/mlp"].spec == "-, fsdp, tensor"
    text = sharding.table(params)
    shown = [g for g in groups if g.name in text]
    assert sum(g.bytes_per_device for g in shown) > 0.8 * sharding.bytes_per_device(params)
    assert f"{sharding.bytes_per_device(params) / 2**20:.3f}" in text.splitlines()[-1]


def test_slices_are_the_first_axis():
    """Four fake devices in two slices: only `dcn` may lead from one to the other."""

    class Device:
        def __init__(self, number):
            self.id, self.slice_index, self.process_index = number, number % 2, 0
            self.platform, self.device_kind, self.coords = "cpu", "fake", (number // 2, 0, 0)

    devices = [Device(number) for number in range(8)]
    array = sharding.hybrid_device_mesh((2, 1, 2, 2), devices)
    assert array.shape == (2, 1, 2, 2)
    for index in range(2):
        assert {device.slice_index for device in array[index].flat} == {index}
    with pytest.raises(UserError, match=r"mesh\.dcn must be 2"):
        sharding.make_mesh(sizes(data=-1), devices)


def test_a_lookup_sends_only_gradients_between_slices():
    """A table divided over fsdp within two slices: the rows, and the gradient, of a plain one."""
    mesh = sharding.make_mesh(dict(dcn=2, data=2, fsdp=2, tensor=1))
    rng = np.random.default_rng(0)
    table, ids = rng.normal(size=(64, 16)), rng.integers(0, 64, (16, 5))
    weight = rng.normal(size=(16, 5, 16))

    def gradient(look):
        return jax.grad(lambda table, ids: (look(table, ids) ** 2 * weight).sum())

    columns = sharding.NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    shardings = (columns, sharding.batch_sharding(mesh))
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.rules(small.make_config())):
        jitted = jax.jit(gradient(lookup), in_shardings=shardings, out_shardings=columns)
        compiled = jitted.lower(table, ids).compile()
    found = collectives(hlo.Program(compiled.as_text()), 8, 2)
    assert {one.kind for one in found if one.crosses} == {"all-reduce"}
    assert max(one.bytes for one in found if one.crosses) == 64 * 16 // 2 * 4  # a device's columns
    wanted = gradient(lambda table, ids: table[ids])(jnp.float32(table), ids)
    np.testing.assert_allclose(compiled(jnp.float32(table), ids), wanted, rtol=1e-5)


def contrastive_on_a_mesh(mesh, negatives, image, words):
    """(loss sum, pairs), their gradient by both sides, and the collectives between slices."""
    config, rows = small.make_config(), sharding.batch_sharding(mesh)
    model, batch = small.make_model(config), small.make_batch(config, batch_size=len(image))
    params = small.make_params(model, batch)

    def loss(image, words):
        images, text = (Encoded(None, None, x, None, None) for x in (image, words))
        given = Context(
            model, batch, None, {"negatives": negatives}, 0, None,
            params=params, image_encoding=images, encoding=text,
        )  # fmt: skip
        (term,) = OBJECTIVES["image_text_contrastive"].loss(given).terms.values()
        return term.loss_sum, term.count

    function = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.rules(config)):
        compiled = jax.jit(function, in_shardings=rows).lower(image, words).compile()
    program = hlo.Program(compiled.as_text())
    found = collectives(program, mesh.size, mesh.shape["dcn"])
    return compiled(image, words), {one.kind for one in found if one.crosses}


def test_negatives_of_a_slice_do_not_leave_it():
    """ "slice" is each slice's own loss, added up; "batch" is the same loss on every mesh."""
    image, words = np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)
    two = sharding.make_mesh(sizes(dcn=2, data=2, fsdp=2))
    one = sharding.make_mesh(sizes(), jax.devices()[:1])
    halves = [
        contrastive_on_a_mesh(one, "slice", image[rows], words[rows])[0]
        for rows in (slice(8), slice(8, 16))
    ]
    apart, crossing = contrastive_on_a_mesh(two, "slice", image, words)
    assert crossing == {"all-reduce"}
    small.assert_trees_close(apart[0], jax.tree.map(np.add, *(half[0] for half in halves)))
    small.assert_trees_close(
        apart[1], jax.tree.map(lambda *x: np.concatenate(x), *(half[1] for half in halves))
    )
    together, crossing = contrastive_on_a_mesh(two, "batch", image, words)
    assert "all-gather" in crossing
    alone, _ = contrastive_on_a_mesh(one, "batch", image, words)
    small.assert_trees_close(together, alone)
    assert together[0][0] > apart[0][0] + 0.1  # the other slice's negatives


def test_a_mesh_that_does_not_fit_the_torus_is_named(monkeypatch):
    def refuse(*args, **kwargs):
        raise NotImplementedError("Failed to find assignment for logical_axis_index 2 of size 8")

    monkeypatch.setattr(sharding.jax, "make_mesh", refuse)
    with pytest.raises(UserError, match=r"fsdp=8.* does not fit this torus.*of size 8"):
        sharding.make_mesh(sizes(fsdp=8))


@pytest.mark.parametrize(
    ("heads", "expected"),
    [("tensor", True), (None, False), ("fsdp", False), (("fsdp", "tensor"), True)],
)
def test_whether_heads_are_sharded_is_what_the_rules_say(heads, expected):
    """The fused kernel needs all of them on each device."""
    mesh = sharding.make_mesh(sizes(data=4, tensor=2))
    with jax.set_mesh(mesh), nn.logical_axis_rules((("heads", heads),)):
        assert is_sharded("heads") == expected
    assert not is_sharded("heads"), "without a mesh"

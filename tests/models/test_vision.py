"""Vision towers: shapes, sizes, pooling, and ResNet's block against plain NumPy."""

import contributing
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from igerg_jax.errors import UserError
from igerg_jax.models import vision
from igerg_jax.models.settings import select
from igerg_jax.models.vision import resnet, resnet50, vit

SETTINGS = dict(
    kind="vit",
    stem="patch",
    patch_size=8,
    width=16,
    layers=1,
    heads=2,
    mlp_width=32,
    dropout_rate=0.0,
    tokens_per_image=4,
    frozen=False,
    scan_layers=True,
    remat="none",
    attention="xla",
    class_token=False,
    gelu="exact",
    norm_epsilon=1e-6,
    depths=(1, 1),
    widths=(16, 32),
    channel_norm="group",
    pooling="mean",
)


def tower(side: int = 16, feature_dim: int = 0, **changes) -> nn.Module:
    return vision.build(SETTINGS | changes, jnp.float32, side, feature_dim)


def vit_settings(**changes) -> vit.Settings:
    return select(vit.Settings, SETTINGS | changes, dtype=jnp.float32)


def pixels(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def test_resnet50_has_the_sizes_of_torchvisions():
    module = tower(224, kind="resnet50", tokens_per_image=1)
    images = pixels(2, 224)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), images))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(nn.meta.unbox(params))
    sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in leaves}
    # torchvision's parameters() has batch norms' scales and biases, not their running statistics.
    statistics = ("['mean']", "['variance']")
    learnt = {name: size for name, size in sizes.items() if not name.endswith(statistics)}
    assert sum(learnt.values()) == 25_557_032
    assert len(sizes) - len(learnt) == 2 * 53  # one pair for each of the 53 convolutions
    run = lambda: module.init_with_output(jax.random.key(0), images)[0]  # noqa: E731
    assert jax.eval_shape(run).shape == (2, 1, 1000)


def convolve(x_HxWxC, kernel, stride):
    """One image in float64, with torchvision's symmetric padding."""
    size = kernel.shape[0]
    x = np.pad(x_HxWxC, [(size // 2, size // 2)] * 2 + [(0, 0)])
    side = (x.shape[0] - size) // stride + 1
    out = np.zeros((side, side, kernel.shape[-1]))
    for i, j in np.ndindex(side, side):
        window = x[i * stride : i * stride + size, j * stride : j * stride + size]
        out[i, j] = np.tensordot(window, kernel, 3)
    return out


def batch_norm(x, p):
    return (x - p["mean"]) / np.sqrt(p["variance"] + 1e-5) * p["scale"] + p["bias"]


@pytest.fixture(scope="module")
def bottleneck():
    module = resnet50.Bottleneck(3, 2, jnp.float32)
    x = np.random.default_rng(0).standard_normal((1, 5, 5, 4)).astype(np.float32)
    params = small.make_params(module, x)
    run = lambda p: (module.apply({"params": p}, x) ** 2).sum()  # noqa: E731
    output = jax.jit(module.apply)({"params": params}, x)
    return x, params, output, jax.jit(jax.grad(run))(params)


def test_bottleneck_is_its_numpy_twin(bottleneck):
    x, params, output, _ = bottleneck
    params = jax.tree.map(np.asarray, params)

    def step(x, name, stride=1):
        return batch_norm(convolve(x, params[name]["kernel"], stride), params[f"{name}_norm"])

    y = np.maximum(step(x[0], "conv1"), 0)
    y = np.maximum(step(y, "conv2", 2), 0)
    y = np.maximum(step(y, "conv3") + step(x[0], "shortcut", 2), 0)
    np.testing.assert_allclose(output[0], y, rtol=1e-4, atol=1e-4)


def test_batch_norm_statistics_are_not_learnt(bottleneck):
    for name, gradient in small.flat(bottleneck[3]).items():
        if "_norm" in name:
            learnt = name.endswith(("['scale']", "['bias']"))
            assert gradient.any() == learnt, name


def norm_over(x_HxWxC, p, axes):
    mean, variance = x_HxWxC.mean(axes, keepdims=True), x_HxWxC.var(axes, keepdims=True)
    return ((x_HxWxC - mean) / np.sqrt(variance + 1e-5)) * p["scale"] + p["bias"]


def group_norm(x_HxWxC, p):
    groups = np.split(x_HxWxC, x_HxWxC.shape[-1] // 16, axis=-1)
    ones = {"scale": 1.0, "bias": 0.0}
    normed = np.concatenate([norm_over(g, ones, (0, 1, 2)) for g in groups], axis=-1)
    return normed * p["scale"] + p["bias"]


@pytest.mark.parametrize(
    "norm", [group_norm, lambda x, p: norm_over(x, p, -1)], ids=["group", "layer"]
)
def test_basic_block_is_its_numpy_twin(norm, request):
    name = request.node.callspec.id
    module = resnet.BasicBlock(32, 2, resnet.NORMS[name], jnp.float32)
    x = np.random.default_rng(0).standard_normal((1, 6, 6, 16)).astype(np.float32)
    params = small.make_params(module, x)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, np.float32), params)
    output = jax.jit(module.apply)({"params": params}, x)
    params = jax.tree.map(np.asarray, params)

    def step(x, name, stride=1):
        return norm(convolve(x, params[name]["kernel"], stride), params[f"{name}_norm"])

    y = np.maximum(step(x[0], "conv1", 2), 0)
    y = np.maximum(step(y, "conv2") + step(x[0], "shortcut", 2), 0)
    np.testing.assert_allclose(output[0], y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", resnet.POOLINGS)
def test_a_resnet_looks_at_each_image_alone_and_uses_every_parameter(pooling):
    sizes = dict(depths=(1, 2), widths=(16, 32), pooling=pooling)
    module = tower(kind="resnet", tokens_per_image=1, **sizes)
    images = pixels(3, 16)
    params = small.make_params(module, images)
    run = jax.jit(lambda params, images: module.apply({"params": params}, images))
    output = np.asarray(run(params, images))
    assert output.shape == (3, 1, 32)
    changed = np.asarray(run(params, np.concatenate([pixels(1, 16, seed=1), images[1:]])))
    np.testing.assert_allclose(changed[1:], output[1:], rtol=1e-5, atol=1e-6)
    assert np.abs(changed[0] - output[0]).max() > 0.1
    loss = lambda params: jnp.sin(3 * run(params, images)).sum()  # noqa: E731
    for name, gradient in small.flat(jax.jit(jax.grad(loss))(params)).items():
        assert gradient.any(), name


@pytest.fixture(scope="module")
def pooled_vit():
    module = tower()
    images = pixels(3, 16)
    params = small.make_params(module, images)
    run = jax.jit(lambda params, images: module.apply({"params": params}, images))
    return run, params, images


def test_vit_looks_at_each_image_alone(pooled_vit):
    run, params, images = pooled_vit
    output = np.asarray(run(params, images))
    assert output.shape == (3, 4, 16)
    changed = images.copy()
    changed[1] = pixels(1, 16, seed=1)[0]
    other = np.asarray(run(params, changed))
    np.testing.assert_allclose(other[[0, 2]], output[[0, 2]], rtol=1e-5, atol=1e-5)
    assert np.abs(other[1] - output[1]).max() > 1e-2


def test_vit_sees_where_a_patch_is(pooled_vit):
    run, params, images = pooled_vit
    swapped = images.copy()
    swapped[:, :8, :8], swapped[:, 8:, 8:] = images[:, 8:, 8:], images[:, :8, :8]
    assert np.abs(run(params, swapped) - run(params, images)).max() > 1e-2
    blind = jax.tree.map(np.copy, params)
    blind["vit"]["position_embedding"][:] = 0
    first, second = run(blind, swapped), run(blind, images)
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4)


def test_pooled_tokens_belong_to_their_queries(pooled_vit):
    run, params, images = pooled_vit
    order = np.array([2, 0, 3, 1])
    moved = jax.tree.map(np.copy, params)
    moved["pool"]["queries"] = moved["pool"]["queries"][order]
    output = np.asarray(run(params, images))
    np.testing.assert_allclose(run(moved, images), output[:, order], rtol=1e-4, atol=1e-5)
    assert np.abs(output[:, 0] - output[:, 1]).max() > 1e-2


def test_vit_scales_pixels_to_between_minus_one_and_one():
    """Black and white are -1 and 1 in every channel: what a patch embedding of them shows."""
    module = vit.VisionTransformer(vit_settings())
    images = np.stack([np.zeros((8, 8, 3)), np.full((8, 8, 3), 255)]).astype(np.uint8)
    params = small.make_params(module, images)

    def embed(images):
        _, state = module.apply(
            {"params": params}, images, capture_intermediates=True, mutable="intermediates"
        )
        return state["intermediates"]["stem"]["patch_embedding"]["__call__"][0]

    black, white = np.asarray(jax.jit(embed)(images))[:, 0, 0]
    kernel, bias = (params["stem"]["patch_embedding"][name] for name in ("kernel", "bias"))
    np.testing.assert_allclose(white, bias + kernel.sum((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(black, bias - kernel.sum((0, 1, 2)), rtol=1e-4, atol=1e-5)


def test_a_class_token_is_one_more_vector_before_the_patches():
    module = tower(class_token=True)
    images = pixels(1, 16)
    params = small.make_params(module, images)
    assert params["vit"]["position_embedding"].shape == (4 + 1, 16)
    run = jax.jit(lambda p: module.apply({"params": p}, images))
    moved = jax.tree.map(jnp.copy, params)
    moved["vit"]["class_token"] = -moved["vit"]["class_token"]
    assert np.abs(np.asarray(run(params)) - np.asarray(run(moved))).max() > 1e-3


def test_the_gelus_differ():
    images = pixels(1, 16)

    def output(gelu: str) -> np.ndarray:
        module = tower(gelu=gelu)
        params = small.make_params(module, images)
        return np.asarray(jax.jit(module.apply)({"params": params}, images))

    assert 0 < np.abs(output("exact") - output("tanh")).max() < 0.05


@pytest.mark.parametrize("patch_size", [2, 8, 16])
def test_a_convolution_stem_keeps_the_patch_grid(patch_size):
    stem = vit.ConvolutionStem(vit_settings(patch_size=patch_size, width=32))
    x = np.zeros((1, 32, 32, 3), np.float32)
    shape = jax.eval_shape(lambda: stem.init_with_output(jax.random.key(0), x)[0]).shape
    assert shape == (1, 32 // patch_size, 32 // patch_size, 32)


def test_features_pass_through():
    module = tower(feature_dim=5, kind="features", tokens_per_image=1)
    features = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    np.testing.assert_array_equal(module.apply({}, features), features[:, None])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(kind="resnet50"), "'resnet50' makes 1 token"),
        (dict(kind="resnet"), "'resnet' makes 1 token"),
        (dict(kind="resnet", tokens_per_image=1, channel_norm="batch"), "'batch' is not one of"),
        (dict(kind="resnet", tokens_per_image=1, depths=(1,)), "blocks and the channels of the"),
        (dict(kind="resnet", tokens_per_image=1, widths=(16, 40)), "40 channels do not divide"),
        (dict(kind="features", feature_dim=5), "'features' makes 1 token"),
        (dict(kind="features", tokens_per_image=1), "'features' and data.feature_dim > 0 go"),
        (dict(feature_dim=5), "data.feature_dim=5 needs model.vision.kind='features'"),
        (dict(stem="dense"), "stem 'dense' is not one of patch, convolution"),
        (dict(stem="convolution", patch_size=14, side=28), "power of 2, not 14"),
        (dict(side=20), "image_size=20 does not divide into patches .*patch_size=8"),
        (dict(heads=3), "width=16 does not divide into heads=3"),
    ],
    ids=str,
)
def test_towers_that_cannot_be(changes, says):
    with pytest.raises(UserError, match=says):
        tower(**changes)


def test_a_new_tower_is_one_file_and_one_line(monkeypatch):
    (module,) = contributing.examples("a vision tower")
    names: dict = {}
    exec(module, names)
    monkeypatch.setitem(vision.TOWERS, "mean_colour", names["TOWER"])
    config = small.with_pixels(small.make_config())
    config.model.vision.kind = "mean_colour"
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    loss = lambda p: jnp.sin(model.apply({"params": p}, batch, method="visual_tokens")).sum()  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(params)["vision_tower"]["dense"]["kernel"]
    assert gradient.shape == (3, config.model.vision.width) and gradient.all()
    config.model.vision.tokens_per_image = 3
    model = small.make_model(config)
    tokens = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), batch, method="visual_tokens")[0]
    )
    assert tokens.shape[2] == 3
    with pytest.raises(UserError, match="mean_colour' reads images"):
        config.data.feature_dim = 5
        small.make_model(config)

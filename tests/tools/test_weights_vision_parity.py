"""ViT, SigLIP and ResNet-50 out of transformers and into our towers: the same numbers."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import small
from PIL import Image

from igerg_jax.data.images import imagenet_crop
from igerg_jax.models import vision
from igerg_jax.models.settings import select
from igerg_jax.models.vision import vit

pytestmark = pytest.mark.parity

SIZES = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    patch_size=8,
    image_size=32,
)


def config_of_vit(**changes):
    """Our config of a tower of `SIZES`."""
    tower = dict(
        stem="patch",
        patch_size=SIZES["patch_size"],
        width=SIZES["hidden_size"],
        layers=SIZES["num_hidden_layers"],
        heads=SIZES["num_attention_heads"],
        mlp_width=SIZES["intermediate_size"],
    )
    config = small.make_config(
        data__image_size=SIZES["image_size"],
        **{f"model__vision__{key}": value for key, value in (tower | changes).items()},
    )
    return small.with_pixels(config)


def pixels(seed: int = 0) -> np.ndarray:
    side = SIZES["image_size"]
    return np.random.default_rng(seed).integers(0, 256, (3, side, side, 3)).astype(np.uint8)


def as_theirs(torch, images: np.ndarray):
    """Pixels in -1..1, channels first: what their image processors make of these images."""
    return torch.tensor(images / 127.5 - 1).float().permute(0, 3, 1, 2)


def towers_output(config, params, images):
    """(patches [I, P, W], pooled tokens [I, K, W]) before our own last norm."""
    settings = select(vit.Settings, config.model.vision, dtype=jnp.float32)
    tower, pool = vit.VisionTransformer(settings), vit.AttentionPool(settings)

    @jax.jit
    def run(params):
        patches = tower.apply({"params": params["vit"]}, images)
        return patches, pool.apply({"params": params["pool"]}, patches)

    return run(params["vision_tower"])


def assert_close(ours, theirs, atol: float) -> None:
    theirs = theirs.detach().numpy()
    assert np.abs(theirs).max() > 0.5, "a model that says nothing shows nothing"
    np.testing.assert_allclose(ours, theirs, atol=atol)


@pytest.mark.parametrize("classifier", [False, True])
def test_vit_hidden_states(tmp_path, classifier):
    torch, library = parity.libraries()
    kind = library.ViTForImageClassification if classifier else library.ViTModel
    theirs = kind(library.ViTConfig(**SIZES)).eval()
    parity.spread(torch, theirs, 0, 0.15)
    theirs.save_pretrained(tmp_path / "vit")
    config = config_of_vit(class_token=True, norm_epsilon=1e-12)
    _, params = parity.imported(config, tmp_path / "out", vision=str(tmp_path / "vit"))
    images = pixels()
    with torch.no_grad():
        backbone = theirs.vit if classifier else theirs
        found = backbone(as_theirs(torch, images)).last_hidden_state
    assert_close(towers_output(config, params, images)[0], found, 1e-4)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """(their folder, their patches, their pooled vector, the images)."""
    torch, library = parity.libraries()
    theirs = library.SiglipVisionModel(library.SiglipVisionConfig(**SIZES)).eval()
    parity.spread(torch, theirs, 0, 0.15)
    folder = tmp_path_factory.mktemp("siglip")
    theirs.save_pretrained(folder)
    images = pixels()
    with torch.no_grad():
        found = theirs(as_theirs(torch, images))
    return folder, theirs, found.last_hidden_state, found.pooler_output, images


def test_siglip_hidden_states_and_pooling(siglip, tmp_path):
    folder, _, hidden, pooled, images = siglip
    config = config_of_vit(gelu="tanh")
    _, params = parity.imported(config, tmp_path / "out", vision=str(folder))
    patches, tokens = towers_output(config, params, images)
    assert_close(patches, hidden, 1e-4)
    assert_close(tokens[:, 0], pooled, 1e-4)


def test_several_queries_start_around_siglips_one(siglip, tmp_path):
    folder, _, _, pooled, images = siglip
    config = config_of_vit(gelu="tanh", tokens_per_image=3)
    _, params = parity.imported(config, tmp_path / "out", vision=str(folder))
    tokens = np.asarray(towers_output(config, params, images)[1])
    distance = np.abs(tokens - pooled.numpy()[:, None]).max(axis=(0, 2))
    assert (distance < 0.5).all() and (distance > 0).all()
    assert np.abs(tokens[:, 0] - tokens[:, 1]).max() > 1e-4


def as_big_vision(theirs, scanned: bool) -> dict[str, np.ndarray]:
    """A transformers SigLIP's weights by big_vision's names, in its layout."""
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    state = {name.removeprefix("vision_model."): x for name, x in state.items()}
    width, heads = SIZES["hidden_size"], SIZES["num_attention_heads"]
    arrays = {
        "embedding/kernel": state["embeddings.patch_embedding.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["embeddings.patch_embedding.bias"],
        "pos_embedding": state["embeddings.position_embedding.weight"][None],
        "MAPHead_0/probe": state["head.probe"],
    }

    def norm(name, to):
        arrays[f"{to}/scale"], arrays[f"{to}/bias"] = state[f"{name}.weight"], state[f"{name}.bias"]

    def mlp(name, to):
        for i in (0, 1):
            arrays[f"{to}/Dense_{i}/kernel"] = state[f"{name}.fc{i + 1}.weight"].T
            arrays[f"{to}/Dense_{i}/bias"] = state[f"{name}.fc{i + 1}.bias"]

    def attention(inward, outward, to):
        for name, (weight, bias) in inward.items():
            arrays[f"{to}/{name}/kernel"] = weight.T.reshape(width, heads, -1)
            arrays[f"{to}/{name}/bias"] = bias.reshape(heads, -1)
        arrays[f"{to}/out/kernel"] = state[f"{outward}.weight"].T.reshape(heads, -1, width)
        arrays[f"{to}/out/bias"] = state[f"{outward}.bias"]

    layers = SIZES["num_hidden_layers"]
    for i in range(layers):
        at, to = f"encoder.layers.{i}", f"Transformer/encoderblock_{i}"
        norm(f"{at}.layer_norm1", f"{to}/LayerNorm_0")
        norm(f"{at}.layer_norm2", f"{to}/LayerNorm_1")
        mlp(f"{at}.mlp", f"{to}/MlpBlock_0")
        inward = {
            name: [state[f"{at}.self_attn.{name[0]}_proj.{kind}"] for kind in ("weight", "bias")]
            for name in ("query", "key", "value")
        }
        attention(inward, f"{at}.self_attn.out_proj", f"{to}/MultiHeadDotProductAttention_0")
    norm("post_layernorm", "Transformer/encoder_norm")
    norm("head.layernorm", "MAPHead_0/LayerNorm_0")
    mlp("head.mlp", "MAPHead_0/MlpBlock_0")
    fused = (state["head.attention.in_proj_weight"], state["head.attention.in_proj_bias"])
    thirds = zip(*(np.split(x, 3) for x in fused), strict=True)
    inward = dict(zip(("query", "key", "value"), thirds, strict=True))
    attention(inward, "head.attention.out_proj", "MAPHead_0/MultiHeadDotProductAttention_0")
    if scanned:
        first = "Transformer/encoderblock_0/"
        for name in [n.removeprefix(first) for n in arrays if n.startswith(first)]:
            parts = [arrays.pop(f"Transformer/encoderblock_{i}/{name}") for i in range(layers)]
            arrays[f"Transformer/encoderblock/{name}"] = np.stack(parts)
    return {f"params/img/{name}": x for name, x in arrays.items()}


@pytest.mark.parametrize("scanned", [False, True])
def test_big_visions_siglip(siglip, tmp_path, scanned):
    _, theirs, hidden, pooled, images = siglip
    others = {"params/txt/embedding": np.ones((2, 2)), "params/t": np.ones(1)}
    np.savez(tmp_path / "siglip.npz", **as_big_vision(theirs, scanned), **others)
    config = config_of_vit(gelu="tanh")
    _, params = parity.imported(config, tmp_path / "out", vision=str(tmp_path / "siglip.npz"))
    patches, tokens = towers_output(config, params, images)
    assert_close(patches, hidden, 1e-4)
    assert_close(tokens[:, 0], pooled, 1e-4)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """(theirs, their folder); its statistics are those of no batch norm that just began."""
    torch, library = parity.libraries()
    theirs = library.ResNetForImageClassification(library.ResNetConfig(num_labels=1000)).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in theirs.state_dict().items():
        if name.endswith("running_mean"):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif name.endswith("running_var"):
            value.copy_(1 + 0.2 * torch.rand(value.shape, generator=generator))
    folder = tmp_path_factory.mktemp("resnet")
    theirs.save_pretrained(folder)
    return theirs, folder


@pytest.mark.parametrize(("width", "height"), [(500, 375), (240, 320)])
def test_resnet50_gives_the_same_vector_from_the_same_jpeg(resnet, tmp_path, width, height):
    torch, _ = parity.libraries()
    theirs, folder = resnet
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG")
    # torchvision's Resize(256), CenterCrop(224), ToTensor, Normalize, on a PIL image.
    image = Image.open(io.BytesIO(out.getvalue())).convert("RGB")
    short = min(width, height)
    size = [256 if side == short else int(256 * side / short) for side in (width, height)]
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - 224) / 2) for side in size)
    tensor = torch.tensor(np.array(image.crop((left, top, left + 224, top + 224)))) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = theirs(((tensor - mean) / std).permute(2, 0, 1)[None]).logits
    config = small.with_pixels(small.make_config(data__image_size=224))
    config.model.vision.kind = "resnet50"
    _, params = parity.imported(config, tmp_path / "out", vision=str(folder))
    tower = vision.build(config.model.vision, jnp.float32, 224, 0)
    ours = jax.jit(lambda p, x: tower.apply({"params": p}, x))(
        params["vision_tower"], imagenet_crop(out.getvalue(), 224)[None]
    )
    assert_close(ours[:, 0], logits, 1e-3)

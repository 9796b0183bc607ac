"""Tiny weight files in the formats and with the parameter names of other libraries, from NumPy."""

import json
import pathlib

import ml_collections
import numpy as np
import safetensors.numpy
import small

BART_CONFIG = dict(
    model_type="bart",
    vocab_size=small.VOCAB_SIZE,
    d_model=16,
    encoder_layers=2,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    max_position_embeddings=16,
    activation_function="gelu",
    scale_embedding=False,
)
VIT_CONFIG = dict(
    model_type="vit",
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    patch_size=8,
    image_size=16,
)
SIGLIP_CONFIG = VIT_CONFIG | dict(
    model_type="siglip_vision_model", hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6
)


def text_config(**changes) -> ml_collections.ConfigDict:
    """A config whose text model matches `BART_CONFIG`."""
    base = dict(
        model__text__norm_first=False,
        model__text__encoder_layers=2,
        data__tokenizer__vocab_size=small.VOCAB_SIZE,
    )
    return small.make_config(**base | changes)


def vision_config(**changes) -> ml_collections.ConfigDict:
    """A config whose vision tower matches `VIT_CONFIG`, on 16-pixel images."""
    vision = dict(stem="patch", patch_size=8, width=16, layers=1, heads=2, mlp_width=32)
    vision |= dict(class_token=True, norm_epsilon=1e-12)
    base = {f"model__vision__{key}": value for key, value in vision.items()}
    return small.with_pixels(small.make_config(**base | changes))


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int = 16) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _attention(name: str, norm: str, width: int = 16) -> dict[str, tuple[int, ...]]:
    shapes = _norm(norm, width)
    for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= _linear(f"{name}.{projection}", width, width)
    return shapes


def bart_shapes(
    vocabulary: int = small.VOCAB_SIZE,
    positions: int = 16,
    width: int = 16,
    mlp_width: int = 32,
    layers: tuple[int, int] = (2, 1),
) -> dict:
    shapes = {"model.shared.weight": (vocabulary, width), "final_logits_bias": (1, vocabulary)}
    for side, count in zip(("encoder", "decoder"), layers, strict=True):
        at = f"model.{side}"
        shapes |= {f"{at}.embed_positions.weight": (positions + 2, width)}
        shapes |= _norm(f"{at}.layernorm_embedding", width)
        for layer in (f"{at}.layers.{i}" for i in range(count)):
            kinds = ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",)
            for kind in kinds:
                shapes |= _attention(f"{layer}.{kind}", f"{layer}.{kind}_layer_norm", width)
            shapes |= _linear(f"{layer}.fc1", mlp_width, width)
            shapes |= _linear(f"{layer}.fc2", width, mlp_width)
            shapes |= _norm(f"{layer}.final_layer_norm", width)
    return shapes


def vit_shapes(patches: int = 4) -> dict:
    layer = "encoder.layer.0"
    shapes = {
        "embeddings.cls_token": (1, 1, 16),
        "embeddings.position_embeddings": (1, 1 + patches, 16),
        "embeddings.patch_embeddings.projection.weight": (16, 3, 8, 8),
        "embeddings.patch_embeddings.projection.bias": (16,),
    }
    for name in ("query", "key", "value"):
        shapes |= _linear(f"{layer}.attention.attention.{name}", 16, 16)
    shapes |= _linear(f"{layer}.attention.output.dense", 16, 16)
    shapes |= _linear(f"{layer}.intermediate.dense", 32, 16)
    shapes |= _linear(f"{layer}.output.dense", 16, 32) | _linear("pooler.dense", 16, 16)
    for name in (f"{layer}.layernorm_before", f"{layer}.layernorm_after", "layernorm"):
        shapes |= _norm(name)
    return shapes


def siglip_shapes(patches: int = 4) -> dict:
    at, layer = "vision_model", "vision_model.encoder.layers.0"
    shapes = {
        f"{at}.embeddings.patch_embedding.weight": (16, 3, 8, 8),
        f"{at}.embeddings.patch_embedding.bias": (16,),
        f"{at}.embeddings.position_embedding.weight": (patches, 16),
        f"{at}.head.probe": (1, 1, 16),
        f"{at}.head.attention.in_proj_weight": (48, 16),
        f"{at}.head.attention.in_proj_bias": (48,),
    }
    shapes |= _linear(f"{at}.head.attention.out_proj", 16, 16)
    shapes |= _attention(f"{layer}.self_attn", f"{layer}.layer_norm1")
    for mlp in (f"{layer}.mlp", f"{at}.head.mlp"):
        shapes |= _linear(f"{mlp}.fc1", 32, 16) | _linear(f"{mlp}.fc2", 16, 32)
    for name in (f"{layer}.layer_norm2", f"{at}.post_layernorm", f"{at}.head.layernorm"):
        shapes |= _norm(name)
    return shapes


def draw(shapes: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 arrays; final_logits_bias is zero, as in BART."""
    rng = np.random.default_rng(seed)
    arrays = {n: rng.standard_normal(s, dtype=np.float32) for n, s in shapes.items()}
    if "final_logits_bias" in arrays:
        arrays["final_logits_bias"][:] = 0
    return arrays


def write(folder: pathlib.Path, config: dict, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """Writes a folder as Hugging Face's libraries do."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    return folder

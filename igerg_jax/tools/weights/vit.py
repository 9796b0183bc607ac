"""ViT, as Hugging Face names it: a class token, no attention pooling.

Of our tower, what pools the patches into visual tokens is not in it. `*` stands for a layer; a
third column is a name in `igerg_jax.tools.weights.transforms`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from igerg_jax.tools.weights.table import Table

_TOWER = "vision_tower/vit"
_LAYERS = "vision_tower/vit/layers"
_THEIRS = "encoder.layer.*"

ROWS = (
    ("embeddings.cls_token", f"{_TOWER}/class_token", "only"),
    ("embeddings.position_embeddings", f"{_TOWER}/position_embedding", "only"),
    (
        "embeddings.patch_embeddings.projection.weight",
        f"{_TOWER}/stem/patch_embedding/kernel",
        "convolution",
    ),
    (
        "embeddings.patch_embeddings.projection.bias",
        f"{_TOWER}/stem/patch_embedding/bias",
        "as_is",
    ),
    *(
        (f"{_THEIRS}.{theirs}", f"{_LAYERS}/{ours}", how)
        for theirs, ours, how in (
            ("layernorm_before.weight", "self_attention_residual/norm/scale", "as_is"),
            ("layernorm_before.bias", "self_attention_residual/norm/bias", "as_is"),
            ("attention.attention.query.weight", "self_attention/query/kernel", "to_heads"),
            ("attention.attention.query.bias", "self_attention/query/bias", "heads_bias"),
            ("attention.attention.key.weight", "self_attention/key/kernel", "to_heads"),
            ("attention.attention.key.bias", "self_attention/key/bias", "heads_bias"),
            ("attention.attention.value.weight", "self_attention/value/kernel", "to_heads"),
            ("attention.attention.value.bias", "self_attention/value/bias", "heads_bias"),
            ("attention.output.dense.weight", "self_attention/out/kernel", "from_heads"),
            ("attention.output.dense.bias", "self_attention/out/bias", "as_is"),
            ("layernorm_after.weight", "mlp_residual/norm/scale", "as_is"),
            ("layernorm_after.bias", "mlp_residual/norm/bias", "as_is"),
            ("intermediate.dense.weight", "mlp/in/kernel", "transpose"),
            ("intermediate.dense.bias", "mlp/in/bias", "as_is"),
            ("output.dense.weight", "mlp/out/kernel", "transpose"),
            ("output.dense.bias", "mlp/out/bias", "as_is"),
        )
    ),
    ("layernorm.weight", f"{_TOWER}/norm/scale", "as_is"),
    ("layernorm.bias", f"{_TOWER}/norm/bias", "as_is"),
)

LEFT = {
    "pooler.*": "it reads the class token; our pooling reads all patches",
    "classifier.*": "its own classes",
    "embeddings.mask_token": "of masked pre-training",
    "decoder.*": "of masked pre-training",
}
NEW = {
    "vision_tower/pool/*": "ViT has no attention pooling",
    "vision_tower/norm/*": "ours alone, after the pooling",
}

# What transformers writes only where it differs from this.
DEFAULTS = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    patch_size=16,
)
NO_CONFIG = "its number of heads, which no shape shows, is not known: there is no config.json"
PIXELS = ((0.5,) * 3, (0.5,) * 3)
GELUS = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


def settings(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """{key under config.model: the value that computes what this model does}."""
    c = DEFAULTS | config
    return {
        "vision.kind": "vit",
        "vision.stem": "patch",
        "vision.patch_size": c["patch_size"],
        "vision.width": c["hidden_size"],
        "vision.layers": c["num_hidden_layers"],
        "vision.heads": c["num_attention_heads"],
        "vision.mlp_width": c["intermediate_size"],
        "vision.class_token": True,
        "vision.gelu": GELUS.get(c["hidden_act"], c["hidden_act"]),
        "vision.norm_epsilon": c["layer_norm_eps"],
    }


def refusals(config: Mapping[str, Any]) -> list[str]:
    """What this config has and our model cannot compute."""
    if not config:
        return [NO_CONFIG]
    problems = []
    activation = (DEFAULTS | config)["hidden_act"]
    if activation not in GELUS:
        problems.append(f"its activation '{activation}' is not one of {', '.join(GELUS)}")
    if config.get("qkv_bias") is False:
        problems.append("its queries, keys and values have no bias; ours have")
    if config.get("num_channels", 3) != 3:
        problems.append(f"it reads {config['num_channels']} channels, not 3")
    return problems


VIT = Table(
    name="ViT",
    part="vision",
    download="for instance google/vit-base-patch16-224-in21k: config.json, model.safetensors",
    marker="encoder.layer.0.attention.attention.query.weight",
    prefixes=("vit.",),
    rows=ROWS,
    settings=settings,
    refusals=refusals,
    left=LEFT,
    pixels=PIXELS,
    new=NEW,
)

"""SigLIP's vision tower, as Hugging Face names it, with its attention pooling.

Its pooling has one query, ours `tokens_per_image`. `*` stands for a layer; a third column is a
name in `igerg_jax.tools.weights.transforms`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from igerg_jax.tools.weights import vit
from igerg_jax.tools.weights.table import Table

_TOWER = "vision_tower/vit"
_POOL = "vision_tower/pool"

ROWS = (
    ("embeddings.patch_embedding.weight", f"{_TOWER}/stem/patch_embedding/kernel", "convolution"),
    ("embeddings.patch_embedding.bias", f"{_TOWER}/stem/patch_embedding/bias", "as_is"),
    ("embeddings.position_embedding.weight", f"{_TOWER}/position_embedding", "as_is"),
    *(
        (f"encoder.layers.*.{theirs}", f"{_TOWER}/layers/{ours}", how)
        for theirs, ours, how in (
            ("layer_norm1.weight", "self_attention_residual/norm/scale", "as_is"),
            ("layer_norm1.bias", "self_attention_residual/norm/bias", "as_is"),
            ("self_attn.q_proj.weight", "self_attention/query/kernel", "to_heads"),
            ("self_attn.q_proj.bias", "self_attention/query/bias", "heads_bias"),
            ("self_attn.k_proj.weight", "self_attention/key/kernel", "to_heads"),
            ("self_attn.k_proj.bias", "self_attention/key/bias", "heads_bias"),
            ("self_attn.v_proj.weight", "self_attention/value/kernel", "to_heads"),
            ("self_attn.v_proj.bias", "self_attention/value/bias", "heads_bias"),
            ("self_attn.out_proj.weight", "self_attention/out/kernel", "from_heads"),
            ("self_attn.out_proj.bias", "self_attention/out/bias", "as_is"),
            ("layer_norm2.weight", "mlp_residual/norm/scale", "as_is"),
            ("layer_norm2.bias", "mlp_residual/norm/bias", "as_is"),
            ("mlp.fc1.weight", "mlp/in/kernel", "transpose"),
            ("mlp.fc1.bias", "mlp/in/bias", "as_is"),
            ("mlp.fc2.weight", "mlp/out/kernel", "transpose"),
            ("mlp.fc2.bias", "mlp/out/bias", "as_is"),
        )
    ),
    ("post_layernorm.weight", f"{_TOWER}/norm/scale", "as_is"),
    ("post_layernorm.bias", f"{_TOWER}/norm/bias", "as_is"),
    ("head.probe", f"{_POOL}/queries", "only"),
    ("head.attention.in_proj_weight", f"{_POOL}/attention/query/kernel", "query_third"),
    ("head.attention.in_proj_weight", f"{_POOL}/attention/key/kernel", "key_third"),
    ("head.attention.in_proj_weight", f"{_POOL}/attention/value/kernel", "value_third"),
    ("head.attention.in_proj_bias", f"{_POOL}/attention/query/bias", "query_third"),
    ("head.attention.in_proj_bias", f"{_POOL}/attention/key/bias", "key_third"),
    ("head.attention.in_proj_bias", f"{_POOL}/attention/value/bias", "value_third"),
    ("head.attention.out_proj.weight", f"{_POOL}/attention/out/kernel", "from_heads"),
    ("head.attention.out_proj.bias", f"{_POOL}/attention/out/bias", "as_is"),
    ("head.layernorm.weight", f"{_POOL}/norm/scale", "as_is"),
    ("head.layernorm.bias", f"{_POOL}/norm/bias", "as_is"),
    ("head.mlp.fc1.weight", f"{_POOL}/mlp/in/kernel", "transpose"),
    ("head.mlp.fc1.bias", f"{_POOL}/mlp/in/bias", "as_is"),
    ("head.mlp.fc2.weight", f"{_POOL}/mlp/out/kernel", "transpose"),
    ("head.mlp.fc2.bias", f"{_POOL}/mlp/out/bias", "as_is"),
)

LEFT = {
    "text_model.*": "its text tower",
    "logit_scale": "of its contrastive loss",
    "logit_bias": "of its contrastive loss",
    "embeddings.position_ids": "numbers from 0 up",
}
NEW = {"vision_tower/norm/*": "ours alone, after the pooling"}

DEFAULTS = vit.DEFAULTS | dict(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)


def _vision(config: Mapping[str, Any]) -> dict[str, Any]:
    return DEFAULTS | (config.get("vision_config") or config)


def settings(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """{key under config.model: the value that computes what this model does}."""
    return vit.settings(_vision(config), names) | {"vision.class_token": False}


def refusals(config: Mapping[str, Any]) -> list[str]:
    """What this config has and our model cannot compute."""
    return vit.refusals(_vision(config) if config else {})


SIGLIP = Table(
    name="SigLIP",
    part="vision",
    download="for instance google/siglip-so400m-patch14-224: config.json, model.safetensors",
    marker="head.attention.in_proj_weight",
    prefixes=("vision_model.",),
    rows=ROWS,
    settings=settings,
    refusals=refusals,
    left=LEFT,
    pixels=vit.PIXELS,
    new=NEW,
)

"""Tables of Hugging Face's ViT and of SigLIP's vision tower.

ViT has a class token and no attention pooling. SigLIP's pooling has one query, and ours has
`tokens_per_image`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from igerg_jax.tools.weights.table import Row, Table, torch_attention, torch_rows

TOWER, POOL = "vision_tower/vit", "vision_tower/pool"

VIT_ROWS = (
    ("embeddings.cls_token", f"{TOWER}/class_token", "only"),
    ("embeddings.position_embeddings", f"{TOWER}/position_embedding", "only"),
    *torch_rows(
        "",
        f"{TOWER}/",
        {
            "embeddings.patch_embeddings.projection": ("stem/patch_embedding", "convolution"),
            "layernorm": ("norm", "norm"),
        },
    ),
    *torch_rows(
        "encoder.layer.*.",
        f"{TOWER}/layers/",
        {
            "layernorm_before": ("self_attention_residual/norm", "norm"),
            "attention.attention.query": ("self_attention/query", "to_heads"),
            "attention.attention.key": ("self_attention/key", "to_heads"),
            "attention.attention.value": ("self_attention/value", "to_heads"),
            "attention.output.dense": ("self_attention/out", "from_heads"),
            "layernorm_after": ("mlp_residual/norm", "norm"),
            "intermediate.dense": ("mlp/in", "dense"),
            "output.dense": ("mlp/out", "dense"),
        },
    ),
)
_SIGLIP_MLP = {"mlp.fc1": ("mlp/in", "dense"), "mlp.fc2": ("mlp/out", "dense")}
SIGLIP_ROWS = (
    ("embeddings.position_embedding.weight", f"{TOWER}/position_embedding", "as_is"),
    *torch_rows(
        "",
        f"{TOWER}/",
        {
            "embeddings.patch_embedding": ("stem/patch_embedding", "convolution"),
            "post_layernorm": ("norm", "norm"),
        },
    ),
    *torch_rows(
        "encoder.layers.*.",
        f"{TOWER}/layers/",
        torch_attention("self_attn", "self_attention")
        | _SIGLIP_MLP
        | {
            "layer_norm1": ("self_attention_residual/norm", "norm"),
            "layer_norm2": ("mlp_residual/norm", "norm"),
        },
    ),
    ("head.probe", f"{POOL}/queries", "only"),
    *(
        (f"head.attention.in_proj_{theirs}", f"{POOL}/attention/{x}/{ours}", f"{x}_third")
        for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
        for x in ("query", "key", "value")
    ),
    *torch_rows(
        "head.",
        f"{POOL}/",
        {
            "attention.out_proj": ("attention/out", "from_heads"),
            "layernorm": ("norm", "norm"),
            **_SIGLIP_MLP,
        },
    ),
)


def convolution_rows(patch_size: int) -> tuple[Row, ...]:
    """The rows of a tower with a convolution stem, as `modeling_igerg_vision` names its layers."""
    stem = {"embeddings.projection": ("stem/projection", "convolution")}
    for i in range(patch_size.bit_length() - 1):
        stem |= {f"embeddings.convolutions.{i}": (f"stem/convolution{i}", "convolution")}
        stem |= {f"embeddings.norms.{i}": (f"stem/convolution{i}_norm", "norm")}
    others = (row for row in SIGLIP_ROWS if not row[1].startswith((POOL, f"{TOWER}/stem")))
    class_token = ("embeddings.class_token", f"{TOWER}/class_token", "only")
    return (*torch_rows("", f"{TOWER}/", stem), *others, class_token)


# transformers writes only settings that differ from these.
VIT_DEFAULTS = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    patch_size=16,
)
SIGLIP_DEFAULTS = VIT_DEFAULTS | dict(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)
PIXELS = ((0.5,) * 3, (0.5,) * 3)
GELUS = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
NEW_NORM = {"vision_tower/norm/*": "only ours has a norm after the pooling"}


def _vit_settings(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    c = VIT_DEFAULTS | config
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


def _vit_refusals(config: Mapping[str, Any]) -> list[str]:
    if not config:
        return [
            "its number of heads is not known, since no shape shows it and there is no config.json"
        ]
    problems = []
    activation = (VIT_DEFAULTS | config)["hidden_act"]
    if activation not in GELUS:
        problems.append(f"its activation '{activation}' is not one of {', '.join(GELUS)}")
    if config.get("qkv_bias") is False:
        problems.append("its queries, keys and values have no bias; ours have")
    if config.get("num_channels", 3) != 3:
        problems.append(f"it reads {config['num_channels']} channels, not 3")
    return problems


def _siglip(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of SigLIP's vision tower, from its own config or that of both towers."""
    return SIGLIP_DEFAULTS | (config.get("vision_config") or config)


VIT = Table(
    name="ViT",
    part="vision",
    download="for instance google/vit-base-patch16-224-in21k: config.json, model.safetensors",
    marker="encoder.layer.0.attention.attention.query.weight",
    prefixes=("vit.",),
    rows=VIT_ROWS,
    settings=_vit_settings,
    refusals=_vit_refusals,
    left={
        "pooler.*": "it reads the class token; our pooling reads all patches",
        "classifier.*": "its own classes",
        "embeddings.mask_token": "for masked pre-training",
        "decoder.*": "for masked pre-training",
    },
    pixels=PIXELS,
    new=NEW_NORM | {"vision_tower/pool/*": "ViT has no attention pooling"},
)
SIGLIP = Table(
    name="SigLIP",
    part="vision",
    download="for instance google/siglip-so400m-patch14-224: config.json, model.safetensors",
    marker="head.attention.in_proj_weight",
    prefixes=("vision_model.",),
    rows=SIGLIP_ROWS,
    settings=lambda config, names: (
        _vit_settings(_siglip(config), names) | {"vision.class_token": False}
    ),
    refusals=lambda config: _vit_refusals(_siglip(config) if config else {}),
    left={
        "text_model.*": "its text tower",
        "logit_scale": "of its contrastive loss",
        "logit_bias": "of its contrastive loss",
        "embeddings.position_ids": "numbers from 0 up",
    },
    pixels=PIXELS,
    new=NEW_NORM,
)

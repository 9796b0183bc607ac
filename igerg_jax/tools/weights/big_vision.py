"""big_vision's .npz: its ViT, and the image tower of its SigLIP; and vit_jax's ViT.

They are JAX's already: layouts are ours, attention is divided into heads. Layers are numbered, or
(scanned) lie in one array, which `unscanned` takes apart. `*` stands for a layer; a third column is
a name in `igerg_jax.tools.weights.transforms`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from igerg_jax.tools.weights.sources import Source
from igerg_jax.tools.weights.table import Row, Table

_TOWER = "vision_tower/vit"
_POOL = "vision_tower/pool"
_SCANNED = re.compile(r"(.*Transformer/encoderblock)/(.*)")


def _attention(theirs: str, ours: str) -> tuple[Row, ...]:
    """Both sides keep the same eight arrays."""
    names = (f"{p}/{kind}" for p in ("query", "key", "value", "out") for kind in ("kernel", "bias"))
    return tuple((f"{theirs}/{name}", f"{ours}/{name}", "as_is") for name in names)


def _norm(theirs: str, ours: str) -> tuple[Row, ...]:
    return tuple((f"{theirs}/{x}", f"{ours}/{x}", "as_is") for x in ("scale", "bias"))


def _mlp(theirs: str, ours: str) -> tuple[Row, ...]:
    return tuple(
        (f"{theirs}/Dense_{i}/{kind}", f"{ours}/{name}/{kind}", "as_is")
        for i, name in ((0, "in"), (1, "out"))
        for kind in ("kernel", "bias")
    )


def _vit(numbers: tuple[int, int, int, int], positions: str) -> tuple[Row, ...]:
    """The rows of a tower; `numbers` are those of norm, attention, norm and MLP in a layer."""
    block, layers = "Transformer/encoderblock_*", f"{_TOWER}/layers"
    first, attention, second, mlp = numbers
    return (
        ("embedding/kernel", f"{_TOWER}/stem/patch_embedding/kernel", "as_is"),
        ("embedding/bias", f"{_TOWER}/stem/patch_embedding/bias", "as_is"),
        (positions, f"{_TOWER}/position_embedding", "only"),
        *_norm(f"{block}/LayerNorm_{first}", f"{layers}/self_attention_residual/norm"),
        *_attention(
            f"{block}/MultiHeadDotProductAttention_{attention}", f"{layers}/self_attention"
        ),
        *_norm(f"{block}/LayerNorm_{second}", f"{layers}/mlp_residual/norm"),
        *_mlp(f"{block}/MlpBlock_{mlp}", f"{layers}/mlp"),
        *_norm("Transformer/encoder_norm", f"{_TOWER}/norm"),
    )


_CLASS_TOKEN = (("cls", f"{_TOWER}/class_token", "only"),)
_MAP_HEAD = (
    ("MAPHead_0/probe", f"{_POOL}/queries", "only"),
    *_attention("MAPHead_0/MultiHeadDotProductAttention_0", f"{_POOL}/attention"),
    *_norm("MAPHead_0/LayerNorm_0", f"{_POOL}/norm"),
    *_mlp("MAPHead_0/MlpBlock_0", f"{_POOL}/mlp"),
)

LEFT = {
    "head/*": "its own classes, or its contrastive space",
    "pre_logits/*": "of its own classes",
    "txt/*": "its text tower",
    "t": "of its contrastive loss",
    "b": "of its contrastive loss",
    "opt/*": "its optimizer",
}
NEW = {"vision_tower/norm/*": "ours alone, after the pooling"}


def settings(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """What the code of big_vision fixes; sizes show in the arrays' shapes."""
    return {
        "vision.kind": "vit",
        "vision.stem": "patch",
        "vision.class_token": "cls" in names,
        "vision.gelu": "tanh",
        "vision.norm_epsilon": 1e-6,
    }


def unscanned(source: Source) -> Source:
    """`source` with every array of scanned layers seen as one tensor a layer."""
    shapes, parts = {}, {}
    for name, shape in source.shapes.items():
        match = _SCANNED.fullmatch(name)
        if not match:
            shapes[name] = shape
            continue
        for layer in range(shape[0]):
            unscanned_name = f"{match[1]}_{layer}/{match[2]}"
            shapes[unscanned_name], parts[unscanned_name] = shape[1:], (name, layer)

    kept: dict[str, np.ndarray] = {}  # the array that was read last: layers are asked for in turn

    def read(name: str) -> np.ndarray:
        if name not in parts:
            return source.read(name)
        scanned, layer = parts[name]
        if scanned not in kept:
            kept.clear()
            kept[scanned] = source.read(scanned)
        return kept[scanned][layer]

    return Source(source.path, shapes, read, source.config)


_COMMON = dict(
    part="vision",
    download="an .npz that big_vision's README lists",
    prefixes=("params/", "img/"),
    settings=settings,
    refusals=lambda config: [],
    left=LEFT,
)
_NO_POOLING = NEW | {"vision_tower/pool/*": "this ViT has no attention pooling"}
BIG_VISION_SIGLIP = Table(
    name="big_vision's ViT with attention pooling (SigLIP)",
    marker="MAPHead_0/probe",
    rows=_vit((0, 0, 1, 0), "pos_embedding") + _MAP_HEAD,
    new=NEW,
    **_COMMON,
)
BIG_VISION_VIT = Table(
    name="big_vision's ViT",
    marker="pos_embedding",
    rows=_vit((0, 0, 1, 0), "pos_embedding") + _CLASS_TOKEN,
    new=_NO_POOLING,
    **_COMMON,
)
VIT_JAX = Table(
    name="vit_jax's ViT",
    marker="Transformer/posembed_input/pos_embedding",
    rows=_vit((0, 1, 2, 3), "Transformer/posembed_input/pos_embedding") + _CLASS_TOKEN,
    new=_NO_POOLING,
    **_COMMON,
)

"""Tables of .npz files: big_vision's ViT and the image tower of its SigLIP, and vit_jax's ViT.

They are JAX models too, with our layouts and attention split by heads. Layers are numbered, or
scanned: then they share one array, which `unscanned` splits.
"""

import re

import numpy as np

from igerg_jax.tools.weights.sources import Source
from igerg_jax.tools.weights.table import Row, Table
from igerg_jax.tools.weights.vit import NEW_NORM, POOL, TOWER

_SCANNED = re.compile(r"(.*Transformer/encoderblock)/(.*)")


def _rows(theirs: str, ours: str, *arrays: str) -> tuple[Row, ...]:
    return tuple((f"{theirs}/{array}", f"{ours}/{array}", "as_is") for array in arrays)


def _attention(theirs: str, ours: str) -> tuple[Row, ...]:
    layers = ("query", "key", "value", "out")
    return _rows(theirs, ours, *(f"{x}/{kind}" for x in layers for kind in ("kernel", "bias")))


def _norm(theirs: str, ours: str) -> tuple[Row, ...]:
    return _rows(theirs, ours, "scale", "bias")


def _mlp(theirs: str, ours: str) -> tuple[Row, ...]:
    return (
        *_rows(f"{theirs}/Dense_0", f"{ours}/in", "kernel", "bias"),
        *_rows(f"{theirs}/Dense_1", f"{ours}/out", "kernel", "bias"),
    )


def _vit(numbers: tuple[int, int, int, int], positions: str) -> tuple[Row, ...]:
    """The rows of a tower; `numbers`: the suffixes of norm, attention, norm and MLP in a layer."""
    block, layers = "Transformer/encoderblock_*", f"{TOWER}/layers"
    first, attention, second, mlp = numbers
    return (
        *_rows("embedding", f"{TOWER}/stem/patch_embedding", "kernel", "bias"),
        (positions, f"{TOWER}/position_embedding", "only"),
        *_norm(f"{block}/LayerNorm_{first}", f"{layers}/self_attention_residual/norm"),
        *_attention(
            f"{block}/MultiHeadDotProductAttention_{attention}", f"{layers}/self_attention"
        ),
        *_norm(f"{block}/LayerNorm_{second}", f"{layers}/mlp_residual/norm"),
        *_mlp(f"{block}/MlpBlock_{mlp}", f"{layers}/mlp"),
        *_norm("Transformer/encoder_norm", f"{TOWER}/norm"),
    )


_CLASS_TOKEN = (("cls", f"{TOWER}/class_token", "only"),)
_MAP_HEAD = (
    ("MAPHead_0/probe", f"{POOL}/queries", "only"),
    *_attention("MAPHead_0/MultiHeadDotProductAttention_0", f"{POOL}/attention"),
    *_norm("MAPHead_0/LayerNorm_0", f"{POOL}/norm"),
    *_mlp("MAPHead_0/MlpBlock_0", f"{POOL}/mlp"),
)


def unscanned(source: Source) -> Source:
    """`source` with every array of scanned layers split into one tensor per layer."""
    shapes, parts = {}, {}
    for name, shape in source.shapes.items():
        match = _SCANNED.fullmatch(name)
        if not match:
            shapes[name] = shape
            continue
        for layer in range(shape[0]):
            unscanned_name = f"{match[1]}_{layer}/{match[2]}"
            shapes[unscanned_name], parts[unscanned_name] = shape[1:], (name, layer)

    kept: dict[str, np.ndarray] = {}  # only the array that was read last: layers are read in order

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
    # Fixed in the code of big_vision; sizes are checked by the arrays' shapes.
    settings=lambda config, names: {
        "vision.kind": "vit",
        "vision.stem": "patch",
        "vision.class_token": "cls" in names,
        "vision.gelu": "tanh",
        "vision.norm_epsilon": 1e-6,
    },
    refusals=lambda config: [],
    left={
        "head/*": "its own classes, or its contrastive space",
        "pre_logits/*": "of its own classes",
        "txt/*": "its text tower",
        "t": "of its contrastive loss",
        "b": "of its contrastive loss",
        "opt/*": "its optimizer",
    },
)
_NO_POOLING = NEW_NORM | {"vision_tower/pool/*": "this ViT has no attention pooling"}
BIG_VISION_SIGLIP = Table(
    name="big_vision's ViT with attention pooling (SigLIP)",
    marker="MAPHead_0/probe",
    rows=_vit((0, 0, 1, 0), "pos_embedding") + _MAP_HEAD,
    new=NEW_NORM,
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

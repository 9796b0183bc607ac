"""ResNet-50 v1.5, as Hugging Face names it, and as torchvision (and timm) do.

Batch norms come with their statistics, which stay as they are. A third column is a name in
`igerg_jax.tools.weights.transforms`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from igerg_jax.models.vision.resnet50 import IMAGENET_MEAN, IMAGENET_STD
from igerg_jax.tools.weights.table import Table

DOWNLOAD = (
    "torchvision's resnet50-0676ba61.pth, which the original used; or timm/resnet50.tv_in1k, the "
    "same weights, or microsoft/resnet-50: config.json, model.safetensors"
)
DEPTHS = (3, 4, 6, 3)

_NORM = (
    ("weight", "scale"),
    ("bias", "bias"),
    ("running_mean", "mean"),
    ("running_var", "variance"),
)


def _convolution(kernel: str, norm: str, ours: str) -> tuple:
    """A convolution without bias, and the batch norm after it."""
    return (
        (f"{kernel}.weight", f"vision_tower/{ours}/kernel", "convolution"),
        *((f"{norm}.{a}", f"vision_tower/{ours}_norm/{b}", "as_is") for a, b in _NORM),
    )


def _blocks(kernel: str, norm: str, shortcut: tuple[str, str]) -> tuple:
    """Every block's convolutions; `stage`, `block` and `i` (0, 1, 2) fill in the patterns."""
    rows = ()
    for stage, blocks in enumerate(DEPTHS):
        for block in range(blocks):
            ours = f"stage{stage}_block{block}"
            at = dict(stage=stage, first=stage + 1, block=block)
            for i in range(3):
                names = (pattern.format(**at, i=i, next=i + 1) for pattern in (kernel, norm))
                rows += _convolution(*names, f"{ours}/conv{i + 1}")
            if block == 0:
                names = (pattern.format(**at) for pattern in shortcut)
                rows += _convolution(*names, f"{ours}/shortcut")
    return rows


_HF_BLOCK = "resnet.encoder.stages.{stage}.layers.{block}"
ROWS = (
    *_convolution(
        "resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization", "stem"
    ),
    *_blocks(
        f"{_HF_BLOCK}.layer.{{i}}.convolution",
        f"{_HF_BLOCK}.layer.{{i}}.normalization",
        (f"{_HF_BLOCK}.shortcut.convolution", f"{_HF_BLOCK}.shortcut.normalization"),
    ),
    ("classifier.1.weight", "vision_tower/classifier/kernel", "transpose"),
    ("classifier.1.bias", "vision_tower/classifier/bias", "as_is"),
)

_TV_BLOCK = "layer{first}.{block}"
TORCHVISION_ROWS = (
    *_convolution("conv1", "bn1", "stem"),
    *_blocks(
        f"{_TV_BLOCK}.conv{{next}}",
        f"{_TV_BLOCK}.bn{{next}}",
        (f"{_TV_BLOCK}.downsample.0", f"{_TV_BLOCK}.downsample.1"),
    ),
    ("fc.weight", "vision_tower/classifier/kernel", "transpose"),
    ("fc.bias", "vision_tower/classifier/bias", "as_is"),
)

LEFT = {"*num_batches_tracked": "how many batches the statistics were measured on"}


def _settings(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {"vision.kind": "resnet50"}


def _refusals(config: Mapping[str, Any]) -> list[str]:
    problems = []
    wanted = dict(
        depths=list(DEPTHS),
        embedding_size=64,
        hidden_sizes=[256, 512, 1024, 2048],
        layer_type="bottleneck",
        hidden_act="relu",
        downsample_in_bottleneck=False,
        downsample_in_first_stage=False,
    )
    for key, value in wanted.items():
        if config.get(key, value) != value:
            problems.append(f"{key} is {config[key]}, ResNet-50 v1.5 has {value}")
    return problems


_COMMON = dict(
    part="vision",
    download=DOWNLOAD,
    prefixes=(),
    settings=_settings,
    refusals=_refusals,
    left=LEFT,
    pixels=(IMAGENET_MEAN, IMAGENET_STD),
)
RESNET50 = Table(
    name="ResNet-50",
    marker="resnet.embedder.embedder.convolution.weight",
    rows=ROWS,
    **_COMMON,
)
TORCHVISION = Table(
    name="ResNet-50 (torchvision's)",
    marker="layer1.0.conv1.weight",
    rows=TORCHVISION_ROWS,
    **_COMMON,
)

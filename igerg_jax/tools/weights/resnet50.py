"""Tables of ResNet-50 v1.5: one for Hugging Face's names, one for torchvision's (and timm's).

Batch norms keep the imported statistics.
"""

from collections.abc import Mapping
from typing import Any

from igerg_jax.models.vision.resnet50 import IMAGENET_MEAN, IMAGENET_STD
from igerg_jax.tools.weights.table import Row, Table, torch_rows

DEPTHS = (3, 4, 6, 3)
_NORM = dict(weight="scale", bias="bias", running_mean="mean", running_var="variance")


def _convolution(kernel: str, norm: str, ours: str) -> tuple[Row, ...]:
    """A convolution without bias, and the batch norm after it."""
    return (
        (f"{kernel}.weight", f"vision_tower/{ours}/kernel", "convolution"),
        *((f"{norm}.{a}", f"vision_tower/{ours}_norm/{b}", "as_is") for a, b in _NORM.items()),
    )


def _blocks(kernel: str, norm: str, shortcut: str, shortcut_norm: str) -> tuple[Row, ...]:
    """The convolutions of every block; the patterns are formatted with numbers from 0 (`stage`,
    `block`, `i`) and from 1 (`first`, `next`)."""
    rows = ()
    for stage, blocks in enumerate(DEPTHS):
        for block in range(blocks):
            ours, at = f"stage{stage}_block{block}", dict(stage=stage, first=stage + 1, block=block)
            for i in range(3):
                theirs = (pattern.format(**at, i=i, next=i + 1) for pattern in (kernel, norm))
                rows += _convolution(*theirs, f"{ours}/conv{i + 1}")
            if block == 0:
                theirs = (pattern.format(**at) for pattern in (shortcut, shortcut_norm))
                rows += _convolution(*theirs, f"{ours}/shortcut")
    return rows


_BLOCK = "resnet.encoder.stages.{stage}.layers.{block}"
ROWS = (
    *_convolution(
        "resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization", "stem"
    ),
    *_blocks(
        f"{_BLOCK}.layer.{{i}}.convolution",
        f"{_BLOCK}.layer.{{i}}.normalization",
        f"{_BLOCK}.shortcut.convolution",
        f"{_BLOCK}.shortcut.normalization",
    ),
    *torch_rows("", "vision_tower/", {"classifier.1": ("classifier", "dense")}),
)
TORCHVISION_ROWS = (
    *_convolution("conv1", "bn1", "stem"),
    *_blocks(
        "layer{first}.{block}.conv{next}",
        "layer{first}.{block}.bn{next}",
        "layer{first}.{block}.downsample.0",
        "layer{first}.{block}.downsample.1",
    ),
    *torch_rows("", "vision_tower/", {"fc": ("classifier", "dense")}),
)


def _refusals(config: Mapping[str, Any]) -> list[str]:
    wanted = dict(
        depths=list(DEPTHS),
        embedding_size=64,
        hidden_sizes=[256, 512, 1024, 2048],
        layer_type="bottleneck",
        hidden_act="relu",
        downsample_in_bottleneck=False,
        downsample_in_first_stage=False,
    )
    return [
        f"{key} is {config[key]}, ResNet-50 v1.5 has {value}"
        for key, value in wanted.items()
        if config.get(key, value) != value
    ]


_COMMON = dict(
    part="vision",
    download=(
        "torchvision's resnet50-0676ba61.pth, which the original used; or timm/resnet50.tv_in1k, "
        "the same weights, or microsoft/resnet-50: config.json, model.safetensors"
    ),
    prefixes=(),
    settings=lambda config, names: {"vision.kind": "resnet50"},
    refusals=_refusals,
    left={"*num_batches_tracked": "how many batches the statistics were measured on"},
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

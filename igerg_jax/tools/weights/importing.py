"""`igerg weights import`: turns pre-trained weights into a checkpoint to start training from."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from flax.traverse_util import unflatten_dict

from igerg_jax import checks, storage
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.data import tokenizers
from igerg_jax.errors import UserError
from igerg_jax.run import checkpoint, command_line, workdirs
from igerg_jax.run.workdirs import TOKENIZER_FILE
from igerg_jax.setup import set_up
from igerg_jax.tools.weights import bart, big_vision, matching, parameters, resnet50, vit
from igerg_jax.tools.weights.matching import Plan, Shapes
from igerg_jax.tools.weights.sources import Source, open_source
from igerg_jax.tools.weights.table import TRANSFORMS, Table

Sources = Mapping[str, tuple[Table, Source]]  # by part

# `model_type` of a config.json -> the table for it.
MODEL_TYPES = {
    "bart": bart.BART,
    "mbart": bart.MBART,
    "vit": vit.VIT,
    "siglip": vit.SIGLIP,
    "siglip_vision_model": vit.SIGLIP,
    "resnet": resnet50.RESNET50,
}
# Without a `model_type`: the first of these whose marker is among the tensors.
BY_MARKER = (
    bart.MBART,
    bart.BART,
    resnet50.RESNET50,
    resnet50.TORCHVISION,
    vit.SIGLIP,
    vit.VIT,
    big_vision.BIG_VISION_SIGLIP,
    big_vision.VIT_JAX,
    big_vision.BIG_VISION_VIT,
)
DOWNLOADS = {
    "text": bart.BART.download,
    "vision": "; or ".join(t.download for t in (vit.VIT, vit.SIGLIP, resnet50.TORCHVISION)),
}
ADDITIONS_FILE = "additions.safetensors"  # written by export, beside the text model
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")  # of byte-level BPE
# Parameters that no source has, so that they start from random values: {pattern: what they are}.
ADDITIONS = {
    "cls_embedding": "the vector that a sequence's emotion is read from",
    "image_projection/*": "from the vision tower's width to the text's",
    "image_slot_embedding": "tells an image's tokens apart",
    "emotion_head/*": "each image's emotion",
    "sequence_emotion_head/*": "the sequence's emotion",
    "masked_token_head/*": "before the tied token embedding",
    "judge_network/*": "the judge of a text's emotion",
    "contrastive_*": "the contrastive objective",
}


def run(config: ml_collections.ConfigDict, text: str, vision: str, out: str, resize: bool) -> str:
    """Writes the checkpoint `out`; returns a description of what became of every tensor.

    Args:
      text, vision: a folder or file; "" = not imported.
      resize: whether the vocabulary may be cut or lengthened.

    Raises:
      UserError: whatever does not fit, in one message; then nothing is written.
    """
    given = {part: path for part, path in (("text", text), ("vision", vision)) if path}
    if not given:
        raise UserError("nothing to import: give --text, --vision, or both")
    checks.check_model(config)
    folder = command_line.new_folder(out)
    sources = {part: open_part(part, path) for part, path in given.items()}
    check_settings(config, sources, resize)
    wanted = parameter_shapes(config)
    added = additions(sources, wanted)
    additional = {} if added is None else added.shapes
    others = {name: shape for name, shape in wanted.items() if name not in additional}
    plans = {
        part: matching.plan(table, source, others, resize)
        for part, (table, source) in sources.items()
    }
    new = check_parameters(others, plans)
    tokenizer, digest = tokenizer_of(config, sources)
    params = {name: added.read(name) for name in additional}
    for part, (_, source) in sources.items():
        params |= read_parameters(plans[part], source, wanted)
    if tokenizer is not None:  # first, since a folder with a checkpoint counts as complete
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder / TOKENIZER_FILE)
    parameters.write(folder, unflatten_dict(params, sep="/"), config, digest)
    lines = described(sources, plans, new)
    if additional:
        lines.insert(0, f"{ADDITIONS_FILE}: {len(additional)} parameters by our names")
    if resize and _tokenizer_overrides(config.data.tokenizer, sources):
        lines.append(
            "the tokenizer beside the weights is not the run's: embeddings belong to other tokens"
        )
    if not digest:
        lines.append("it came without a tokenizer, so those of runs are not compared with it")
    return "\n".join([*lines, f"start training from it with --config.init_from={os.fspath(out)}"])


def open_part(part: str, path: str) -> tuple[Table, Source]:
    """The files under `path`, and the table that fits them.

    Raises:
      UserError: they cannot be read, or no table of this part fits them.
    """
    source = open_source(path, DOWNLOADS[part])
    if source.path.suffix == ".npz":
        source = big_vision.unscanned(source)
    model_type = source.config.get("model_type")
    fitting = (t for t in BY_MARKER if t.marker in matching.without_prefixes(source, t))
    table = next(fitting, None) if model_type is None else MODEL_TYPES.get(str(model_type))
    if table is None or table.part != part:
        what = f"of type '{model_type}'" if model_type else "of an unknown kind"
        known = dict.fromkeys(t.name for t in BY_MARKER if t.part == part)
        raise UserError(f"'{path}' is {what}; available for --{part}: {', '.join(known)}")
    return table, source


def additions(sources: Sources, wanted: Shapes) -> Source | None:
    """The parameters that our export wrote beside the text model, under our own names.

    Raises:
      UserError: the config's model has no such parameter, or it has another shape.
    """
    path = sources["text"][1].path / ADDITIONS_FILE if "text" in sources else None
    if path is None or not path.exists():
        return None
    additional = open_source(str(path), "")
    wrong = [
        f"{name} (there {shape}, here {wanted.get(name)})"
        for name, shape in additional.shapes.items()
        if wanted.get(name) != shape
    ]
    if wrong:
        raise UserError(
            f"'{path}' is of another model than the config describes: {', '.join(wrong)}. Give the "
            "config and the preset that it was trained with"
        )
    return additional


def check_settings(config: ml_collections.ConfigDict, sources: Sources, resize: bool) -> None:
    """Raises UserError if `config` describes a model that computes another function than the
    sources, or, unless the vocabulary is resized, tokenises text differently."""
    needed = [] if resize else _tokenizer_overrides(config.data.tokenizer, sources)
    here = workdirs.flatten(config.model)
    for table, source in sources.values():
        refused = [*table.refusals(source.config), *_other_pixels(table, source.processor)]
        if refused:
            raise UserError(
                f"'{source.path}' ({table.name}) cannot be imported: {'; '.join(refused)}"
            )
        settings = table.settings(source.config, matching.without_prefixes(source, table))
        needed += [f"--config.model.{k}={v}" for k, v in settings.items() if here[k] != v]
    if needed:
        what = " and ".join(f"'{source.path}' ({table.name})" for table, source in sources.values())
        raise UserError(
            f"{what}: not the model that the config describes. "
            f"The import, and every run that starts from it, needs: {' '.join(needed)}"
        )


def _other_pixels(table: Table, processor: Mapping[str, Any]) -> list[str]:
    """The settings of a preprocessor_config.json that normalise pixels unlike our tower."""
    wanted: dict[str, Any] = {}
    if table.pixels:
        mean, std = table.pixels
        wanted = {"do_rescale": True, "rescale_factor": 1 / 255}
        wanted |= {"do_normalize": True, "image_mean": list(mean), "image_std": list(std)}
    given = {
        key: [value] * 3
        if key in ("image_mean", "image_std") and not isinstance(value, list)
        else value
        for key, value in processor.items()
    }  # a number stands for all three channels
    return [
        f"it was trained with {key}={processor[key]}, our tower has {value}"
        for key, value in wanted.items()
        if not _is_same(given.get(key, value), value)
    ]


def _is_same(given: Any, wanted: Any) -> bool:
    """Whether two settings are equal, for numbers but for rounding."""
    if isinstance(given, float) and isinstance(wanted, float):
        return math.isclose(given, wanted, rel_tol=1e-6)
    return given == wanted


def _tokenizer_overrides(settings: ml_collections.ConfigDict, sources: Sources) -> list[str]:
    """The overrides that a run needs so that its tokenizer matches BART's embeddings."""
    if "text" not in sources or settings.kind == "byte_level_bpe" or settings.path:
        return []
    table, source = sources["text"]
    # Exported folders have the run's SentencePiece model, too.
    is_ours = _beside(source, (TOKENIZER_FILE,))
    if table is not bart.BART or is_ours or not _beside(source, TOKENIZER_FILES):
        return []
    rows = source.shapes[matching.without_prefixes(source, table)["shared.weight"]][0]
    needed = dict(kind="byte_level_bpe", path=source.folder, vocab_size=rows)
    return [f"--config.data.tokenizer.{key}={value}" for key, value in needed.items()]


def _beside(source: Source, names: tuple[str, ...]) -> pathlib.Path | None:
    """The first of these files that is in the source's folder."""
    return next((source.folder / name for name in names if (source.folder / name).exists()), None)


def parameter_shapes(config: ml_collections.ConfigDict) -> Shapes:
    """{name: shape} of every parameter of the model that `config` describes."""
    on_one = ml_collections.ConfigDict(config.to_dict())
    on_one.mesh.update(dict.fromkeys(on_one.mesh, 1))  # shapes do not depend on the mesh
    vocab_size = config.data.tokenizer.vocab_size
    setup = set_up(on_one, vocab_size, SENTENCEPIECE_IDS, jax.devices()[:1])
    return checkpoint.shapes(setup.abstract_params)


def check_parameters(wanted: Shapes, plans: Mapping[str, Plan]) -> dict[str, str]:
    """{parameter that stays as initialised: why}. Raises UserError for one that no table covers."""
    covered = {piece.ours for plan in plans.values() for piece in plan.pieces}
    covered |= {name for plan in plans.values() for name in plan.derived}
    new = matching.matching(ADDITIONS, [name for name in wanted if name not in covered])
    for plan in plans.values():
        new |= plan.new
    uncovered = []
    for name in wanted:
        if name in covered or name in new:
            continue
        part = "vision" if name.startswith("vision_tower/") else "text"
        if part in plans:
            uncovered.append(name)
        else:
            new[name] = f"no --{part} was given"
    if uncovered:
        raise UserError(f"no table covers these parameters: {', '.join(uncovered)}")
    return new


def tokenizer_of(config: ml_collections.ConfigDict, sources: Sources) -> tuple[Any | None, str]:
    """(the tokenizer of --text, its digest), or (None, "") if the checkpoint gets none.

    Raises:
      UserError: it cannot be read, or has more ids than the model.
    """
    settings = config.data.tokenizer
    if "text" not in sources:
        return None, ""
    names = ("tokenizer.model",) if settings.kind == "sentencepiece" else TOKENIZER_FILES
    given = storage.local_path(settings.path) if settings.path else None
    path = given or _beside(sources["text"][1], names)
    if path is None:
        return None, ""
    tokenizer = tokenizers.load(settings.kind, path)
    if tokenizer.vocab_size > settings.vocab_size:
        raise UserError(
            f"the tokenizer '{path}' has {tokenizer.vocab_size} ids, more than "
            f"config.data.tokenizer.vocab_size={settings.vocab_size}"
        )
    return tokenizer, tokenizer.digest


def read_parameters(plan: Plan, source: Source, wanted: Shapes) -> dict[str, np.ndarray]:
    """{parameter: float32 array} of every tensor of `plan`, read one tensor at a time."""
    params = {}
    for piece in plan.pieces:
        shape = wanted[piece.ours]
        target = shape[1:] if piece.layered else shape
        array = np.empty(shape, np.float32)
        for i, theirs in enumerate(piece.theirs):
            x = TRANSFORMS[piece.how].ours(_numbers(source, theirs), target)
            if piece.adapted is not None:
                x = piece.adapted.apply(np.asarray(x, np.float32), target)
            array[i if piece.layered else ...] = x
        params[piece.ours] = array
    return params | {name: np.zeros(wanted[name], np.float32) for name in plan.derived}


def _numbers(source: Source, name: str) -> np.ndarray:
    x = source.read(name)
    # NumPy does not count bfloat16 among its floating-point dtypes.
    if not np.issubdtype(x.dtype, np.floating) and x.dtype.name != "bfloat16":
        raise UserError(f"'{source.path}': {name} holds {x.dtype}, not floating-point numbers")
    if not np.isfinite(x.astype(np.float32, copy=False)).all():
        raise UserError(f"'{source.path}': {name} holds numbers that are not finite")
    return x


def described(sources: Sources, plans: Mapping[str, Plan], new: dict[str, str]) -> list[str]:
    """Lines on what became of every tensor and parameter, grouped by reason."""
    lines = []
    for part, (table, source) in sources.items():
        plan = plans[part]
        count = len({theirs for piece in plan.pieces for theirs in piece.theirs})
        lines.append(
            f"{part}: {count} tensors of {table.name} in '{source.path}' became "
            f"{len(plan.pieces)} parameters"
        )
        lines += [f"  {p.ours}: {p.adapted.description}" for p in plan.pieces if p.adapted]
        lines += _by_reason("  derived", plan.derived)
        lines += _by_reason("  left out", plan.left)
    return lines + _by_reason("as initialised", new)


def _by_reason(what: str, why: Mapping[str, str]) -> list[str]:
    grouped: dict[str, list[str]] = {}
    for name, reason in why.items():
        grouped.setdefault(reason, []).append(name)
    return [f"{what} ({why}): {workdirs.listed(names)}" for why, names in grouped.items()]

"""Checks that a checkpoint fits a config, before its arrays are read.

Each `check_…` raises UserError if it does not. `run` is the record that
`igerg_jax.run.checkpoint.read_run` returns, and `path` the checkpoint's folder.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from igerg_jax.errors import UserError, check_known
from igerg_jax.models.igerg import OPTIONAL_PARTS
from igerg_jax.run import workdirs

Shapes = dict[str, tuple[int, ...]]  # parameter name, with slashes -> shape


def check_same_model(run: dict[str, Any], config: Any, path: epath.Path) -> None:
    """For evaluation and generation: `config.model` must be that of the checkpoint's training."""
    stored = workdirs.of_this_version(run["config"], path, say=False)
    differences = workdirs.model_differences(stored, workdirs.as_json(config))
    if differences:
        raise UserError(
            f"checkpoint '{path}' is of another model: {workdirs.listed(differences)}. "
            "Give the config and the preset that it was trained with"
        )


# Keys that change what parameters (those with the prefixes) compute, but not names or shapes.
_FUNCTION_KEYS = {
    "model.vision.channel_norm": ("vision_tower/stem", "vision_tower/stage"),
    "model.vision.gelu": ("vision_tower/vit/",),
    "model.vision.norm_epsilon": ("vision_tower/vit/",),
    "model.text.norm_first": ("encoder/layers/", "decoder/layers/"),
    "model.emotion_scale": ("emotion_input_embedding", "emotion_output_embedding"),
}


def check_same_function(run: dict, config: Any, loaded: tuple[str, ...], path: epath.Path) -> None:
    """For fine-tuning: the parameters `loaded` must compute what they did in training."""
    recorded = workdirs.of_this_version(run["config"], path, say=False)
    stored, here = workdirs.flatten(recorded), workdirs.flatten(workdirs.as_json(config))
    different = [
        f"{key} (there {stored[key]}, here {here[key]})"
        for key, prefix in _FUNCTION_KEYS.items()
        if stored[key] != here[key] and any(name.startswith(prefix) for name in loaded)
    ]
    if different:
        raise UserError(
            f"checkpoint '{path}' was trained with settings under which the same weights compute "
            f"something else: {', '.join(different)}. Set these keys to the checkpoint's values"
        )


def check_tokenizer(run: dict[str, Any], digest: str, path: epath.Path) -> None:
    """`digest` must be that of the tokenizer in the checkpoint's training."""
    if run["tokenizer_digest"] not in ("", digest):  # "" = imported without one
        raise UserError(
            f"the tokenizer does not match the checkpoint: '{path}' was trained with "
            f"{run['tokenizer_digest']}, this run has {digest}. Start a new run in another "
            "workdir, or set config.data.tokenizer.path to the tokenizer it was trained with, kept "
            f"as prepared/…/{run['tokenizer_digest']}/tokenizer.model in its config.data.data_dir"
        )


# Parts of the model with a vector for each token.
_WORD_PARTS = ("token_embedding", "judge_network")


def know_words(parts: Sequence[str]) -> bool:
    """Whether parameters of these parts of a model (() = all) go with one tokenizer."""
    return not parts or any(part in _WORD_PARTS for part in parts)


def of_parts(names: Iterable[str], parts: Sequence[str]) -> list[str]:
    """The parameters, of `names`, that belong to these parts of a model; () = all."""
    return [name for name in names if not parts or name.partition("/")[0] in parts]


def check_parts(parts: Sequence[str], stored: Shapes, wanted: Shapes, path: epath.PathLike) -> None:
    """The checkpoint must have every parameter of the model's `parts`, in its shape."""
    known = list(dict.fromkeys(name.partition("/")[0] for name in wanted))
    for part in parts:
        check_known(part, known, f"init_parts: '{part}' is not a part of the model")
    differ = [
        f"{name} (there {stored.get(name, 'none')}, here {wanted[name]})"
        for name in of_parts(wanted, parts)
        if stored.get(name) != wanted[name]
    ]
    if differ:
        raise UserError(
            f"init_from='{path}' does not fit init_parts={tuple(parts)}: "
            f"{workdirs.listed(differ)}. Give these parts the sizes that it was trained with"
        )


def without_lacking_parts(wanted: Mapping[str, Any], stored: Shapes) -> dict[str, Any]:
    """The parameters `wanted`, without the optional parts of which a checkpoint has none."""
    there = {name.partition("/")[0] for name in stored}
    lacking = set(OPTIONAL_PARTS) - there
    return {name: leaf for name, leaf in wanted.items() if name.partition("/")[0] not in lacking}


def without_unused_parts(stored: Shapes, wanted: Shapes, path: epath.Path) -> Shapes:
    """The arrays of a state, without those of optional parts that a run has no use for.

    Runs once had all parts, whatever their objectives. Process 0 says how many are left out.
    """
    unused = {
        name: part
        for name in stored.keys() - wanted.keys()
        for part in OPTIONAL_PARTS
        if part in name.split("/")
    }
    if unused and jax.process_index() == 0:
        parts = ", ".join(part for part in OPTIONAL_PARTS if part in unused.values())
        print(
            f"{len(unused)} arrays of '{path}' are left out, since nothing trains these parts of "
            f"the model: {parts}",
            file=sys.stderr,
        )
    return {name: shape for name, shape in stored.items() if name not in unused}


def check_same_shapes(stored: Shapes, wanted: Shapes, path: epath.Path) -> None:
    """The checkpoint's names and shapes must be the wanted ones."""
    differences = {
        "missing": [name for name in wanted if name not in stored],
        "extra": [name for name in stored if name not in wanted],
        "of another shape": [
            f"{name} (there {stored[name]}, here {wanted[name]})"
            for name in wanted
            if stored.get(name, wanted[name]) != wanted[name]
        ],
    }
    parts = [f"{what} {workdirs.listed(names)}" for what, names in differences.items() if names]
    if parts:
        raise UserError(
            f"checkpoint '{path}' does not fit this config: {'; '.join(parts)}. "
            "Give the config and the preset that it was trained with"
        )


def shapes(tree: Any) -> Shapes:
    """{name: shape} of a tree's leaves."""
    return {
        # Orbax stores attributes, keys and indices all as strings.
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }

"""Config and data validation, run before anything compiles.

Each room checks its own settings. The functions here combine those checks, and every entry point
calls one of them at its start.
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from igerg_jax import objectives, optim, similarity, text_labeller
from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.constraints import Range, check_choice, check_constraints, check_whole_numbers
from igerg_jax.data import config_checks, datasets, mixtures
from igerg_jax.decoding import reranking, search
from igerg_jax.errors import UserError, check_all
from igerg_jax.models import igerg, settings, vision
from igerg_jax.parallel import sharding
from igerg_jax.run import checkpoint, workdirs
from igerg_jax.setup import Setup, base_key, set_up

TRAIN_RANGES = (
    Range("batch_size", at_least=1),
    Range("steps", at_least=1),
    Range("accumulate_steps", at_least=1),
    Range("log_every_steps", at_least=1),
    Range("evaluate_every_steps", at_least=0),
    Range("checkpoint_every_steps", at_least=0),
    Range("keep_checkpoints", at_least=1),
    Range("max_consecutive_skips", at_least=1),
    Range("stall_seconds", at_least=0),
)
EVALUATE_RANGES = (
    Range("batch_size", at_least=1),
    Range("examples", at_least=0),
    Range("generated_examples", at_least=0),
    Range("following_examples", at_least=0),
    Range("progress_examples", at_least=0),
)
GENERATE_RANGES = (Range("examples", at_least=0),)  # `search.Settings` has the others
COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
PROFILE_RANGES = (Range("after_steps", at_least=0), Range("steps", at_least=0))


def check_training(config: Any, starts: bool) -> None:
    """Raises UserError if a run of `config` could not train, evaluate or save.

    Args:
      starts: the run has no checkpoint yet, so the source of its first parameters is checked too.
    """
    is_synthetic = config.data.dataset == datasets.SYNTHETIC
    check_values(config)
    setup = _check_model(config, parts=objectives.parts(config))
    check_all(
        lambda: _check_step_batch(config, setup.mesh),
        lambda: _check_evaluation_batch(config, setup.mesh),
    )
    text_labeller.of_config(config)
    similarity.check(config)
    if config.train.wandb_project and not importlib.util.find_spec("wandb"):
        raise UserError(
            f"train.wandb_project={config.train.wandb_project!r} needs wandb: pip install "
            "-r requirements-wandb.txt, or leave it empty"
        )
    if not is_synthetic:
        mixtures.check_start(config)
    if not starts:
        return
    if config.init_from:
        checkpoint.check_init(config.init_from, setup, config.init_parts)
    elif config.name == "finetune":
        raise UserError(
            "fine-tuning starts from a checkpoint; add --config.init_from=WORKDIR, the folder of "
            "a pre-training run such as runs/pretrain-local"
        )
    elif objectives.need_reference(config):
        raise UserError(
            "preference_weight and policy_weight of objectives.emotional_response are for a model "
            "that responds already: start from its checkpoint (--config.init_from=DIR)"
        )
    elif config.model.vision.frozen and not is_synthetic:
        raise UserError(
            "model.vision.frozen=True would keep random weights: start from a checkpoint that has "
            "the vision tower (--config.init_from=DIR), or train it "
            "(--config.model.vision.frozen=False)"
        )


def check_values(config: Any) -> None:
    """Raises UserError for each value that no run of `config` could have; traces nothing."""
    profile = functools.partial(check_constraints, "profile", config.profile, PROFILE_RANGES)
    retention = functools.partial(checkpoint.check_retention, config)
    check_all(*_of_step(config), *_of_evaluation(config), profile, retention)


def check_step(config: Any, devices: Any | None = None) -> Mesh:
    """Raises UserError if the training step could not be built; returns the mesh.

    Args:
      devices: those that the step is compiled for; None = all of this machine's.
    """
    check_all(*_of_step(config))
    mesh = _check_model(config, devices).mesh
    _check_step_batch(config, mesh)
    return mesh


def check_examples(config: Any) -> None:
    """Raises UserError if `config` could not produce examples to show, on whatever machine."""
    check_all(*_of_model(config), functools.partial(objectives.check, config))
    mixtures.check_start(config)


def check_model(config: Any) -> None:
    """Raises UserError if a value under `config.model` or `config.data` is not allowed."""
    check_all(*_of_model(config))


def check_inference(config: Any) -> None:
    """Raises UserError if `config` could not be used to evaluate a checkpoint or to generate."""
    check_all(*_of_model(config), *_of_evaluation(config))
    _check_evaluation_batch(config, _check_model(config).mesh)
    text_labeller.of_config(config)
    similarity.check(config)


def check_data(dataset: datasets.Dataset, config: Any) -> None:
    """Raises UserError if a dataset does not fit the config, or lacks a split or what an
    objective needs."""
    if config.data.dataset != datasets.SYNTHETIC:  # which has all that objectives need
        mixtures.check(dataset, config)


def check_evaluation_data(
    dataset: datasets.Dataset, config: Any, keys: Sequence[str] = mixtures.SPLIT_KEYS
) -> None:
    """Raises UserError if there is nothing to evaluate or to respond to.

    Args:
      keys: the keys of `config.data` that name the splits used. An evaluation also
        uses the training split, to count its words.
    """
    if not dataset.split_names:
        raise UserError(f"data.dataset is '{config.data.dataset}': there is nothing to evaluate on")
    mixtures.check_splits(dataset, config, keys)


# Checks of a config's values alone. They are quick, so all mistakes are reported together, before
# the model is traced.
def _of_model(config: Any) -> list[Callable[[], object]]:
    model, partial = config.model, functools.partial
    places = igerg.EMOTION_EMBEDDINGS
    return [
        partial(check_whole_numbers, config),
        partial(config_checks.check, config.data),
        partial(check_constraints, "model", model, settings.CONSTRAINTS),
        partial(check_choice, "model.emotion_embedding", model.emotion_embedding, places),
        partial(check_choice, "model.vision.kind", model.vision.kind, vision.TOWERS),
        partial(_check_dtype, model.compute_dtype),
        *(
            partial(settings.check_heads, part, model[part].width, model[part].heads)
            for part in ("text", "judge")  # a vision tower checks its own
        ),
    ]


def _of_step(config: Any) -> list[Callable[[], object]]:
    return [
        functools.partial(check_constraints, "train", config.train, TRAIN_RANGES),
        *_of_model(config),
        functools.partial(objectives.check, config),
        functools.partial(_check_drawn_lengths, config),
        functools.partial(optim.check, config.optim),
    ]


def _of_evaluation(config: Any) -> list[Callable[[], object]]:
    return [
        functools.partial(check_constraints, "evaluate", config.evaluate, EVALUATE_RANGES),
        functools.partial(check_constraints, "generate", config.generate, GENERATE_RANGES),
        functools.partial(search.Settings.of, config),
        functools.partial(reranking.Reranking.of, config),
        functools.partial(_check_reversed, config),
    ]


def _check_reversed(config: Any) -> None:
    """A model of `data.reverse` writes contexts, which nothing here compares with people's."""
    counts = "evaluate.generated_examples evaluate.progress_examples generate.examples".split()
    given = [key for key in counts if workdirs.flatten(config)[key]]
    if config.data.reverse and given:
        raise UserError(
            f"data.reverse=True is for likelihoods alone: set {', '.join(given)} to 0, as "
            "configs/backward.py does"
        )


def _check_drawn_lengths(config: Any) -> None:
    """Responses that the model draws in training are as long as a batch's responses may be."""
    if config.data.length_buckets and objectives.need_reference(config):
        raise UserError(
            f"data.length_buckets={config.data.length_buckets} would cut the responses that "
            "preference_weight and policy_weight of objectives.emotional_response draw: set it "
            "to (), or both weights to 0"
        )


def _check_dtype(name: str) -> None:
    if name not in COMPUTE_DTYPES:
        raise UserError(f"model.compute_dtype='{name}' is none of {', '.join(COMPUTE_DTYPES)}")


def _check_model(
    config: Any, devices: Any | None = None, parts: tuple[str, ...] = igerg.OPTIONAL_PARTS
) -> Setup:
    # An existing tokenizer may have another vocabulary size; nothing else can differ.
    vocab_size = config.data.tokenizer.vocab_size
    setup = set_up(config, vocab_size, SENTENCEPIECE_IDS, devices, parts)
    try:
        jax.eval_shape(lambda: base_key(config))
    except ValueError as error:  # JAX's own message lists the known names
        raise UserError(f"train.prng: {error}") from error
    return setup


def _check_step_batch(config: Any, mesh: Mesh) -> None:
    train = config.train
    sharding.check_batch(train.batch_size, train.accumulate_steps, mesh, "train.batch_size")


def _check_evaluation_batch(config: Any, mesh: Mesh) -> None:
    sharding.check_batch(config.evaluate.batch_size, 1, mesh, "evaluate.batch_size")

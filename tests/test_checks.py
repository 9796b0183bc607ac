"""Bad values are refused from the config alone, before data are prepared or anything compiles."""

import ast
import math
import types

import jax
import pytest
import small

from igerg_jax import checks, optim
from igerg_jax.cli import modes
from igerg_jax.decoding import strategies
from igerg_jax.errors import UserError
from igerg_jax.models import vision
from igerg_jax.parallel import sharding
from igerg_jax.run import workdirs

STEP = {
    "mesh__fsdp=3": "fsdp=3.*8 devices",
    "train__batch_size=30": r"train\.batch_size=30 .*8 data shards.*multiple of 8",
    "train__accumulate_steps=0": "at least 1",
    "train__prng='foo'": r'train\.prng: .*"foo".*threefry2x32',
    "model__text__max_positions=8": r"model\.text\.max_positions=8",
    "model__judge__heads=3": "does not divide into heads=3",
    "data__feature_dim=0": "feature_dim",
    "objectives__emotional_response__estimator='x'": "estimator 'x' is not one of expected",
    "data__preprocessing='none'": r"data\.preprocessing 'none' is not one of augment, imagenet",
    "data__tokenizer__kind='bert'": r"data\.tokenizer\.kind 'bert' is not one of sentencepiece, b",
    "data__tokenizer__model_type='word'": r"model_type 'word' is not one of unigram, bpe",
    "optim__name='adam'": "optim.name 'adam' is not one of adamw, lion, adafactor",
    "optim__schedule='linear'": "optim.schedule 'linear' is not one of cosine",
    "optim__first_moment_dtype='int8'": "first_moment_dtype 'int8'",
    "model__text__heads=3": r"model\.text\.width=16 .* heads=3 \(model\.text\.heads\)",
    "model__text__attention='flash'": r"model\.text\.attention 'flash' is not one of xla, fused",
    "model__text__remat='some'": r"model\.text\.remat 'some' is not one of none, dots",
    "model__vision__gelu='quick'": r"model\.vision\.gelu 'quick' is not one of exact, tanh",
    "model__emotion_embedding='all'": r"model\.emotion_embedding 'all' is not one of none, input",
}
INFERENCE = {
    "mesh__fsdp=3": "fsdp=3.*8 devices",
    "evaluate__batch_size=30": r"evaluate\.batch_size=30",
    "generate__strategy='argmax'": "generate.strategy 'argmax'",
    "generate__no_repeat_ngram=-1": "generate.no_repeat_ngram=-1",
    "generate__max_tokens=17": "generate.max_tokens=17",
    "model__text__remat='most'": "'most'",
    "model__compute_dtype='float15'": "model.compute_dtype='float15'",
}
TRAINING = {
    "evaluate__best_mode='most'": "evaluate.best_mode 'most' is not one of min, max",
    "train__keep_checkpoints=0": "train.keep_checkpoints=0",
    "data__dataset='imagenet'": "imagenet",
    "data__mixtures={'odd': {'objectives': (), 'datasets': {'chitchat_peeps': 0.0}}}": (
        "mixtures.odd: weights must be positive numbers"
    ),
    "init_from='nowhere'": "no checkpoint in .*nowhere",
    "model__vision__frozen=True": r"model\.vision\.frozen=True.*--config\.init_from",
}


def make_config(**changes):
    return small.make_config(**{"generate__max_tokens": 6} | changes)


def changed(change: str):
    key, _, value = change.partition("=")
    return make_config(**{key: ast.literal_eval(value)})


@pytest.fixture(autouse=True)
def nothing_compiles(monkeypatch):
    def fail(*arguments, **options):
        pytest.fail("something was compiled")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)


@pytest.mark.parametrize(("change", "message"), STEP.items(), ids=list(STEP))
def test_a_step_that_could_not_be_built_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        checks.check_step(changed(change))


@pytest.mark.parametrize(("change", "message"), INFERENCE.items(), ids=list(INFERENCE))
def test_a_model_that_could_not_be_used_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        checks.check_inference(changed(change))


@pytest.mark.parametrize(
    ("change", "message"), [*TRAINING.items(), *INFERENCE.items(), *STEP.items()]
)
def test_a_run_that_could_not_train_evaluate_and_save_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        checks.check_training(changed(change), starts=True)


# What is any number, and what is checked where it is used: the mesh against the devices, and the
# processes before JAX starts.
ANY_NUMBER = {
    "seed",
    "objectives.emotional_response.consistency_start_step",
    "generate.length_penalty",
}
CHECKED_ELSEWHERE = ("mesh.", "distributed.")


def numbers(config) -> dict[str, float]:
    return {
        key: value
        for key, value in workdirs.flatten(config).items()
        if type(value) in (int, float) and not key.startswith(CHECKED_ELSEWHERE)
    }


@pytest.fixture
def without_model(monkeypatch):
    """Checks what needs no model; tracing its shapes takes most of a check's time."""
    mesh = sharding.make_mesh(make_config().mesh)
    monkeypatch.setattr(checks, "set_up", lambda *_: types.SimpleNamespace(mesh=mesh))


def is_refused(key: str, value: float) -> bool:
    """By the message that names both, with the decoding strategy that reads the key."""
    value = type(numbers(make_config())[key])(value)
    for strategy in strategies.STRATEGIES:
        config = make_config(generate__strategy=strategy)
        config.update_from_flattened_dict({key: value})
        try:
            checks.check_training(config, starts=True)
        except UserError as error:
            assert f"{key}={value} must be " in str(error)
            return True
    return False


def test_no_number_may_be_just_anything(without_model):
    taken = {key for key in numbers(make_config()) if not is_refused(key, -7)}
    assert taken == ANY_NUMBER


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_may_be_nan_or_infinite(value, without_model):
    floats = [key for key, value in numbers(make_config()).items() if isinstance(value, float)]
    assert all(is_refused(key, value) for key in floats) and len(floats) > 20


@pytest.mark.parametrize("value", [2**31, -(10**30)])
def test_no_whole_number_may_be_beyond_those_of_arrays(value, without_model):
    whole = [key for key, value in numbers(make_config()).items() if isinstance(value, int)]
    assert all(is_refused(key, value) for key in whole) and len(whole) > 40


# Names of the user's own, and paths that are created or looked into only for some datasets.
ANY_TEXT = set(
    """name preset compilation_cache_dir train.wandb_project data.data_dir data.bucket_copies_dir
    data.manual_dir""".split()
)
# Refused when the data, or the model that re-ranks, are opened; nothing has compiled by then.
REFUSED_ON_OPENING = set(
    """data.train_split data.eval_split data.test_split data.labels.path data.tokenizer.path
    data.tokenizer.mixture generate.mmi_checkpoint""".split()
)
READ_BY = {  # a key of model.vision that one tower alone reads
    "model.vision.stem": "vit",
    "model.vision.channel_norm": "resnet",
    "model.vision.pooling": "resnet",
}


def nonsense_is_refused(key: str) -> bool:
    """By a message that names both the key and its value."""
    config = make_config()
    if key in READ_BY:
        config.data.feature_dim, config.model.vision.kind = 0, READ_BY[key]
    config.update_from_flattened_dict({key: "nonsense"})
    try:
        checks.check_training(config, starts=True)
    except UserError as error:
        assert key in str(error) and "nonsense" in str(error), key
        return True
    return False


def test_no_text_may_be_just_anything(monkeypatch):
    def tower_alone(config, *_):
        of, data = config.model.vision, config.data
        vision.build(of, config.model.compute_dtype, data.image_size, data.feature_dim)
        return types.SimpleNamespace(mesh=mesh)

    mesh = sharding.make_mesh(make_config().mesh)
    monkeypatch.setattr(checks, "set_up", tower_alone)  # tracing the rest takes long
    flat = workdirs.flatten(make_config())
    texts = {key for key in flat if isinstance(flat[key], str) and not key.startswith("distrib")}
    taken = {key for key in texts if not nonsense_is_refused(key)}
    # Without wandb, that key is refused.
    assert taken | {"train.wandb_project"} == ANY_TEXT | REFUSED_ON_OPENING
    assert len(texts) > 35 and texts >= READ_BY.keys()


@pytest.mark.parametrize("dtype", ["int32", "float64", "str"])
def test_a_type_that_no_model_computes_in_is_refused(dtype):
    with pytest.raises(UserError, match=f"model.compute_dtype='{dtype}' is none of float32, bf"):
        checks.check_model(make_config(model__compute_dtype=dtype))


def test_a_check_of_sizes_makes_no_arrays():
    """Images of this size would take 13 terabytes."""
    config = make_config(data__feature_dim=0, data__image_size=2**21)
    config.model.vision.update(kind="vit", patch_size=2**18)
    checks.check_training(config, starts=True)


@pytest.mark.parametrize(
    "key",
    """train.batch_size train.steps train.log_every_steps evaluate.batch_size data.image_size
    model.vision.patch_size model.text.max_positions model.text.width model.judge.heads
    optim.warmup_steps objectives.text_denoising.mean_span_tokens
    objectives.emotional_response.temperature_start""".split(),
)
def test_zero_is_refused_where_it_would_divide_or_leave_nothing(key, without_model):
    assert is_refused(key, 0)


@pytest.mark.parametrize(
    "key",
    """model.text.dropout_rate model.vision.dropout_rate optim.ema_decay optim.b1 optim.b2
    objectives.masked_multimodal.mask_fraction objectives.text_denoising.mask_fraction
    objectives.emotional_response.face_dropout data.augment.colour_jitter""".split(),
)
def test_one_is_refused_for_a_fraction_that_must_leave_something(key, without_model):
    assert is_refused(key, 1.0)


def test_all_mistakes_are_said_at_once_and_before_the_model_is_traced(monkeypatch):
    monkeypatch.setattr(checks, "set_up", lambda *_: pytest.fail("the model was traced"))
    changes = {
        "train.batch_size": 0,
        "train.log_every_steps": 0,
        "optim.name": "adam",
        "generate.beams": 0,
        "model.text.remat": "some",
        "model.judge.heads": 3,
        "evaluate.best_mode": "most",
        "profile.steps": -1,
    }
    with pytest.raises(UserError) as found:
        checks.check_training(
            make_config(**{key.replace(".", "__"): value for key, value in changes.items()}), True
        )
    lines = str(found.value).splitlines()
    assert len(lines) == len(changes)
    assert all(sum(key in line for line in lines) == 1 for key in changes)


def test_a_short_trial_warms_up_for_a_part_of_it(without_model):
    for steps in (1, 2, 9, 20):
        config = make_config(train__steps=steps, optim__warmup_steps=20)
        checks.check_training(config, starts=True)
        assert optim.warmup_steps(config.optim, steps) == steps // 10
        rate = optim.schedule(config.optim, steps)
        assert all(0 <= rate(step) <= config.optim.peak_learning_rate for step in range(steps))
    config = make_config(train__steps=21, optim__warmup_steps=20)
    assert optim.warmup_steps(config.optim, 21) == 20


@pytest.mark.parametrize("metric", ["bleu_4", "emotion_following", "loss"])
def test_a_best_metric_that_training_does_not_measure_is_refused(metric, without_model):
    with pytest.raises(UserError, match=f"best_metric '{metric}' .* response_perplexity"):
        checks.check_training(make_config(evaluate__best_metric=metric), starts=True)


def test_data_are_not_prepared_for_a_bad_config(tmp_path, monkeypatch):
    """Nor is anything written: the modes check first."""

    def fail(config):
        pytest.fail("data were prepared")

    monkeypatch.setattr(modes.trained_run.datasets, "open_dataset", fail)
    config, workdir = make_config(generate__no_repeat_ngram=-1), modes.epath.Path(tmp_path) / "run"
    for mode in (modes.train, modes.evaluate, modes.generate_samples):
        with pytest.raises(UserError, match=r"generate\.no_repeat_ngram=-1"):
            mode(config, *(() if mode is modes.train else (workdir,)), workdir)
    with pytest.raises(UserError, match=r"generate\.no_repeat_ngram=-1"):
        modes.generate_once(config, workdir, [("Hi!", None)], None, None)
    with pytest.raises(UserError, match=r"optim\.name 'adam'"):
        modes.compile_step(make_config(optim__name="adam"), "", 1, None, False)
    assert not workdir.exists()


def test_fine_tuning_needs_something_to_start_from():
    config = make_config(name="finetune")
    with pytest.raises(UserError, match=r"--config\.init_from=WORKDIR"):
        checks.check_training(config, starts=True)
    checks.check_training(config, starts=False)  # its newest checkpoint


def test_a_good_config_passes_and_no_objective_is_refused():
    config = make_config()
    checks.check_training(config, starts=True)
    checks.check_inference(config)
    with pytest.raises(UserError, match="every objective's weight is 0"):
        checks.check_step(small.only(config))


def test_the_step_is_checked_against_the_devices_that_it_is_compiled_for():
    config = make_config(mesh__fsdp=4)
    with pytest.raises(UserError, match="does not fit 2 devices"):
        checks.check_step(config, jax.devices()[:2])
    assert checks.check_step(config, jax.devices()[:4]).shape["fsdp"] == 4


@pytest.mark.parametrize("check", [checks.check_model, checks.check_examples])
def test_values_of_the_model_are_checked_where_nothing_is_trained(check):
    check(make_config())
    with pytest.raises(UserError, match=r"attention 'flash'.*\n.*kind 'clip' is not one of vit"):
        check(make_config(model__text__attention="flash", model__vision__kind="clip"))


def test_inference_does_not_depend_on_how_a_model_is_optimised(monkeypatch):
    """Neither its settings are read, nor is an optimizer built."""
    monkeypatch.setattr(optim, "optimizer", lambda *_: pytest.fail("an optimizer was built"))
    config = small.only(make_config(optim__name="adam", train__batch_size=7))
    checks.check_inference(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model__vision__kind="clip", data__feature_dim=0), "'clip' is not one of vit"),
        (dict(model__vision__tokens_per_image=2), "'features' makes 1 token"),
        (dict(objectives__image_text_contrastive__negatives="all"), "negatives 'all' is not one"),
        (
            dict(
                objectives__image_text_contrastive__negatives="slice",
                objectives__image_text_contrastive__weight=1.0,
                mesh__dcn=-1,
                mesh__data=8,
            ),
            "mesh.dcn=-1: .* give that number",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        checks.check_step(small.make_config(**changes))

"""Settings for every test, and the small config and batch that most tests use.

The environment is set before JAX is imported and is inherited by processes that tests start.
"""

from __future__ import annotations

import gc
import getpass
import os
import pathlib
import sys
import tempfile
from importlib.metadata import version
from typing import TYPE_CHECKING

# Eight devices, and half the compile time: tests run each program only briefly.
_FLAGS = [
    ("--xla_force_host_platform_device_count", "8"),
    ("--xla_backend_optimization_level", "0"),
    ("--xla_llvm_disable_expensive_passes", "true"),
    ("--xla_cpu_parallel_codegen_split_count", "1"),  # small modules are not worth dividing
]
if version("jaxlib").startswith("0.10."):  # XLA aborts on unknown flags
    _FLAGS.append(("--xla_cpu_use_fusion_emitters", "false"))
for _flag, _value in _FLAGS:
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# [B, D] + [D] must be broadcast explicitly: most shape bugs are silent broadcasts.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# Lowered programs do not say which line each operation comes from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Compiled programs are cached between runs, which makes the next run of the tests faster.
_CACHE = pathlib.Path(tempfile.gettempdir()) / f"igerg_jax-tests-{getpass.getuser()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import pytest

# Fixtures import what they need: the process that distributes the tests needs none of it.
if TYPE_CHECKING:
    import talking
    from ml_collections import ConfigDict

    from igerg_jax import batch as batch_lib
    from igerg_jax.evaluation.responder import Responder

# JAX makes so many objects, and keeps so many, that collecting garbage took a sixth of the time.
gc.set_threshold(100_000, 50, 50)


def pytest_collection_finish():
    """No garbage collection looks at what was imported."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish():
    """Nor does pytest's last one, which xdist interrupts."""
    gc.freeze()


def pytest_collection_modifyitems(config, items):
    """Skips tests against torch and transformers unless -m parity selects them."""
    if "parity" in config.option.markexpr:
        return
    skip = pytest.mark.skip(reason="compares with torch; run ./launch/test.sh --parity")
    for item in items:
        if "parity" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def keep_no_traces():
    """What a test has a command keep on disk does not outlast it: the next may patch the model."""
    yield
    if traces := sys.modules.get("igerg_jax.kept_traces"):
        traces.keep_in(None)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> pathlib.Path:
    """One folder for all datasets that a test session prepares, whichever worker does."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    folder = session / "data"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def drawn() -> talking.Drawn:
    """The smallest model, drawn at random."""
    import talking

    return talking.draw_model()


@pytest.fixture(scope="session")
def responder(drawn) -> Responder:
    """Talks with the model of `drawn`."""
    return drawn.make_responder()


@pytest.fixture
def tiny_config(data_dir) -> ConfigDict:
    """The local preset, shrunk to compile and train in seconds. Fresh for every test."""
    from configs import pretrain

    config = pretrain.get_config()
    config.data.update(
        dataset="chitchat_peeps/tiny",
        extra_test_splits=(),
        data_dir=str(data_dir),
        context_turns=3,
        context_tokens=32,
        response_tokens=16,
        image_size=32,
        prefetch_batches=2,
    )
    config.data.tokenizer.vocab_size = 512
    config.model.vision.update(patch_size=8, width=32, layers=1, heads=2, mlp_width=64)
    config.model.text.update(
        width=32, encoder_layers=1, decoder_layers=1, heads=2, mlp_width=64, max_positions=64
    )
    config.model.judge.update(width=16, layers=1, heads=2, mlp_width=32)
    config.model.contrastive_width = 16
    config.objectives.emotional_response.update(
        consistency_start_step=2, consistency_ramp_steps=2, temperature_anneal_steps=4
    )
    config.optim.warmup_steps = 2
    config.train.update(
        batch_size=8, steps=4, log_every_steps=1, evaluate_every_steps=4, checkpoint_every_steps=2
    )
    config.evaluate.update(batch_size=8, examples=16, following_examples=2)
    config.generate.update(max_tokens=8, candidates=2, examples=4)
    return config


@pytest.fixture
def special() -> batch_lib.SpecialIds:
    """The special token ids of `synthetic_batch`."""
    from igerg_jax import batch as batch_lib

    return batch_lib.SENTENCEPIECE_IDS


@pytest.fixture
def spec(tiny_config) -> batch_lib.BatchSpec:
    """The sizes of a batch of `tiny_config`."""
    from igerg_jax import batch as batch_lib

    return batch_lib.BatchSpec(
        batch_size=tiny_config.train.batch_size,
        # One image per context turn, and the response's own.
        images=tiny_config.data.context_turns + tiny_config.data.include_response_image,
        context_tokens=tiny_config.data.context_tokens,
        response_tokens=tiny_config.data.response_tokens,
        image_size=tiny_config.data.image_size,
        feature_dim=tiny_config.data.feature_dim,
    )


@pytest.fixture
def synthetic_batch(tiny_config, spec, special) -> dict:
    """Random NumPy arrays that satisfy the batch contract, with the sizes of `spec`."""
    from igerg_jax import batch as batch_lib

    vocab_size = tiny_config.data.tokenizer.vocab_size
    return batch_lib.synthetic(spec, special, vocab_size=vocab_size, seed=0)

"""What every entry point shares."""

import errno
import os
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
import small
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from configs import pretrain
from igerg_jax import kept_traces, setup
from igerg_jax.batch import SENTENCEPIECE_IDS, BatchSpec
from igerg_jax.errors import UserError
from igerg_jax.run import workdirs


@pytest.fixture
def cache_dir():
    """Reads and sets JAX's own setting, and puts it back."""
    before = jax.config.jax_compilation_cache_dir
    least_seconds = jax.config.jax_persistent_cache_min_compile_time_secs

    def between(config, already: str | None) -> str | None:
        jax.config.update("jax_compilation_cache_dir", already)
        setup.enable_compilation_cache(config)
        return jax.config.jax_compilation_cache_dir

    yield between
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_seconds)


def test_compiled_programs_are_kept_unless_told_otherwise(cache_dir):
    config = pretrain.get_config()
    assert cache_dir(config, None) == os.path.expanduser("~/.cache/igerg_jax/xla")
    assert cache_dir(config, "elsewhere") == "elsewhere"  # JAX_COMPILATION_CACHE_DIR
    config.compilation_cache_dir = ""
    assert cache_dir(config, None) is None


def test_where_compiled_programs_cannot_be_kept_one_line_says_so(cache_dir, tmp_path, capsys):
    config = pretrain.get_config()
    (tmp_path / "file").touch()
    for folder, reason in ((tmp_path / "file/x", "Not a directory"), ("/proc/x", "No such file")):
        config.compilation_cache_dir = str(folder)
        assert cache_dir(config, None) is None
        (line,) = capsys.readouterr().err.splitlines()
        assert f"not kept: cannot write to '{folder}'" in line and reason in line
    config.compilation_cache_dir = str(tmp_path / "new/deep")
    assert cache_dir(config, None) == str(tmp_path / "new/deep")
    assert not any((tmp_path / "new/deep").iterdir()) and not capsys.readouterr().err
    config.compilation_cache_dir = "~nobody-of-this-name/x"
    with pytest.raises(UserError, match="is nobody's home"):
        cache_dir(config, None)


def test_programs_are_read_from_a_folder_that_cannot_be_written_to(
    cache_dir, tmp_path, monkeypatch, capsys
):
    config = pretrain.get_config()
    config.compilation_cache_dir = str(tmp_path)

    def refuse(**options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # else it keeps none here
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", refuse)
        assert cache_dir(config, None) == str(tmp_path)
    assert capsys.readouterr().err.count("not kept") == 1
    compilation_cache.reset_cache()  # JAX opens it once
    jax.jit(lambda x: jnp.sort(x) * 3)(jnp.ones(7)).block_until_ready()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith("-cache")]


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_config_read_from_a_checkpoint_is_of_the_same_model(kind):
    """JSON has no tuples, and a model with lists cannot be hashed."""
    config = pretrain.get_config()
    config.model.vision.kind = kind
    models = [
        setup.build_model(each, 2048, SENTENCEPIECE_IDS)
        for each in (config, ConfigDict(workdirs.as_json(config)))
    ]
    assert hash(models[0]) == hash(models[1]) and models[0] == models[1]


def test_looped_layers_start_with_the_parameters_of_unrolled_ones():
    config = small.make_config(model__text__encoder_layers=2, model__text__scan_layers=False)
    model, spec = small.make_model(config), BatchSpec.of(config.data, 1)
    looped = setup.initialiser(config, model)
    assert looped.text.encoder.scan_layers and not model.text.encoder.scan_layers
    drawn = [jax.jit(lambda m=m: setup.init_params(config, m, spec))() for m in (looped, model)]
    small.assert_trees_equal(*map(nn.meta.unbox, drawn))


def test_functions_that_a_name_does_not_tell_apart_are_each_traced(tmp_path):
    config = small.make_config()
    here = setup.set_up(config, small.VOCAB_SIZE, SENTENCEPIECE_IDS, jax.devices()[:1])
    kept_traces.keep_in(tmp_path)

    def times(factor):
        return lambda model, x: x * factor

    def plus(number):
        def added(model, x):
            return x + number

        return added

    x = jnp.ones(3)
    for make in (times, plus):
        two, five = (setup.Jitted(here, make(number))(x) for number in (2, 5))
        assert (five - two == 3).all()


def test_what_calls_back_to_python_is_traced_and_not_kept(tmp_path, capfd):
    kept_traces.keep_in(tmp_path / "traced")

    def spoken(x):
        jax.debug.print("x is {x}", x=x)
        return x + 1

    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        assert jax.jit(setup.with_kept_trace("spoken", spoken))(jnp.int32(4)) == 5
    jax.effects_barrier()
    assert "x is 4" in capfd.readouterr().out
    assert not (tmp_path / "traced").exists()


def test_a_program_is_described_by_its_config_and_devices():
    def described(devices=1, **changes):
        config = small.make_config(**changes)
        chosen = jax.devices()[:devices]
        return setup.set_up(config, small.VOCAB_SIZE, SENTENCEPIECE_IDS, chosen).describe()

    changes = [dict(seed=7), dict(train__batch_size=16), dict(optim__b1=0.8), dict(devices=2)]
    texts = [described(**change) for change in ({}, *changes)]
    assert len({*texts}) == len(texts) and described() == texts[0]


def test_abstract_parameters_are_the_same_when_they_are_read_again(tmp_path, monkeypatch):
    config = small.make_config()
    model, spec = small.make_model(config), BatchSpec.of(config.data, 1)
    abstract = setup._abstract_params.__wrapped__  # without what this process remembers
    init = jax.eval_shape(lambda: setup.init_params(config, model, spec))
    plain = abstract(model, spec)
    assert jax.tree.structure(plain) == jax.tree.structure(init)
    kept_traces.keep_in(tmp_path)
    abstract(model, spec)
    with monkeypatch.context() as patch:
        patch.delattr(jax, "eval_shape")
        again = abstract(model, spec)
    assert jax.tree.structure(again) == jax.tree.structure(init)
    assert jax.tree.leaves(again) == jax.tree.leaves(init)

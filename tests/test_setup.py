"""What every entry point shares."""

import os

import flax.linen as nn
import jax
import pytest
import small
from ml_collections import ConfigDict

from configs import pretrain
from igerg_jax import setup
from igerg_jax.batch import SENTENCEPIECE_IDS, BatchSpec
from igerg_jax.errors import UserError
from igerg_jax.run import workdirs


@pytest.fixture
def cache_dir():
    """Reads and sets JAX's own setting, and puts it back."""
    before = jax.config.jax_compilation_cache_dir

    def between(config, already: str | None) -> str | None:
        jax.config.update("jax_compilation_cache_dir", already)
        setup.enable_compilation_cache(config)
        return jax.config.jax_compilation_cache_dir

    yield between
    jax.config.update("jax_compilation_cache_dir", before)


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

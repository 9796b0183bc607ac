"""Weights folders: what is exported is found, loads like a checkpoint, and brings its config."""

import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import small

from igerg_jax import manifests
from igerg_jax.cli import main
from igerg_jax.data import tokenizers
from igerg_jax.errors import UserError
from igerg_jax.evaluation import trained_run
from igerg_jax.run import checkpoint, weights_folder, workdirs
from igerg_jax.setup import set_up
from igerg_jax.tools.weights import parameters, sharing

VOCABULARY = 288
WORDS = [f"{a} {b} {c}" for a in "abcdefghz" for b in "ijklmnop" for c in "qrstuvwx"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(config, parameters, the weights folder) of a model that was drawn, not trained."""
    workdir = tmp_path_factory.mktemp("run")
    tokenizer = tokenizers.train_sentencepiece(WORDS, "unigram", VOCABULARY)
    tokenizer.save(workdir / workdirs.TOKENIZER_FILE)
    config = small.make_config(data__tokenizer__vocab_size=VOCABULARY, generate__beams=3)
    setup = set_up(config, tokenizer.vocab_size, tokenizer.special)
    params = jax.device_get(small.make_params(setup.model, small.make_batch(config)))
    parameters.write(workdir, params, config, tokenizer.digest)
    out = workdir / "shared"
    assert "M parameters" in sharing.export(str(workdir), str(out))
    return config, params, out


def test_it_loads_like_a_checkpoint_on_any_mesh_rounded_to_bfloat16(exported):
    config, params, out = exported
    run = trained_run.open_run(out, batch_size=16)
    rounded = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(x.dtype), params)
    small.assert_trees_equal(run.params, rounded)
    assert run.tokenizer.digest == checkpoint.read_run(run.folder)["tokenizer_digest"]
    config = config.copy_and_resolve_references()
    config.mesh.update(data=2, fsdp=2, tensor=2)
    run = trained_run.open_run(out, config)
    small.assert_trees_equal(run.params, rounded)
    expected = jax.tree.map(lambda leaf: leaf.sharding, run.setup.abstract_params)
    assert jax.tree.map(lambda leaf: leaf.sharding, run.params) == expected


def test_training_can_start_from_it_and_refuses_another_model(exported):
    config, params, out = exported
    setup = set_up(config, VOCABULARY, small.SPECIAL)
    taken, loaded = checkpoint.load_params(out, setup, initial=setup.abstract_params)
    assert loaded.initialised == loaded.skipped == ()
    assert jax.tree.structure(taken) == jax.tree.structure(params)
    other = config.copy_and_resolve_references()
    other.model.text.encoder_layers += 1
    with pytest.raises(UserError, match=r"of another model: model\.text\.encoder_layers"):
        checkpoint.load_params(out, set_up(other, VOCABULARY, small.SPECIAL))


def test_one_part_is_exported_alone_and_taken_by_training(exported, tmp_path):
    config, params, out = exported
    with pytest.raises(
        UserError, match=r"'tower' is not a part of the model; available: .*encoder"
    ):
        sharing.export(str(out), str(tmp_path / "no"), ["tower"])
    sharing.export(str(out), str(tmp_path / "part"), ["encoder"])
    arrays = weights_folder.read_arrays(workdirs.epath.Path(tmp_path / "part"))
    assert arrays and {name.partition("/")[0] for name in arrays} == {"encoder"}
    setup = set_up(config, VOCABULARY, small.SPECIAL)
    checkpoint.check_init(tmp_path / "part", setup, ("encoder",))
    initial = jax.tree.map(np.zeros_like, params)
    taken, _ = checkpoint.load_params(tmp_path / "part", setup, initial, parts=("encoder",))
    for part in params:
        whole = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(x.dtype), params[part])
        small.assert_trees_equal(taken[part], whole if part == "encoder" else initial[part])
    with pytest.raises(UserError, match="missing"):
        trained_run.open_run(tmp_path / "part", batch_size=16)


def test_a_damaged_file_is_named(exported, tmp_path):
    _, _, out = exported
    whole = (out / weights_folder.ARRAYS_FILE).read_bytes()
    for name in (weights_folder.RUN_FILE, workdirs.TOKENIZER_FILE):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    for content in (b"", whole[:100], whole[:-1]):
        (tmp_path / weights_folder.ARRAYS_FILE).write_bytes(content)
        with pytest.raises(UserError, match=r"model\.safetensors' is damaged"):
            trained_run.open_run(tmp_path, batch_size=16)
    (tmp_path / weights_folder.RUN_FILE).write_text("{")
    with pytest.raises(UserError, match=r"run\.json' is damaged"):
        trained_run.open_run(tmp_path, batch_size=16)


@pytest.mark.parametrize(
    "name", [weights_folder.ARRAYS_FILE, weights_folder.RUN_FILE, workdirs.TOKENIZER_FILE]
)
def test_one_changed_bit_is_noticed(exported, tmp_path, name):
    """But for a folder from before there were checksums; and the card may be written later."""
    _, _, out = exported
    copy = workdirs.epath.Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / weights_folder.CARD_FILE).write_text("# A model")
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"copy' is damaged: {name} differs from what.*export it"):
        checkpoint.find(copy)
    (copy / manifests.FILE).unlink()
    assert checkpoint.find(copy) == copy
    (copy / name).write_bytes((out / name).read_bytes())
    shutil.copy(out / manifests.FILE, copy)
    assert checkpoint.find(copy) == copy


def test_a_checkpoint_brings_its_config(exported, tmp_path, monkeypatch):
    """Of a weights folder, a workdir, its checkpoints folder and a step; overrides still apply."""
    config, _, out = exported
    (tmp_path / workdirs.CONFIG_FILE).write_text(config.to_json_best_effort())
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    places = out, tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "3"
    for place in places:
        argv = ["main.py", "--mode=generate", "--checkpoint", str(place)]
        values = main.parse([*argv, "--config.generate.max_tokens=5"])
        assert values.config.generate.beams == 3 and values.config.generate.max_tokens == 5
        assert (
            workdirs.model_differences(workdirs.as_json(values.config), workdirs.as_json(config))
            == []
        )
    with pytest.raises(UserError, match="no config beside"):
        main.parse(["main.py", "--mode=generate", f"--checkpoint={tmp_path / 'nowhere'}"])


def test_a_name_is_a_model_of_this_package_unless_there_is_such_a_path(tmp_path, monkeypatch):
    shipped = workdirs.epath.Path(tmp_path / "package")
    monkeypatch.setattr(weights_folder, "SHIPPED", shipped)
    arrays = {"a": np.ones(3, np.float32)}
    for folder in (shipped / "tiny", workdirs.epath.Path(tmp_path / "tiny")):
        folder.mkdir(parents=True)
        weights_folder.write(folder, arrays, {"step": 1}, ml_dtypes.bfloat16)
    assert weights_folder.shipped_names() == ["tiny"]
    assert checkpoint.find("tiny") == shipped / "tiny"
    monkeypatch.chdir(tmp_path)
    assert checkpoint.find("tiny") == checkpoint.absolute("tiny") != shipped / "tiny"
    with pytest.raises(UserError, match="comes with igerg_jax: tiny"):
        checkpoint.find("../package/tiny/nothing")

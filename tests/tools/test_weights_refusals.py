"""What would be taken in silence, and be wrong: refused in one message, and nothing is written."""

import json
import shutil

import byte_pairs
import jax
import ml_dtypes
import numpy as np
import pytest
import small
import weight_files as files
from safetensors.numpy import save_file

from igerg_jax.errors import UserError
from igerg_jax.run import checkpoint
from igerg_jax.tools.weights import exporting, importing, parameters, stablehlo
from igerg_jax.tools.weights.sources import open_source
from igerg_jax.training import train_state


@pytest.fixture
def bart(tmp_path):
    return files.write(tmp_path / "bart", files.BART_CONFIG, files.draw(files.bart_shapes()))


def refused(match: str, tmp_path, config, text="", vision="") -> None:
    with pytest.raises(UserError, match=match):
        importing.run(config, str(text), str(vision), str(tmp_path / "out"), False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_floats_of_every_width_keep_their_values(tmp_path, dtype):
    arrays = {name: x.astype(dtype) for name, x in files.draw(files.bart_shapes()).items()}
    folder = files.write(tmp_path / "bart", files.BART_CONFIG, arrays)
    importing.run(files.text_config(), str(folder), "", str(tmp_path / "out"), False)
    _, params = parameters.read(tmp_path / "out")
    found, bias = params["token_embedding"], params["encoder/layers/mlp/in/bias"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, arrays["model.shared.weight"].astype(np.float32))
    last = arrays["model.encoder.layers.1.fc1.bias"]
    np.testing.assert_array_equal(bias[1], last.astype(np.float32))


@pytest.mark.parametrize("outside", ["../part.safetensors", "{folder}/part.safetensors", 1, None])
def test_an_index_names_files_of_its_own_folder(bart, tmp_path, outside):
    for place in (bart, tmp_path):
        shutil.copy(bart / "model.safetensors", place / "part.safetensors")
    (bart / "model.safetensors").unlink()
    name = outside.format(folder=bart) if isinstance(outside, str) else outside
    index = {} if outside is None else {"weight_map": dict.fromkeys(files.bart_shapes(), name)}
    (bart / "model.safetensors.index.json").write_text(json.dumps(index))
    refused("no weight_map of files beside it", tmp_path, files.text_config(), bart)


def test_links_to_files_elsewhere_are_read(bart, tmp_path):
    """As Hugging Face's cache lays out a folder."""
    blob = (bart / "model.safetensors").rename(tmp_path / "blob")
    (bart / "model.safetensors").symlink_to(blob)
    importing.run(files.text_config(), str(bart), "", str(tmp_path / "out"), False)


def test_without_a_config_the_number_of_heads_is_not_guessed(bart, tmp_path):
    (bart / "config.json").unlink()
    refused("number of heads", tmp_path, files.text_config(), bart)
    for name, shapes in (("vit", files.vit_shapes()), ("siglip", files.siglip_shapes())):
        folder = files.write(tmp_path / name, {}, files.draw(shapes))
        (folder / "config.json").unlink()
        refused("number of heads", tmp_path, files.vision_config(), vision=folder)


def test_a_tensor_with_and_without_its_prefix_is_no_choice_of_ours(bart, tmp_path):
    arrays = files.draw(files.bart_shapes())
    arrays["shared.weight"] = arrays["model.shared.weight"] + 1
    save_file(arrays, bart / "model.safetensors")
    refused("tensors twice", tmp_path, files.text_config(), bart)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("head.probe", (3, 1, 16)), ("head.attention.in_proj_bias", (49,))],
)
def test_what_would_be_cut_off_does_not_fit(tmp_path, name, shape):
    arrays = files.draw(files.siglip_shapes() | {f"vision_model.{name}": shape})
    folder = files.write(tmp_path / "siglip", files.SIGLIP_CONFIG, arrays)
    changes = dict(class_token=False, gelu="tanh", norm_epsilon=1e-6)
    config = files.vision_config(**{f"model__vision__{k}": v for k, v in changes.items()})
    refused("vision_tower/pool/", tmp_path, config, vision=folder)


def test_a_vit_that_was_shown_other_numbers_is_refused(tmp_path):
    folder = files.write(tmp_path / "vit", files.VIT_CONFIG, files.draw(files.vit_shapes()))
    processor = folder / "preprocessor_config.json"
    processor.write_text(json.dumps(dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.5] * 3)))
    refused(r"image_mean=\[0.485", tmp_path, files.vision_config(), vision=folder)
    processor.write_text(json.dumps(dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)))
    importing.run(files.vision_config(), "", str(folder), str(tmp_path / "out"), False)


@pytest.mark.parametrize(
    ("scaling", "says"),
    [
        (dict(do_rescale=False), "do_rescale=False, our tower has True"),
        (dict(rescale_factor=1 / 127.5), "rescale_factor=0.0078"),
        (dict(rescale_factor="1/255"), "rescale_factor=1/255"),
        (dict(rescale_factor=None), "rescale_factor=None"),
    ],
)
def test_a_vit_that_was_shown_pixels_of_another_scale_is_refused(tmp_path, scaling, says):
    folder = files.write(tmp_path / "vit", files.VIT_CONFIG, files.draw(files.vit_shapes()))
    (folder / "preprocessor_config.json").write_text(json.dumps(scaling))
    refused(says, tmp_path, files.vision_config(), vision=folder)


def test_a_scale_that_was_rounded_is_the_same(tmp_path):
    folder = files.write(tmp_path / "vit", files.VIT_CONFIG, files.draw(files.vit_shapes()))
    scaling = dict(do_rescale=True, rescale_factor=0.00392156862745098)
    (folder / "preprocessor_config.json").write_text(json.dumps(scaling))
    importing.run(files.vision_config(), "", str(folder), str(tmp_path / "out"), False)


@pytest.mark.parametrize("processor", [["x"], "x", 3])
def test_a_processor_that_is_no_object_is_refused(tmp_path, processor):
    folder = files.write(tmp_path / "vit", files.VIT_CONFIG, files.draw(files.vit_shapes()))
    (folder / "processor_config.json").write_text(json.dumps(dict(image_processor=processor)))
    refused("image_processor is not a JSON object", tmp_path, files.vision_config(), vision=folder)


def test_processors_of_transformers_5_and_numbers_for_all_colours_are_read(tmp_path):
    folder = files.write(tmp_path / "vit", files.VIT_CONFIG, files.draw(files.vit_shapes()))
    processor = folder / "processor_config.json"
    processor.write_text(json.dumps(dict(image_processor=dict(image_mean=0.4, image_std=0.5))))
    refused("image_mean=0.4", tmp_path, files.vision_config(), vision=folder)
    processor.write_text(json.dumps(dict(image_processor=dict(image_mean=0.5, image_std=0.5))))
    importing.run(files.vision_config(), "", str(folder), str(tmp_path / "out"), False)


def test_barts_embeddings_come_with_barts_words(bart, tmp_path):
    byte_pairs.train(tmp_path / "bpe")
    shutil.copy(tmp_path / "bpe" / "tokenizer.json", bart)
    wanted = rf"kind=byte_level_bpe .*path={bart} .*vocab_size={small.VOCAB_SIZE}$"
    refused(wanted, tmp_path, files.text_config(), bart)
    report = importing.run(files.text_config(), str(bart), "", str(tmp_path / "out"), True)
    assert "embeddings belong to other tokens" in report


def test_what_was_cut_short_is_no_checkpoint(bart, tmp_path, monkeypatch):
    byte_pairs.train(tmp_path / "bpe")
    config = files.text_config(
        data__tokenizer__vocab_size=320, data__tokenizer__kind="byte_level_bpe"
    )
    config.data.tokenizer.path = str(tmp_path / "bpe")

    def full(*_):
        raise OSError("no space left on the disk")

    monkeypatch.setattr("igerg_jax.data.byte_level_bpe.ByteLevelBpeTokenizer.save", full)
    with pytest.raises(OSError, match="no space"):
        importing.run(config, str(bart), "", str(tmp_path / "out"), True)
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoint.find(tmp_path / "out")


def test_a_run_with_its_norms_elsewhere_does_not_start(bart, tmp_path):
    importing.run(files.text_config(), str(bart), "", str(tmp_path / "out"), False)
    config = files.text_config(model__text__norm_first=True)
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), setup.abstract_state.params)
    with pytest.raises(UserError, match=r"model.text.norm_first \(there False, here True\)"):
        checkpoint.load_params(tmp_path / "out", setup, zeros, "")


def test_a_compressed_npz_that_is_damaged(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, pos_embedding=np.arange(4000, dtype=np.float32))
    content = bytearray(path.read_bytes())
    for at in range(300, len(content) - 200, 3):
        content[at] ^= 0x5A  # zlib cannot go on, before any checksum is compared
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        open_source(str(path), "").read("pos_embedding")


def test_8_bit_floats_are_named(bart, tmp_path):
    header = {"x": dict(dtype="F8_E4M3", shape=[2], data_offsets=[0, 2])}
    text = json.dumps(header).encode()
    (bart / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0\0")
    with pytest.raises(UserError, match=r"x cannot be read: .* 8-bit"):
        open_source(str(bart), "").read("x")


def test_a_config_that_is_a_folder_and_one_of_no_sense(bart, tmp_path):
    config = bart / "config.json"
    config.write_text(json.dumps(files.BART_CONFIG | {"model_type": ["bart"]}))
    refused("of type", tmp_path, files.text_config(), bart)
    config.unlink()
    config.mkdir()
    refused("cannot read", tmp_path, files.text_config(), bart)


@pytest.mark.parametrize(
    "write",
    [
        lambda out: importing.run(files.text_config(), "nowhere", "", out, False),
        lambda out: exporting.export("nowhere", out),
        lambda out: stablehlo.export("nowhere", out),
    ],
    ids=["import", "hf", "stablehlo"],
)
def test_a_file_is_no_folder_to_write(tmp_path, write):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below", "gs://bucket/file"):
        with pytest.raises(UserError, match=r"--out=.* (is a file|cannot be created|not a local)"):
            write(str(out))

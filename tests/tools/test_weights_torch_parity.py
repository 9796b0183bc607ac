"""PyTorch's own files: read where they hold tensors and nothing else."""

import argparse
import collections
import json
import pathlib

import numpy as np
import parity
import pytest
import weight_files as files

from igerg_jax.errors import UserError
from igerg_jax.tools.weights import importing, parameters

pytestmark = pytest.mark.parity


def as_torch(arrays: dict[str, np.ndarray]):
    torch, _ = parity.libraries()
    return collections.OrderedDict((name, torch.tensor(x)) for name, x in arrays.items())


def fairseq(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of fairseq's model.pt."""
    own = {n.removeprefix("model."): x for n, x in arrays.items() if n != "final_logits_bias"}
    table = own.pop("shared.weight")
    own |= {f"{side}.embed_tokens.weight": table for side in ("encoder", "decoder")}
    one = np.ones(1, np.float32)
    return own | {"encoder.version": one, "decoder.output_projection.weight": table}


ARGS = dict(
    encoder_embed_dim=16,
    encoder_layers=2,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_embed_dim=32,
    encoder_normalize_before=False,
    activation_fn="gelu",
    no_scale_embedding=True,
)


def check(config, arrays, path, out) -> None:
    importing.run(config, str(path), "", str(out), False)
    _, params = parameters.read(out)
    np.testing.assert_array_equal(params["token_embedding"], arrays["model.shared.weight"])
    query = params["encoder/layers/self_attention/query/kernel"][1].reshape(16, 16)
    name = "model.encoder.layers.1.self_attn.q_proj.weight"
    np.testing.assert_array_equal(query, arrays[name].T)


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_model_bin(tmp_path, zipped):
    torch, _ = parity.libraries()
    arrays = files.draw(files.bart_shapes())
    (tmp_path / "config.json").write_text(json.dumps(files.BART_CONFIG))
    torch.save(
        as_torch(arrays),
        tmp_path / "pytorch_model.bin",
        _use_new_zipfile_serialization=zipped,
    )
    check(files.text_config(), arrays, tmp_path, tmp_path / "out")


def test_fairseqs_model_pt(tmp_path):
    torch, _ = parity.libraries()
    arrays = files.draw(files.bart_shapes())
    path = tmp_path / "model.pt"
    whole = {"args": argparse.Namespace(**ARGS), "model": as_torch(fairseq(arrays))}
    torch.save(whole, path)
    check(files.text_config(), arrays, path, tmp_path / "out")
    whole["args"].encoder_normalize_before = True
    torch.save(whole, path)
    with pytest.raises(UserError, match="norms come before"):
        importing.run(files.text_config(), str(path), "", str(tmp_path / "no"), False)


def test_a_file_with_any_other_class_is_refused(tmp_path):
    torch, _ = parity.libraries()
    path = tmp_path / "model.pt"
    torch.save({"model": as_torch({"x": np.ones(1)}), "done": pathlib.PurePosixPath("x")}, path)
    with pytest.raises(UserError, match="more than tensors"):
        importing.run(files.text_config(), str(path), "", str(tmp_path / "out"), False)


def test_torchvisions_resnet50(tmp_path):
    """By torchvision's names, and by timm's, which are the same."""
    torch, library = parity.libraries()
    theirs = library.ResNetForImageClassification(library.ResNetConfig(num_labels=1000))
    state = theirs.state_dict()
    named = {}
    for name, tensor in state.items():
        new = name.replace("resnet.embedder.embedder.convolution", "conv1")
        new = new.replace("resnet.embedder.embedder.normalization", "bn1")
        new = new.replace("classifier.1", "fc").replace("resnet.encoder.stages.", "layer")
        if new.startswith("layer"):
            stage, _, block, *rest = new.removeprefix("layer").split(".")
            inner = ".".join(rest).replace("shortcut.convolution", "downsample.0")
            inner = inner.replace("shortcut.normalization", "downsample.1")
            for i in range(3):
                inner = inner.replace(f"layer.{i}.convolution", f"conv{i + 1}")
                inner = inner.replace(f"layer.{i}.normalization", f"bn{i + 1}")
            new = f"layer{int(stage) + 1}.{block}.{inner}"
        named[new] = tensor
    assert {"layer4.2.bn3.running_var", "layer1.0.downsample.0.weight", "fc.bias"} <= named.keys()
    torch.save(named, tmp_path / "resnet50.pth")
    config = files.vision_config()
    config.model.vision.kind = "resnet50"
    importing.run(config, "", str(tmp_path / "resnet50.pth"), str(tmp_path / "a"), False)
    theirs.save_pretrained(tmp_path / "hf")
    importing.run(config, "", str(tmp_path / "hf"), str(tmp_path / "b"), False)
    _, one = parameters.read(tmp_path / "a")
    _, other = parameters.read(tmp_path / "b")
    assert one.keys() == other.keys() and len(one) == 267
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)

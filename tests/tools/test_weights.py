"""Pre-trained weights in: what is taken, what is refused, and that nothing is executed."""

import contextlib
import json
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
import small
import weight_files as files
from safetensors.numpy import save_file

from configs import pretrain
from igerg_jax.errors import UserError
from igerg_jax.run import checkpoint
from igerg_jax.tools.weights import __main__ as program
from igerg_jax.tools.weights import importing, matching, parameters
from igerg_jax.tools.weights.bart import BART
from igerg_jax.tools.weights.sources import Source
from igerg_jax.training import train_state


@pytest.fixture
def bart(tmp_path):
    arrays = files.draw(files.bart_shapes())
    return files.write(tmp_path / "bart", files.BART_CONFIG, arrays), arrays


def load(config, path):
    """(parameters by name, what was taken) of a run that starts from `path`."""
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), setup.abstract_state.params)
    params, loaded = checkpoint.load_params(path, setup, zeros, "a run's tokenizer")
    names = checkpoint.shapes(params)
    return dict(zip(names, map(np.asarray, jax.tree.leaves(params)), strict=True)), loaded


@pytest.mark.parametrize("scan", [False, True])
def test_a_run_starts_from_an_imported_bart(bart, tmp_path, scan):
    folder, arrays = bart
    config = files.text_config(model__text__scan_layers=scan)
    report = importing.run(config, str(folder), "", str(tmp_path / "out"), False)
    params, found = load(config, tmp_path / "out")
    assert not found.skipped
    np.testing.assert_array_equal(params["token_embedding"], arrays["model.shared.weight"])
    np.testing.assert_array_equal(
        params["decoder_position_embedding"],
        arrays["model.decoder.embed_positions.weight"][2:],
    )
    for layer in range(2):
        at = f"model.encoder.layers.{layer}"
        query = params["encoder/layers/self_attention/query/kernel"][layer]
        np.testing.assert_array_equal(
            query.reshape(16, 16), arrays[f"{at}.self_attn.q_proj.weight"].T
        )
        np.testing.assert_array_equal(
            params["encoder/layers/mlp/in/kernel"][layer], arrays[f"{at}.fc1.weight"].T
        )
    assert not params["type_embedding"].any() and "type_embedding" in report
    assert "final_logits_bias" in report


def run_main(capsys, *arguments: str) -> tuple[int, str]:
    code = program.main(["weights", *arguments])
    return code, capsys.readouterr().err


def test_errors_are_one_message_and_exit_code_2(capsys, tmp_path):
    config = "--config=configs/pretrain.py"
    for arguments, says in (
        ((), "import, export, push or pull"),
        (("import", config), "--out is missing"),
        (("import", config, "--out=x"), "nothing to import"),
        (("import", config, "--out=x", f"--text={tmp_path}/bart"), "facebook/bart-base"),
        (("import", config, "--out=x", "--config.model.txt=1"), "unknown config key"),
        (("export", "--format=onnx"), "hf"),
        (("export",), "--checkpoint is missing"),
    ):
        code, message = run_main(capsys, *arguments)
        assert code == 2 and says in message and message.count("\n") == 1, message


def test_nothing_is_written_where_something_does_not_fit(bart, tmp_path):
    folder, _ = bart
    with pytest.raises(UserError, match="vocabulary"):
        config = files.text_config(data__tokenizer__vocab_size=small.VOCAB_SIZE + 1)
        importing.run(config, str(folder), "", str(tmp_path / "out"), False)
    assert not (tmp_path / "out").exists()


def test_bart_base_fills_the_paper_preset_but_for_the_named_additions():
    """By shapes alone: nothing of BART-base is left over, and what it lacks is this list."""
    config = pretrain.get_config("paper")
    config.data.tokenizer.vocab_size = 50265
    shapes = files.bart_shapes(50265, 1024, 768, 3072, (6, 6))
    assert sum(np.prod(shape) for shape in shapes.values()) == 139_470_681
    source = Source(pathlib.Path("bart-base"), shapes, lambda name: np.zeros(shapes[name]), {})
    wanted = importing.parameter_shapes(config)
    plan = matching.plan(BART, source, wanted, resize_vocabulary=False)
    new = importing.check_parameters(wanted, {"text": plan})
    taken = {theirs for piece in plan.pieces for theirs in piece.theirs}
    assert taken | {"final_logits_bias"} == shapes.keys()
    assert not any(piece.adapted for piece in plan.pieces)
    assert set(plan.derived) == {"type_embedding", "turn_embedding"}
    assert {name.split("/")[0] for name in new} == {
        "cls_embedding",
        "image_slot_embedding",
        "image_projection",
        "emotion_head",
        "sequence_emotion_head",
        "masked_token_head",
        "judge_network",
        "contrastive_image",
        "contrastive_text",
        "contrastive_log_scale",
        "contrastive_bias",
        "vision_tower",  # ResNet-50's, by --vision
    }
    assert new["vision_tower/stem/kernel"] == "no --vision was given"


@pytest.mark.slow
def test_bart_base_takes_seconds_and_less_than_thrice_its_size(tmp_path):
    """CPU seconds, which other work on the machine does not lengthen much; and peak memory."""
    shapes = files.bart_shapes(50265, 1024, 768, 3072, (6, 6))
    config = dict(files.BART_CONFIG, vocab_size=50265, d_model=768, max_position_embeddings=1024)
    config |= dict.fromkeys(("encoder_layers", "decoder_layers"), 6)
    config |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 12)
    config |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 3072)
    files.write(tmp_path / "bart", config, files.draw(shapes))
    size = (tmp_path / "bart" / "model.safetensors").stat().st_size
    command = """
import pathlib, re, resource, sys
from igerg_jax.tools.weights import __main__ as program
assert program.main(sys.argv) == 0
used = resource.getrusage(resource.RUSAGE_SELF)
peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
status = pathlib.Path("/proc/self/status")
if status.exists():  # on Linux ru_maxrss starts at what the parent process held
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) * 1024
print(used.ru_utime + used.ru_stime, peak)
"""
    arguments = ["--config=configs/pretrain.py:paper", "--config.data.tokenizer.vocab_size=50265"]
    arguments += [f"--text={tmp_path}/bart", f"--out={tmp_path}/out"]
    done = subprocess.run(
        [sys.executable, "-c", command, "import", *arguments],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    seconds, peak = map(float, done.stdout.split("\n")[-2].split())
    print(f"{seconds:.1f} CPU seconds, {peak / size:.2f} times {size / 2**20:.0f} MiB")
    assert seconds < 20
    assert peak < 3 * size


def test_positions_and_vocabularies_of_another_length(bart, tmp_path):
    folder, arrays = bart
    config = files.text_config(model__text__max_positions=24)
    config.data.tokenizer.vocab_size = small.VOCAB_SIZE + 2
    with pytest.raises(UserError, match="--resize_vocabulary"):
        importing.run(config, str(folder), "", str(tmp_path / "out"), False)
    report = importing.run(config, str(folder), "", str(tmp_path / "out"), True)
    assert "16 positions interpolated to 24" in report and "2 tokens added to 40" in report
    _, params = parameters.read(tmp_path / "out")
    old = arrays["model.encoder.embed_positions.weight"][2:]
    new = params["encoder_position_embedding"]
    np.testing.assert_array_equal(new[[0, -1]], old[[0, -1]])
    between = old[0] + (old[1] - old[0]) * 15 / 23
    np.testing.assert_allclose(new[1], between, rtol=1e-5)
    table = params["token_embedding"]
    np.testing.assert_array_equal(table[:-2], arrays["model.shared.weight"])
    assert np.abs(table[-2:] - table[:-2].mean(0)).max() < 0.2

    config = files.text_config(model__text__max_positions=14)
    report = importing.run(config, str(folder), "", str(tmp_path / "short"), False)
    assert "the first 14 of 16 positions" in report
    _, params = parameters.read(tmp_path / "short")
    np.testing.assert_array_equal(params["encoder_position_embedding"], old[:14])


def test_a_patch_grid_of_another_size_is_interpolated(tmp_path):
    arrays = files.draw(files.vit_shapes(patches=16))
    # A ramp from left to right: interpolated, it is still one.
    grid = np.broadcast_to(np.arange(4.0), (4, 4)).reshape(16, 1)
    arrays["embeddings.position_embeddings"][0, 1:] = grid
    folder = files.write(tmp_path / "vit", files.VIT_CONFIG, arrays)
    report = importing.run(files.vision_config(), "", str(folder), str(tmp_path / "out"), False)
    assert "4x4 patches interpolated to 2x2" in report
    _, params = parameters.read(tmp_path / "out")
    new = params["vision_tower/vit/position_embedding"]
    np.testing.assert_array_equal(new[0], arrays["embeddings.position_embeddings"][0, 0])
    np.testing.assert_allclose(new[1], new[3], rtol=1e-5)
    assert (new[1] < 1.5).all() and (new[2] > 1.5).all()
    np.testing.assert_allclose(new[1] + new[2], 3.0, rtol=1e-5)


def test_siglips_pooling_comes_along(tmp_path):
    arrays = files.draw(files.siglip_shapes())
    folder = files.write(tmp_path / "siglip", files.SIGLIP_CONFIG, arrays)
    tower = dict(class_token=False, gelu="tanh", norm_epsilon=1e-6)
    config = files.vision_config(**{f"model__vision__{k}": v for k, v in tower.items()})
    report = importing.run(config, "", str(folder), str(tmp_path / "out"), False)
    _, params = parameters.read(tmp_path / "out")
    key = params["vision_tower/pool/attention/key/kernel"].reshape(16, 16)
    fused = arrays["vision_model.head.attention.in_proj_weight"]
    np.testing.assert_array_equal(key, fused[16:32].T)
    assert "vision_tower/norm/bias" in report, "ours alone: named"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("model.encoder.layers.1.fc1.weight"), "encoder/layers/mlp/in/kernel"),
        (
            lambda a: a.update({"model.encoder.layers.2.fc1.weight": np.ones((32, 16), "f4")}),
            "encoder.layers.2.fc1.weight",
        ),
        (lambda a: a.update({"adapter.weight": np.ones(2, "f4")}), "adapter.weight"),
        (
            lambda a: a.update({"model.shared.weight": np.ones((small.VOCAB_SIZE, 8), "f4")}),
            r"token_embedding \(there \(40, 8\), here \(40, 16\)\)",
        ),
        (lambda a: a["final_logits_bias"].fill(1), "our logits have no bias"),
        (
            lambda a: a.update({"lm_head.weight": a["model.shared.weight"] + 1}),
            "lm_head.weight differs from shared.weight",
        ),
        (lambda a: a["model.shared.weight"].fill(np.nan), "not finite"),
        (
            lambda a: a.update({"model.shared.weight": np.ones((small.VOCAB_SIZE, 16), "i4")}),
            "holds int32",
        ),
    ],
)
def test_every_tensor_and_parameter_is_accounted_for(tmp_path, change, says):
    arrays = files.draw(files.bart_shapes())
    change(arrays)
    folder = files.write(tmp_path / "bart", files.BART_CONFIG, arrays)
    with pytest.raises(UserError, match=says):
        importing.run(files.text_config(), str(folder), "", str(tmp_path / "out"), False)
    assert not (tmp_path / "out").exists()


def test_one_message_lists_all_that_is_wrong(tmp_path):
    arrays = files.draw(files.bart_shapes())
    del arrays["model.encoder.layers.0.fc1.bias"], arrays["model.decoder.layers.0.fc2.bias"]
    arrays["one"] = arrays["two"] = np.ones(1, np.float32)
    folder = files.write(tmp_path / "bart", files.BART_CONFIG, arrays)
    with pytest.raises(UserError) as caught:
        importing.run(files.text_config(), str(folder), "", str(tmp_path / "out"), False)
    for name in ("encoder/layers/mlp/in/bias", "decoder/layers/mlp/out/bias", "one, two"):
        assert name in str(caught.value)


def test_sizes_that_differ_are_told_as_overrides(tmp_path):
    bart = files.BART_CONFIG | dict(encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_layers=3)
    folder = files.write(tmp_path / "bart", bart, files.draw(files.bart_shapes()))
    with pytest.raises(UserError) as caught:
        importing.run(files.text_config(), str(folder), "", str(tmp_path / "out"), False)
    for override in ("text.mlp_width=64", "text.encoder_layers=3"):
        assert f"--config.model.{override}" in str(caught.value)
    folder = files.write(tmp_path / "vit", files.VIT_CONFIG, files.draw(files.vit_shapes()))
    config = files.vision_config(model__vision__class_token=False)
    with pytest.raises(UserError, match=r"--config.model.vision.class_token=True"):
        importing.run(config, "", str(folder), str(tmp_path / "out"), False)


def test_a_run_that_would_compute_another_function_does_not_start(tmp_path):
    folder = files.write(tmp_path / "vit", files.VIT_CONFIG, files.draw(files.vit_shapes()))
    importing.run(files.vision_config(), "", str(folder), str(tmp_path / "out"), False)
    load(files.vision_config(), tmp_path / "out")
    for change in (dict(model__vision__gelu="tanh"), dict(model__vision__norm_epsilon=1e-6)):
        (key,) = change
        with pytest.raises(UserError, match=key.replace("__", ".")):
            load(files.vision_config(**change), tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (files.BART_CONFIG | dict(model_type="t5"), "of type 't5'; available for --text: mBART"),
        (files.VIT_CONFIG, "of type 'vit'; available for --text"),
        (files.BART_CONFIG | dict(scale_embedding=True), "scales its embeddings"),
        (files.BART_CONFIG | dict(activation_function="relu"), "'relu'"),
        (files.BART_CONFIG | dict(decoder_attention_heads=4), "differ in attention_heads"),
    ],
)
def test_another_architecture_is_refused(tmp_path, config, says):
    folder = files.write(tmp_path / "source", config, files.draw(files.bart_shapes()))
    with pytest.raises(UserError, match=says):
        importing.run(files.text_config(), str(folder), "", str(tmp_path / "out"), False)


def test_files_in_parts_are_read_together(bart, tmp_path):
    folder, arrays = bart
    whole = folder / "model.safetensors"
    whole.unlink()
    names = sorted(arrays)
    index = {}
    for part, chosen in enumerate((names[::2], names[1::2])):
        index |= dict.fromkeys(chosen, f"part{part}.safetensors")
        save_file({name: arrays[name] for name in chosen}, folder / f"part{part}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    importing.run(files.text_config(), str(folder), "", str(tmp_path / "out"), False)
    _, params = parameters.read(tmp_path / "out")
    np.testing.assert_array_equal(params["token_embedding"], arrays["model.shared.weight"])
    (folder / "part1.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks part1.safetensors"):
        importing.run(files.text_config(), str(folder), "", str(tmp_path / "no"), False)


class Bomb:
    """A pickle that, read without care, makes a file."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def damaged(kind: str, folder: pathlib.Path, marker: pathlib.Path) -> pathlib.Path:
    """A BART folder, or a file, that no one should trust."""
    whole = folder / "model.safetensors"
    content = whole.read_bytes()
    bomb = pickle.dumps({"model.shared.weight": Bomb(marker)})
    if kind == "cut":
        whole.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        whole.write_bytes(b"")
    elif kind == "header":
        whole.write_bytes(b"\xff" * 8 + content[8:])
    elif kind == "a pickle by that name":
        whole.write_bytes(bomb)
    elif kind == "config":
        (folder / "config.json").write_text("{")
    elif kind == "bin":
        whole.unlink()
        (folder / "pytorch_model.bin").write_bytes(bomb)
    elif kind == "pt":
        (folder / "model.pt").write_bytes(bomb)
        return folder / "model.pt"
    elif kind == "npz":
        np.savez(folder / "x.npz", **{"pos_embedding": np.array([Bomb(marker)], object)})
        return folder / "x.npz"
    elif kind == "npz, cut":
        np.savez(folder / "x.npz", pos_embedding=np.ones(1000))
        cut = (folder / "x.npz").read_bytes()[:4000]
        (folder / "x.npz").write_bytes(cut)
        return folder / "x.npz"
    return folder


@pytest.mark.parametrize(
    "kind",
    ["cut", "empty", "header", "a pickle by that name", "config", "bin", "pt", "npz", "npz, cut"],
)
def test_damaged_files_and_code_are_refused_and_nothing_runs(bart, tmp_path, capsys, kind):
    marker = tmp_path / "executed"
    path = damaged(kind, bart[0], marker)
    part = "--vision" if "npz" in kind else "--text"
    code, message = run_main(
        capsys, "import", "--config=configs/pretrain.py", f"{part}={path}", f"--out={tmp_path}/out"
    )
    assert code == 2 and message.count("\n") == 1 and str(path) in message, message
    reasons = ("cannot be read", "is not JSON", "needs torch")
    assert any(reason in message for reason in reasons), message
    assert not marker.exists() and not (tmp_path / "out").exists()
    if kind in ("bin", "pt", "npz"):  # the bomb is a real one
        with np.load(path, allow_pickle=True) if kind == "npz" else contextlib.nullcontext() as x:
            bomb = path / "pytorch_model.bin" if kind == "bin" else path
            x["pos_embedding"] if kind == "npz" else pickle.loads(bomb.read_bytes())
        assert marker.exists()

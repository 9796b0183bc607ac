"""An exported model, run without this package, gives the live model's numbers."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import small
from ml_collections import ConfigDict

from igerg_jax.batch import EMOTIONS, SpecialIds
from igerg_jax.decoding import search, strategies
from igerg_jax.errors import UserError
from igerg_jax.evaluation import predictions, trained_run
from igerg_jax.run import checkpoint
from igerg_jax.tools.weights import __main__ as weights
from igerg_jax.tools.weights import stablehlo, stablehlo_example
from igerg_jax.training import train_state

SPECIAL = SpecialIds(pad=1, bos=0, eos=2, unk=3, mask=39, decoder_start=2)
BLOCKED = ("flax", "igerg_jax", "tensorflow", "ml_collections", "orbax", "sentencepiece")
RUN_BLOCKED = f"""
import runpy, sys
class Blocker:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {BLOCKED}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
import numpy as np
space = runpy.run_path(sys.argv[1])
model = space["Model"](sys.argv[2])
with np.load(sys.argv[3]) as file:
    inputs = dict(file)
found = {{}}
for name, function in model.signature["functions"].items():
    read = {{i["name"]: inputs[i["name"]] for i in function["inputs"]}}
    found |= {{f"{{name}}/{{k}}": v for k, v in model(name, **read).items()}}
np.savez(sys.argv[4], **found)
"""


class Tokenizer:
    """What a run is opened with, without a file: BART's ids in a small vocabulary."""

    special, vocab_size, digest = SPECIAL, small.VOCAB_SIZE, "0" * 16

    def save(self, path):
        path.write_text("saved")


def make_config(**changes) -> ConfigDict:
    config = small.with_pixels(small.make_config(**changes))
    config.generate.update(max_tokens=6, beams=2)
    return config


def save_run(config, folder, monkeypatch) -> pathlib.Path:
    """A checkpoint of random parameters, as a run leaves it."""
    monkeypatch.setattr(trained_run, "tokenizer_of", lambda config, folder: Tokenizer())
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, SPECIAL, jax.devices()[:1])
    batch = small.make_batch(config, batch_size=1)
    params = small.make_params(setup.model, batch, spread=0.5)
    state = train_state.new_state(config, setup.optimizer, params)
    checkpoints = checkpoint.Checkpoints(folder, config, Tokenizer.digest)
    checkpoints.save(state)
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(the run, the export's folder)."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("run")
        save_run(make_config(), folder, monkeypatch)
        out = stablehlo.export(str(folder), str(folder / "out"))
        return trained_run.open_run(folder, batch_size=8), out


def recorded(out) -> dict[str, np.ndarray]:
    """Inputs of an export, and what the live functions made of them."""
    with np.load(out / "recorded.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def elsewhere(exported, tmp_path_factory):
    """What example.py makes of the first five recorded examples where this package cannot be
    imported: another batch size than was recorded."""
    _, out = exported
    folder = tmp_path_factory.mktemp("elsewhere")
    inputs = {k: v[:5] for k, v in recorded(out).items() if "/" not in k}
    np.savez(folder / "inputs.npz", **inputs)
    command = [sys.executable, "-c", RUN_BLOCKED, out / "example.py", out]
    command += [folder / "inputs.npz", folder / "found.npz"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as file:
        return dict(file)


def test_without_this_package_it_gives_the_live_functions_numbers(exported, elsewhere):
    expected = recorded(exported[1])
    for name in ("image_emotion", "sequence_emotion"):
        actual = elsewhere[f"encode_image_emotion/{name}"]
        live = expected[f"encode_image_emotion/{name}"][:5]
        np.testing.assert_allclose(actual, live, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(actual.sum(-1), 1, rtol=1e-5)
    tokens = elsewhere["generate/tokens"]
    np.testing.assert_array_equal(tokens, expected["generate/tokens"][:5])
    np.testing.assert_allclose(
        elsewhere["generate/score"], expected["generate/score"][:5], rtol=1e-5
    )
    assert len(np.unique(tokens, axis=0)) > 1


def test_the_functions_are_those_of_evaluation(exported):
    run, out = exported
    model, config = run.setup.model, run.config
    inputs = {k: v for k, v in recorded(out).items() if "/" not in k}
    images = {k: v for k, v in inputs.items() if not k.startswith("context")}
    functions, settings = stablehlo.functions(model, config), search.Settings.of(config)

    def generate(params, batch):
        return search.generate(model, params, batch, jax.random.key(0), settings)

    for name, given, live in (
        ("generate", inputs, generate),
        ("encode_image_emotion", images, functools.partial(predictions.image_probabilities, model)),
    ):
        flat = stablehlo.flatten_dict(run.params, sep="/")
        in_order = lambda *given, name=name: tuple(functions[name](*given).values())  # noqa: E731
        expected = small.program(live, run.params, given)
        assert small.program(in_order, flat, given) == expected, name


def test_the_example_says_how_far_it_is_from_what_was_recorded(exported, capsys):
    stablehlo_example.main(exported[1])
    lines = capsys.readouterr().out.splitlines()
    for name in ("encode_image_emotion image_emotion", "generate tokens"):
        (line,) = (line for line in lines if line.startswith(name))
        assert line.endswith("equal 100%")


def test_the_signature_says_all_that_a_caller_needs(exported):
    run, out = exported
    signature = json.loads((out / "signature.json").read_text())
    assert signature["emotions"] == list(EMOTIONS)
    assert signature["special_ids"] == vars(SPECIAL)
    assert signature["platforms"] == ["cpu", "cuda", "tpu"]
    assert signature["strategy"]["name"] == "beam"
    assert signature["guidance"] == {"guidance": 1.0, "guidance_floor": 0.1}
    inputs = {i["name"]: i for i in signature["functions"]["generate"]["inputs"]}
    assert inputs["images"]["shape"] == ["batch", 3, 16, 16, 3]
    assert inputs["images"]["dtype"] == "uint8"
    assert "context" not in {
        i["name"] for i in signature["functions"]["encode_image_emotion"]["inputs"]
    }
    (tokens,) = (o for o in signature["functions"]["generate"]["outputs"] if o["name"] == "tokens")
    assert (tokens["shape"], tokens["dtype"]) == (["batch", 6], "int32")
    with np.load(out / "parameters.npz") as file:
        assert sum(array.nbytes for array in file.values()) == signature["parameters"]["bytes"]
        rebuilt = stablehlo.unflatten_dict(dict(file), sep="/")
    small.assert_trees_equal(rebuilt, jax.device_get(run.params))
    assert (out / "tokenizer.model").read_text() == "saved"
    assert (out / "example.py").read_text() == pathlib.Path(stablehlo_example.__file__).read_text()


def test_sampling_takes_a_seed_and_vectors_take_the_place_of_images(monkeypatch):
    config = small.make_config(generate__strategy="sample", generate__max_tokens=6)
    monkeypatch.setattr(stablehlo, "PLATFORMS", ("cpu",))
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, SPECIAL, jax.devices()[:1])
    inputs = stablehlo.example_inputs(setup, 8)
    params = small.make_params(setup.model, small.make_batch(config, batch_size=1), spread=0.5)
    parameters = stablehlo.flatten_dict(params, sep="/")
    function = stablehlo.functions(setup.model, config)["generate"]
    exported = stablehlo.lower(function, parameters, inputs)
    inputs_signature = stablehlo.signature("generate", inputs, exported)["inputs"]
    assert {"name": "seed", "shape": [], "dtype": "uint32"} in inputs_signature
    assert {"name": "features", "shape": ["batch", 3, 12], "dtype": "float32"} in inputs_signature
    draw = jax.jit(exported.call)
    drawn = [draw(parameters, inputs | {"seed": np.uint32(s)})["tokens"] for s in (0, 1, 0)]
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert (drawn[0] != drawn[1]).any()


def test_the_command_line_writes_the_greedy_form(exported, tmp_path, monkeypatch, capsys):
    run, _ = exported
    lowered = []

    def lower(function, parameters, inputs):
        lowered.append(set(inputs))
        raise UserError("seen enough")

    monkeypatch.setattr(trained_run, "tokenizer_of", lambda config, folder: Tokenizer())
    monkeypatch.setattr(stablehlo, "lower", lower)
    seen = []
    chosen = strategies.strategy
    monkeypatch.setattr(
        strategies, "strategy", lambda config: seen.append(chosen(config)) or seen[-1]
    )
    command = ["weights", "export", f"--checkpoint={run.folder}", f"--out={tmp_path / 'out'}"]
    assert weights.main([*command, "--format=stablehlo", "--greedy"]) == 2
    assert capsys.readouterr().err == "error: seen enough\n"
    assert lowered == [{"images", "image_mask", "image_turn"}]
    assert set(seen) == {strategies.Greedy()}
    assert weights.main([*command, "--format=hf", "--greedy"]) == 2
    assert "--greedy goes with --format=stablehlo" in capsys.readouterr().err
    assert weights.main([*command, "--format=onnx"]) == 2
    assert "stablehlo" in capsys.readouterr().err


def test_what_cannot_be_exported_is_one_message(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        stablehlo.export(str(tmp_path / "nowhere"), str(tmp_path / "out"))
    (tmp_path / "file").write_text("x")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="is not empty"):
            stablehlo.export(str(tmp_path / "nowhere"), str(out))

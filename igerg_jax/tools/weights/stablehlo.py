"""Exports a checkpoint as StableHLO, by `jax.export`; running it needs only JAX.

    DIR/encode_image_emotion.jax_export   images -> emotion probabilities, if it has such a head
    DIR/generate.jax_export               images and context -> response tokens
    DIR/parameters.npz                    {name: array}, the first argument of both
    DIR/signature.json                    names, shapes, dtypes, emotions, special ids
    DIR/example.py                        a loader that needs only JAX and NumPy
    DIR/recorded.npz                      inputs, and the live model's outputs for them
    DIR/tokenizer.model                   if the run has one: SentencePiece, or a tokenizer.json

Parameters are an argument, not constants of the programs: both programs share one copy, a program
is small whatever the model's size, and further training replaces only that file. The batch size is
symbolic, all other sizes are the config's. Beams are not re-ranked (`generate.mmi_weight`). Each
program is lowered for CPUs, CUDA GPUs and TPUs at once. JAX reads such files for six months after
the version that wrote them
(https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees).
"""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export

from igerg_jax.batch import EMOTIONS, BatchSpec, synthetic
from igerg_jax.decoding import search
from igerg_jax.evaluation import trained_run
from igerg_jax.evaluation.predictions import image_probabilities
from igerg_jax.run import command_line
from igerg_jax.setup import Setup, build_model
from igerg_jax.tools.weights import stablehlo_example

PLATFORMS = ("cpu", "cuda", "tpu")
SUFFIX = ".jax_export"
PARAMETERS = "parameters.npz"
RECORDED_EXAMPLES = 2

Function = Callable[[dict[str, jax.Array], dict[str, jax.Array]], dict[str, jax.Array]]


def export(checkpoint: str, out: str, greedy: bool = False) -> pathlib.Path:
    """Writes the folder that the module's docstring lists; `signature.json` comes last.

    Args:
      checkpoint: a workdir, or one of its checkpoints.
      out: a folder that does not exist, or is empty.
      greedy: generate greedily, whatever the run's `config.generate` says. With sampling,
        `generate` takes one more input, the uint32 scalar `seed`.

    Returns:
      The folder.

    Raises:
      UserError: no checkpoint, `out` is not empty, or wrong `generate` settings.
    """
    folder = command_line.new_folder(out)
    one = jax.devices()[:1]
    run = trained_run.open_run(checkpoint, batch_size=RECORDED_EXAMPLES, devices=one)
    config = run.config
    if greedy:
        config.generate.strategy = "greedy"
    # A kernel is for one platform and a fixed batch size; plain XLA computes the same.
    config.model.vision.attention = config.model.text.attention = "xla"
    model = build_model(config, run.setup.model.vocab_size, run.setup.model.special)
    parameters = flatten_dict(jax.device_get(run.params), sep="/")
    inputs = example_inputs(run.setup, RECORDED_EXAMPLES)
    folder.mkdir(parents=True, exist_ok=True)
    recorded, signatures = dict(inputs), {}
    programs = functions(model, config)
    if not {"emotion_head", "sequence_emotion_head"} & run.params.keys():
        del programs["encode_image_emotion"]
    for name, function in programs.items():
        read = {key: inputs[key] for key in INPUTS[name] if key in inputs}
        exported = lower(function, parameters, read)
        outputs = jax.device_get(jax.jit(function)(parameters, read))
        recorded |= {f"{name}/{key}": array for key, array in outputs.items()}
        (folder / f"{name}{SUFFIX}").write_bytes(exported.serialize())
        signatures[name] = signature(name, read, exported)
    np.savez(folder / PARAMETERS, **parameters)
    np.savez(folder / "recorded.npz", **recorded)
    shutil.copyfile(stablehlo_example.__file__, folder / "example.py")
    if run.tokenizer is not None:
        run.tokenizer.save(folder / "tokenizer.model")
    described = describe(run, parameters, signatures)
    (folder / "signature.json").write_text(json.dumps(described, indent=1) + "\n")
    return folder


_IMAGES = ("images", "features", "image_mask", "image_turn")  # one of the first two
INPUTS = {
    "encode_image_emotion": _IMAGES,
    "generate": (*_IMAGES, "context", "context_turn", "seed"),
}


def functions(model: Any, config: Any) -> dict[str, Function]:
    """{name: function of ({parameter's name: array}, {input's name: array})}.

    encode_image_emotion returns float32 "image_emotion" [B, N, C] and "sequence_emotion" [B, C],
    probabilities from the images alone, as far as there are heads; generate returns int32 "tokens"
    [B, T] (EOS, then PAD) and float32 [B] "log_probability" and "score", as
    `igerg_jax.decoding.search` defines them.
    """
    settings = search.Settings.of(config)

    def encode_image_emotion(parameters, inputs):
        names = {"images": "image_emotion", "sequence": "sequence_emotion"}
        found = image_probabilities(model, unflatten_dict(parameters, sep="/"), inputs)
        return {names[name]: probabilities for name, probabilities in found.items()}

    def generate(parameters, inputs):
        batch = dict(inputs)
        seed = batch.pop("seed", 0)  # only sampling reads it
        rng = jax.random.key(seed, impl="threefry2x32")  # its draws do not depend on the platform
        responses = search.generate(
            model, unflatten_dict(parameters, sep="/"), batch, rng, settings
        )
        names = ("tokens", "log_probability", "score")
        return dict(zip(names, responses, strict=True))

    return {"encode_image_emotion": encode_image_emotion, "generate": generate}


def example_inputs(setup: Setup, batch_size: int) -> dict[str, np.ndarray]:
    """Random inputs of both functions, with the sizes of the config."""
    spec = BatchSpec.of(setup.config.data, batch_size)
    batch = synthetic(spec, setup.model.special, setup.model.vocab_size, seed=0)
    inputs = {name: batch[name] for name in INPUTS["generate"] if name in batch}
    if setup.config.generate.strategy == "sample":
        inputs["seed"] = np.uint32(0)
    return inputs


def lower(function: Function, parameters: dict, inputs: dict) -> jax_export.Exported:
    """Exports `function` for `PLATFORMS`, with a symbolic leading axis in every input array."""
    shapes = {name: "batch, ..." if array.ndim else "" for name, array in inputs.items()}
    batched = jax_export.symbolic_args_specs(inputs, shapes)
    return jax_export.export(jax.jit(function), platforms=PLATFORMS)(parameters, batched)


def signature(name: str, inputs: dict, exported: jax_export.Exported) -> dict[str, Any]:
    """signature.json's entry for one function; "batch" in a shape is any positive number."""
    shapes = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0][1]
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return {
        "file": f"{name}{SUFFIX}",
        "inputs": [_describe(key, shapes[key]) for key in inputs],
        "outputs": [_describe(key, aval) for key, aval in outputs.items()],
    }


def _describe(name: str, aval: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in aval.shape]
    return {"name": name, "shape": shape, "dtype": str(aval.dtype)}


def describe(run: trained_run.Run, parameters: dict, signatures: dict) -> dict[str, Any]:
    """The content of signature.json."""
    config, model = run.config, run.setup.model
    settings = search.Settings.of(config)
    return {
        "config": {"name": config.name, "preset": config.preset},
        "checkpoint": str(run.folder),
        "platforms": PLATFORMS,
        "jax": jax.__version__,
        "functions": signatures,
        "parameters": {
            "file": PARAMETERS,
            "count": sum(array.size for array in parameters.values()),
            "bytes": sum(array.nbytes for array in parameters.values()),
        },
        "strategy": {"name": config.generate.strategy} | vars(settings.strategy),
        "limits": vars(settings.limits),
        "guidance": vars(settings.guidance),
        "emotions": EMOTIONS,
        "special_ids": vars(model.special),
        "vocabulary": model.vocab_size,
        "tokenizer_digest": run.tokenizer.digest if run.tokenizer else None,
    }

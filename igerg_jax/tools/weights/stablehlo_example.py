"""Runs an exported model; needs only JAX and NumPy.

    python example.py [FOLDER]      # default: the folder that this file is in

Compares the model's outputs, on the device that JAX finds here, with those that were recorded when
it was exported. From your own code:

    model = Model("FOLDER")
    model.signature                 # every function's inputs and outputs, emotions, special ids
    seen = model("encode_image_emotion", images=…, image_mask=…, image_turn=…)
    responses = model("generate", images=…, image_mask=…, image_turn=…, context=…, context_turn=…)
"""

import json
import pathlib
import sys

import jax
import numpy as np
from jax import export


class Model:
    """The functions of an export folder; each compiles once per batch size."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.signature = json.loads((folder / "signature.json").read_text())
        with np.load(folder / self.signature["parameters"]["file"]) as file:
            self._parameters = jax.device_put(dict(file))
        self._functions = {
            name: jax.jit(export.deserialize((folder / function["file"]).read_bytes()).call)
            for name, function in self.signature["functions"].items()
        }

    def __call__(self, name, **inputs):
        """Returns {output: NumPy array} of one function; `signature` lists its inputs."""
        return jax.device_get(self._functions[name](self._parameters, inputs))


def main(folder):
    """Prints how far every output is from the recorded one."""
    model = Model(folder)
    with np.load(pathlib.Path(folder) / "recorded.npz") as file:
        recorded = dict(file)
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}")
    for name, function in model.signature["functions"].items():
        outputs = model(name, **{i["name"]: recorded[i["name"]] for i in function["inputs"]})
        if "sequence_emotion" in outputs:
            likeliest = outputs["sequence_emotion"].argmax(-1)
            print("likeliest emotions:", [model.signature["emotions"][i] for i in likeliest])
        for output, value in outputs.items():
            expected = recorded[f"{name}/{output}"]
            far = np.abs(value.astype(np.float64) - expected).max()
            same = (value == expected).mean()
            print(f"{name} {output}: largest difference {far:.1e}, equal {same:.0%}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)

"""`export --format=hf`: a run's weights as folders that transformers loads.

<out>/config.json, model.safetensors, …   the text model: BART; with norms first, mBART
<out>/vision/                              the vision tower: ViT; without class token, SigLIP's
<out>/additions.safetensors                what neither of them has, by our names
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from igerg_jax.batch import SENTENCEPIECE_IDS, SpecialIds
from igerg_jax.data import tokenizers
from igerg_jax.evaluation import trained_run
from igerg_jax.run import checkpoint
from igerg_jax.run.workdirs import TOKENIZER_FILE
from igerg_jax.tools.weights import bart, parameters, siglip, vit
from igerg_jax.tools.weights.importing import ADDITIONS_FILE, TOKENIZER_FILES
from igerg_jax.tools.weights.table import Row, Table
from igerg_jax.tools.weights.transforms import TRANSFORMS

Arrays = Mapping[str, np.ndarray]  # by our names
VISION_FOLDER = "vision"
_ACTIVATIONS = {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}
_FORMAT = {"format": "pt"}  # metadata that transformers asks for


def export(path: str, out: str) -> str:
    """Writes the folder `out`; returns what it holds and what it does not.

    Args:
      path: a workdir, or one of its checkpoints.

    Raises:
      UserError: no checkpoint there, or `out` is not empty.
    """
    folder = trained_run.new_folder(out)
    where = checkpoint.find(path)
    run, arrays = parameters.read(where)
    config = run["config"]
    folder.mkdir(parents=True, exist_ok=True)
    lines, written = [], set()
    if "token_embedding" in arrays:
        tokenizer = _kept_tokenizer(where.parent.parent / TOKENIZER_FILE)
        lines += _text(folder, config, arrays, tokenizer, written)
    else:
        lines.append("the checkpoint has no text model: none is written")
    lines += _vision(folder / VISION_FOLDER, config, arrays, written)
    rest = {name: array for name, array in arrays.items() if name not in written}
    safetensors.numpy.save_file(rest, folder / ADDITIONS_FILE, metadata=_FORMAT)
    lines.append(f"{ADDITIONS_FILE}: {len(rest)} arrays by our names, for import alone")
    return "\n".join([f"wrote '{out}' from '{where}'", *lines])


def theirs(rows: tuple[Row, ...], arrays: Arrays, prefix: str, taken: set[str]) -> dict:
    """{their name: array} of the rows whose parameter exists; adds those parameters to `taken`."""
    tensors = {}
    for name, ours, how in rows:
        back = TRANSFORMS[how].theirs
        if ours not in arrays or back is None:
            continue
        taken.add(ours)
        if "*" not in name:
            tensors[prefix + name] = np.ascontiguousarray(back(arrays[ours]))
            continue
        for i, layer in enumerate(arrays[ours]):
            tensors[prefix + name.replace("*", str(i))] = np.ascontiguousarray(back(layer))
    return tensors


def _text(folder, config, arrays: Arrays, tokenizer, written: set[str]) -> list[str]:
    text, table = config["model"]["text"], bart.BART
    if text["norm_first"]:
        table = bart.MBART
    tensors = theirs(table.rows, arrays, "model.", written)
    vocabulary = len(arrays["token_embedding"])
    tensors["final_logits_bias"] = np.zeros((1, vocabulary), np.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata=_FORMAT)
    special = SENTENCEPIECE_IDS if tokenizer is None else tokenizer.special
    _write(folder / "config.json", _bart_config(text, vocabulary, special, table))
    _write(folder / "generation_config.json", _generation_config(config["generate"], special))
    written_line = (
        f"{table.name}, {len(tensors)} tensors: text alone, without CLS, type and turn embeddings"
    )
    return [written_line, _tokenizer_files(folder, config["data"]["tokenizer"]["kind"], tokenizer)]


def _bart_config(text, vocabulary: int, special: SpecialIds, table: Table) -> dict[str, Any]:
    kind = {"BART": "bart", "mBART": "mbart"}[table.name]
    architecture = {"bart": "Bart", "mbart": "MBart"}[kind]
    sides = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_layers"] = text[f"{side}_layers"]
        sides[f"{side}_attention_heads"] = text["heads"]
        sides[f"{side}_ffn_dim"] = text["mlp_width"]
    return (
        _roles(special)
        | sides
        | {
            "model_type": kind,
            "architectures": [f"{architecture}ForConditionalGeneration"],
            "vocab_size": vocabulary,
            "d_model": text["width"],
            "max_position_embeddings": text["max_positions"],
            "activation_function": "gelu",
            "dropout": text["dropout_rate"],
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "scale_embedding": False,
            "tie_word_embeddings": True,
            "is_encoder_decoder": True,
            "dtype": "float32",
        }
    )


def _roles(special: SpecialIds) -> dict[str, Any]:
    return {
        "pad_token_id": special.pad,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "decoder_start_token_id": special.decoder_start,
        "forced_eos_token_id": special.eos,
    }


def _generation_config(generate: Mapping[str, Any], special: SpecialIds) -> dict[str, Any]:
    """`config.generate` in transformers' terms: its max_length counts the start token."""
    beams = generate["beams"] if generate["strategy"] == "beam" else 1
    settings = _roles(special) | {
        "max_length": generate["max_tokens"] + 1,
        "num_beams": beams,
        "no_repeat_ngram_size": generate["no_repeat_ngram"],
        "suppress_tokens": sorted({special.pad, special.bos, special.unk, special.mask}),
    }
    if beams > 1:
        settings |= {"length_penalty": generate["length_penalty"], "early_stopping": False}
    if generate["strategy"] == "sample":
        settings |= {"do_sample": True, "temperature": generate["temperature"]}
        settings |= {"top_k": generate["top_k"], "top_p": generate["top_p"]}
    return settings


def _kept_tokenizer(path: epath.Path) -> Any | None:
    if not path.exists():
        return None
    return tokenizers.read(path)


def _tokenizer_files(folder: pathlib.Path, kind: str, tokenizer: Any | None) -> str:
    if tokenizer is None:
        return "the checkpoint has no tokenizer beside it: none is written; special ids are ours"
    if kind == "sentencepiece":
        tokenizer.save(folder / TOKENIZER_FILE)
        return (
            f"{TOKENIZER_FILE}: a SentencePiece model; read it with the sentencepiece "
            "library, its ids are the model's. transformers' tokenizers would give other ids"
        )
    tokenizer.save(folder / TOKENIZER_FILES[0])
    names = dict(bos="<s>", pad="<pad>", eos="</s>", unk="<unk>", mask="<mask>")
    tokens = {f"{role}_token": name for role, name in names.items()}
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", **tokens},
    )
    return f"{TOKENIZER_FILES[0]}: loads as AutoTokenizer"


def _vision(folder: pathlib.Path, config, arrays: Arrays, written: set[str]) -> list[str]:
    settings = config["model"]["vision"]
    if settings["kind"] != "vit" or settings["stem"] != "patch":
        what = f"kind={settings['kind']}, stem={settings['stem']}"
        return [f"{ADDITIONS_FILE} has the vision tower ({what}): it is not a ViT"]
    if "vision_tower/vit/stem/patch_embedding/kernel" not in arrays:
        return ["the checkpoint has no vision tower: none is written"]
    table, kind, name = vit.VIT, "vit", "ViTModel"
    if not settings["class_token"]:
        table, kind, name = siglip.SIGLIP, "siglip_vision_model", "SiglipVisionModel"
    rows = tuple(row for row in table.rows if "/pool/" not in row[1])
    tensors = theirs(rows, arrays, "", written)
    folder.mkdir()
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata=_FORMAT)
    _write(
        folder / "config.json",
        {
            "model_type": kind,
            "architectures": [name],
            "hidden_size": settings["width"],
            "num_hidden_layers": settings["layers"],
            "num_attention_heads": settings["heads"],
            "intermediate_size": settings["mlp_width"],
            "hidden_act": _ACTIVATIONS[settings["gelu"]],
            "layer_norm_eps": settings["norm_epsilon"],
            "patch_size": settings["patch_size"],
            "image_size": config["data"]["image_size"],
            "num_channels": 3,
            "qkv_bias": True,
            "vision_use_head": False,
            "dtype": "float32",
        },
    )
    side = config["data"]["image_size"]
    _write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": side, "width": side},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
    )
    return [f"{VISION_FOLDER}/: {table.name}, {len(tensors)} tensors, without our pooling"]


def _write(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""`igerg weights export --format=hf`: a run's weights as folders that transformers loads.

<out>/config.json, model.safetensors, …   the text model: BART, or mBART if norms come first
<out>/vision/                              the vision tower: ViT, or SigLIP's without a class token;
                                           with a convolution stem, with code of its own
<out>/additions.safetensors                parameters that neither of them has, by our names
"""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from igerg_jax.batch import SENTENCEPIECE_IDS, SpecialIds
from igerg_jax.data import tokenizers
from igerg_jax.run import checkpoint, command_line, workdirs
from igerg_jax.run.workdirs import TOKENIZER_FILE
from igerg_jax.tools.weights import bart, fast_tokenizer, parameters, vit
from igerg_jax.tools.weights.importing import ADDITIONS_FILE, TOKENIZER_FILES
from igerg_jax.tools.weights.table import TRANSFORMS, Row

Arrays = Mapping[str, np.ndarray]  # by our names
VISION_FOLDER = "vision"
# PyTorch code that goes beside a vision tower which transformers does not have.
VISION_CODE = pathlib.Path(__file__).with_name("modeling_igerg_vision.py")
_ACTIVATIONS = {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}


def export(path: str, out: str) -> str:
    """Writes the folder `out`; returns a description of what it holds and lacks.

    Args:
      path: a workdir, or one of its checkpoints.

    Raises:
      UserError: no checkpoint there, or `out` is not empty.
    """
    folder = command_line.new_folder(out)
    where = checkpoint.find(path)
    run, arrays = parameters.read(where)
    config = workdirs.of_this_version(run["config"], where)
    folder.mkdir(parents=True, exist_ok=True)
    lines, written = [], set()
    if "token_embedding" in arrays:
        file = checkpoint.tokenizer_file(where)
        tokenizer = tokenizers.read(file) if file.exists() else None
        lines += _text(folder, config, arrays, tokenizer, written)
    else:
        lines.append("the checkpoint has no text model: none is written")
    lines.append(_vision(folder / VISION_FOLDER, config, arrays, written))
    rest = {name: array for name, array in arrays.items() if name not in written}
    _save(rest, folder / ADDITIONS_FILE)
    lines.append(f"{ADDITIONS_FILE}: {len(rest)} arrays by our names, which only our import reads")
    return "\n".join([f"wrote '{out}' from '{where}'", *lines])


def theirs(rows: tuple[Row, ...], arrays: Arrays, prefix: str, written: set[str]) -> dict:
    """{their name: array} of the rows whose parameter exists; adds the parameters to `written`."""
    tensors = {}
    for name, ours, how in rows:
        back = TRANSFORMS[how].theirs
        if ours not in arrays or back is None:
            continue
        written.add(ours)
        layers = {name: arrays[ours]}
        if "*" in name:
            layers = {name.replace("*", str(i)): layer for i, layer in enumerate(arrays[ours])}
        tensors |= {prefix + key: np.ascontiguousarray(back(x)) for key, x in layers.items()}
    return tensors


def _text(folder, config, arrays: Arrays, tokenizer, written: set[str]) -> list[str]:
    text = config["model"]["text"]
    table, kind, name = bart.BART, "bart", "BartForConditionalGeneration"
    if text["norm_first"]:
        table, kind, name = bart.MBART, "mbart", "MBartForConditionalGeneration"
    tensors = theirs(table.rows, arrays, "model.", written)
    vocabulary = len(arrays["token_embedding"])
    tensors["final_logits_bias"] = np.zeros((1, vocabulary), np.float32)
    _save(tensors, folder / "model.safetensors")
    special = SENTENCEPIECE_IDS if tokenizer is None else tokenizer.special
    sides = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_layers"] = text[f"{side}_layers"]
        sides[f"{side}_attention_heads"] = text["heads"]
        sides[f"{side}_ffn_dim"] = text["mlp_width"]
    _write(
        folder / "config.json",
        **_roles(special),
        **sides,
        model_type=kind,
        architectures=[name],
        vocab_size=vocabulary,
        d_model=text["width"],
        max_position_embeddings=text["max_positions"],
        activation_function="gelu",
        dropout=text["dropout_rate"],
        attention_dropout=0.0,
        activation_dropout=0.0,
        scale_embedding=False,
        tie_word_embeddings=True,
        is_encoder_decoder=True,
        dtype="float32",
    )
    _write(folder / "generation_config.json", **_generation(config["generate"], special))
    what = "only text, without CLS, type, turn and emotion embeddings"
    return [
        f"{table.name}, {len(tensors)} tensors: {what}",
        _tokenizer_files(folder, config["data"]["tokenizer"]["kind"], tokenizer),
    ]


def _roles(special: SpecialIds) -> dict[str, Any]:
    return {
        "pad_token_id": special.pad,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "decoder_start_token_id": special.decoder_start,
        "forced_eos_token_id": special.eos,
    }


def _generation(generate: Mapping[str, Any], special: SpecialIds) -> dict[str, Any]:
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
        settings |= {key: generate[key] for key in ("temperature", "top_k", "top_p")}
        settings["do_sample"] = True
    return settings


def _tokenizer_files(folder: pathlib.Path, kind: str, tokenizer: Any | None) -> str:
    if tokenizer is None:
        return "the checkpoint has no tokenizer: none is written; special ids are ours"
    roles = ("bos", "<s>"), ("pad", "<pad>"), ("eos", "</s>"), ("unk", "<unk>"), ("mask", "<mask>")
    lines = f"{TOKENIZER_FILES[0]}: loads as AutoTokenizer"
    if kind == "sentencepiece":
        tokenizer.save(folder / TOKENIZER_FILE)
        fast = fast_tokenizer.of_sentencepiece(folder / TOKENIZER_FILE)
        fast.save(str(folder / TOKENIZER_FILES[0]))
        roles = tuple(
            (role, tokenizer.piece(getattr(tokenizer.special, role))) for role, _ in roles
        )
        lines += f"; {TOKENIZER_FILE}: the same as a SentencePiece model, which import reads"
    else:
        tokenizer.save(folder / TOKENIZER_FILES[0])
    _write(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        clean_up_tokenization_spaces=False,
        **{f"{role}_token": token for role, token in roles},
    )
    return lines


def _vision(folder: pathlib.Path, config, arrays: Arrays, written: set[str]) -> str:
    settings = config["model"]["vision"]
    if settings["kind"] != "vit":
        return f"{ADDITIONS_FILE} has the vision tower (kind={settings['kind']}): it is not a ViT"
    if not any(name.startswith(f"{vit.TOWER}/stem/") for name in arrays):
        return "the checkpoint has no vision tower: none is written"
    table, kind, name = vit.VIT, "vit", "ViTModel"
    if not settings["class_token"]:
        table, kind, name = vit.SIGLIP, "siglip_vision_model", "SiglipVisionModel"
    rows, what, more, taken = table.rows, table.name, {}, written
    if settings["stem"] == "convolution":
        rows, what = vit.convolution_rows(settings["patch_size"]), "a ViT with a convolution stem"
        kind, name, taken = "igerg_vision", "IgergVisionModel", set()  # import reads the additions
        what += f", for trust_remote_code=True ({VISION_CODE.name} is its code)"
        more = {"class_token": settings["class_token"], "auto_map": _auto_map()}
    rows = tuple(row for row in rows if "/pool/" not in row[1])
    tensors = theirs(rows, arrays, "", taken)
    folder.mkdir()
    _save(tensors, folder / "model.safetensors")
    if more:
        shutil.copy(VISION_CODE, folder)
    _vision_config(folder, settings, config["data"]["image_size"], kind, name, more)
    return f"{VISION_FOLDER}/: {what}, {len(tensors)} tensors, without our pooling"


def _auto_map() -> dict[str, str]:
    module = VISION_CODE.stem
    return {"AutoConfig": f"{module}.IgergVisionConfig", "AutoModel": f"{module}.IgergVisionModel"}


def _vision_config(
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    side: int,
    kind: str,
    name: str,
    more: Mapping[str, Any],
) -> None:
    _write(
        folder / "config.json",
        model_type=kind,
        architectures=[name],
        hidden_size=settings["width"],
        num_hidden_layers=settings["layers"],
        num_attention_heads=settings["heads"],
        intermediate_size=settings["mlp_width"],
        hidden_act=_ACTIVATIONS[settings["gelu"]],
        layer_norm_eps=settings["norm_epsilon"],
        patch_size=settings["patch_size"],
        image_size=side,
        num_channels=3,
        qkv_bias=True,
        vision_use_head=False,
        dtype="float32",
        **more,
    )
    _write(
        folder / "preprocessor_config.json",
        image_processor_type="ViTImageProcessor",
        do_resize=True,
        size={"height": side, "width": side},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def _save(tensors: Arrays, path: pathlib.Path) -> None:
    # transformers requires this metadata.
    safetensors.numpy.save_file(dict(tensors), path, metadata={"format": "pt"})


def _write(path: pathlib.Path, **content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""Tables of BART, and of mBART, which is BART with the norms before each sublayer."""

import functools
from collections.abc import Collection, Mapping
from typing import Any

from igerg_jax.tools.weights.table import Table, torch_attention, torch_rows

_ENCODER = torch_attention("self_attn", "self_attention") | {
    "self_attn_layer_norm": ("self_attention_residual/norm", "norm"),
    "fc1": ("mlp/in", "dense"),
    "fc2": ("mlp/out", "dense"),
    "final_layer_norm": ("mlp_residual/norm", "norm"),
}
_CROSS_ATTENTION = torch_attention("encoder_attn", "cross_attention") | {
    "encoder_attn_layer_norm": ("cross_attention_residual/norm", "norm")
}
_EMBEDDING_NORMS = {
    "encoder.layernorm_embedding": ("embedding_norm", "norm"),
    "decoder.layernorm_embedding": ("decoder_embedding_norm", "norm"),
}
ROWS = (
    ("shared.weight", "token_embedding", "as_is"),
    ("encoder.embed_positions.weight", "encoder_position_embedding", "after_two"),
    ("decoder.embed_positions.weight", "decoder_position_embedding", "after_two"),
    *torch_rows("", "", _EMBEDDING_NORMS),
    *torch_rows("encoder.layers.*.", "encoder/layers/", _ENCODER),
    *torch_rows("decoder.layers.*.", "decoder/layers/", _ENCODER | _CROSS_ATTENTION),
)
# Only mBART has these: norms after the last layer.
FINAL_NORMS = {
    "encoder.layer_norm": ("encoder/norm", "norm"),
    "decoder.layer_norm": ("decoder/norm", "norm"),
}

# Hugging Face's names, then fairseq's.
SETTINGS = {
    "d_model": "text.width",
    "encoder_layers": "text.encoder_layers",
    "decoder_layers": "text.decoder_layers",
    "encoder_attention_heads": "text.heads",
    "decoder_attention_heads": "text.heads",
    "encoder_ffn_dim": "text.mlp_width",
    "decoder_ffn_dim": "text.mlp_width",
    "encoder_embed_dim": "text.width",
    "encoder_ffn_embed_dim": "text.mlp_width",
}


def _settings(norm_first: bool, config: Mapping[str, Any], names: Collection[str]):
    settings = {ours: config[theirs] for theirs, ours in SETTINGS.items() if theirs in config}
    return settings | {"text.norm_first": norm_first}


def _refusals(config: Mapping[str, Any]) -> list[str]:
    problems = []
    if config.get("scale_embedding") or config.get("no_scale_embedding") is False:
        problems.append("it scales its embeddings by sqrt(width); ours are not scaled")
    activation = config.get("activation_function", config.get("activation_fn", "gelu"))
    if activation != "gelu":
        problems.append(f"its activation is '{activation}'; ours is the exact GELU")
    if "decoder_attention_heads" not in config:
        problems.append(
            "its number of heads is not known, since no shape shows it and there is no "
            "config.json (fairseq: no args) with it"
        )
    for size in ("attention_heads", "ffn_dim"):
        encoder, decoder = config.get(f"encoder_{size}"), config.get(f"decoder_{size}")
        if encoder != decoder:
            problems.append(f"its encoder and decoder differ in {size}: {encoder}, {decoder}")
    if config.get("encoder_normalize_before"):
        problems.append("its norms come before the sublayers, but it is not mBART")
    if config.get("tie_word_embeddings") is False:
        problems.append("its output embedding is not tied to the input's")
    return problems


_COMMON = dict(
    part="text",
    prefixes=("model.",),
    refusals=_refusals,
    left={
        "classification_heads.*": "heads of other tasks",
        "classification_head.*": "a head of another task",
        "qa_outputs.*": "a head of another task",
        "encoder.version": "fairseq's format number",
        "decoder.version": "fairseq's format number",
        "encoder.embed_positions._float_tensor": "fairseq's record of a dtype",
        "decoder.embed_positions._float_tensor": "fairseq's record of a dtype",
    },
    copies={
        "shared.weight": (
            "encoder.embed_tokens.weight",
            "decoder.embed_tokens.weight",
            "lm_head.weight",
            "decoder.output_projection.weight",
        )
    },
    zeros={"final_logits_bias": "our logits have no bias"},
    derived=dict.fromkeys(
        ("type_embedding", "turn_embedding"), "zero, so that words start as BART's"
    )
    | dict.fromkeys(
        ("emotion_input_embedding", "emotion_output_embedding"),
        "zero, so that the decoder starts as BART's",
    ),
)
# For Hugging Face's files and fairseq's model.pt; only the names of tied tensors differ.
BART = Table(
    name="BART",
    download="for instance facebook/bart-base: config.json, model.safetensors, tokenizer.json",
    marker="encoder.layers.0.self_attn.k_proj.weight",
    rows=ROWS,
    settings=functools.partial(_settings, False),
    **_COMMON,
)
MBART = Table(
    name="mBART",
    download="what export writes; without scale_embedding in its config.json",
    marker="encoder.layer_norm.weight",
    rows=ROWS + torch_rows("", "", FINAL_NORMS),
    settings=functools.partial(_settings, True),
    **_COMMON,
)

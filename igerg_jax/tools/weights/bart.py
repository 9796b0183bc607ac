"""BART, as Hugging Face names it; and mBART, which is the same with its norms first.

`*` stands for a layer; on our side all layers lie in one array with a leading axis. A third column
is a name in `igerg_jax.tools.weights.transforms`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

from igerg_jax.tools.weights.table import Table

_EMBEDDINGS = (
    ("shared.weight", "token_embedding", "as_is"),
    ("encoder.embed_positions.weight", "encoder_position_embedding", "after_two"),
    ("encoder.layernorm_embedding.weight", "embedding_norm/scale", "as_is"),
    ("encoder.layernorm_embedding.bias", "embedding_norm/bias", "as_is"),
    ("decoder.embed_positions.weight", "decoder_position_embedding", "after_two"),
    ("decoder.layernorm_embedding.weight", "decoder_embedding_norm/scale", "as_is"),
    ("decoder.layernorm_embedding.bias", "decoder_embedding_norm/bias", "as_is"),
)

_ENCODER = (
    ("self_attn.q_proj.weight", "self_attention/query/kernel", "to_heads"),
    ("self_attn.q_proj.bias", "self_attention/query/bias", "heads_bias"),
    ("self_attn.k_proj.weight", "self_attention/key/kernel", "to_heads"),
    ("self_attn.k_proj.bias", "self_attention/key/bias", "heads_bias"),
    ("self_attn.v_proj.weight", "self_attention/value/kernel", "to_heads"),
    ("self_attn.v_proj.bias", "self_attention/value/bias", "heads_bias"),
    ("self_attn.out_proj.weight", "self_attention/out/kernel", "from_heads"),
    ("self_attn.out_proj.bias", "self_attention/out/bias", "as_is"),
    ("self_attn_layer_norm.weight", "self_attention_residual/norm/scale", "as_is"),
    ("self_attn_layer_norm.bias", "self_attention_residual/norm/bias", "as_is"),
    ("fc1.weight", "mlp/in/kernel", "transpose"),
    ("fc1.bias", "mlp/in/bias", "as_is"),
    ("fc2.weight", "mlp/out/kernel", "transpose"),
    ("fc2.bias", "mlp/out/bias", "as_is"),
    ("final_layer_norm.weight", "mlp_residual/norm/scale", "as_is"),
    ("final_layer_norm.bias", "mlp_residual/norm/bias", "as_is"),
)

_DECODER = (
    *_ENCODER,
    ("encoder_attn.q_proj.weight", "cross_attention/query/kernel", "to_heads"),
    ("encoder_attn.q_proj.bias", "cross_attention/query/bias", "heads_bias"),
    ("encoder_attn.k_proj.weight", "cross_attention/key/kernel", "to_heads"),
    ("encoder_attn.k_proj.bias", "cross_attention/key/bias", "heads_bias"),
    ("encoder_attn.v_proj.weight", "cross_attention/value/kernel", "to_heads"),
    ("encoder_attn.v_proj.bias", "cross_attention/value/bias", "heads_bias"),
    ("encoder_attn.out_proj.weight", "cross_attention/out/kernel", "from_heads"),
    ("encoder_attn.out_proj.bias", "cross_attention/out/bias", "as_is"),
    ("encoder_attn_layer_norm.weight", "cross_attention_residual/norm/scale", "as_is"),
    ("encoder_attn_layer_norm.bias", "cross_attention_residual/norm/bias", "as_is"),
)

ROWS = (
    *_EMBEDDINGS,
    *((f"encoder.layers.*.{name}", f"encoder/layers/{ours}", how) for name, ours, how in _ENCODER),
    *((f"decoder.layers.*.{name}", f"decoder/layers/{ours}", how) for name, ours, how in _DECODER),
)

# mBART's alone: what comes after the last layer where norms come first.
FINAL_NORMS = (
    ("encoder.layer_norm.weight", "encoder/norm/scale", "as_is"),
    ("encoder.layer_norm.bias", "encoder/norm/bias", "as_is"),
    ("decoder.layer_norm.weight", "decoder/norm/scale", "as_is"),
    ("decoder.layer_norm.bias", "decoder/norm/bias", "as_is"),
)

# Tied to the first name: left out, but refused where they differ from it.
COPIES = {
    "shared.weight": (
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "lm_head.weight",
        "decoder.output_projection.weight",
    )
}
# Left out, but refused where they are not zero.
ZEROS = {"final_logits_bias": "our logits have no bias"}
# Left out, whatever they hold: {pattern: why}.
LEFT = {
    "classification_heads.*": "heads of other tasks",
    "classification_head.*": "a head of another task",
    "qa_outputs.*": "a head of another task",
    "encoder.version": "fairseq's format number",
    "decoder.version": "fairseq's format number",
    "encoder.embed_positions._float_tensor": "fairseq's record of a dtype",
    "decoder.embed_positions._float_tensor": "fairseq's record of a dtype",
}
# Ours alone, set so that words are embedded as BART embeds them: {parameter: why}.
DERIVED = {
    "type_embedding": "zero, so that words start as BART's",
    "turn_embedding": "zero, so that words start as BART's",
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
            "its number of heads, which no shape shows, is not known: there is no config.json "
            "(fairseq: no args) with it"
        )
    for size in ("attention_heads", "ffn_dim"):
        pair = config.get(f"encoder_{size}"), config.get(f"decoder_{size}")
        if pair[0] != pair[1]:
            problems.append(f"its encoder and decoder differ in {size}: {pair[0]}, {pair[1]}")
    if config.get("encoder_normalize_before"):
        problems.append("its norms come first, and it is not mBART")
    if config.get("tie_word_embeddings") is False:
        problems.append("its output embedding is not tied to the input's")
    return problems


_COMMON = dict(
    part="text",
    prefixes=("model.",),
    refusals=_refusals,
    left=LEFT,
    copies=COPIES,
    zeros=ZEROS,
    derived=DERIVED,
)
# Hugging Face's, and fairseq's model.pt, whose names differ in what is tied alone.
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
    download="what export writes; none whose config.json says scale_embedding",
    marker="encoder.layer_norm.weight",
    rows=ROWS + FINAL_NORMS,
    settings=functools.partial(_settings, True),
    **_COMMON,
)

"""What the values under `config.data` may be."""

import itertools

from ml_collections import ConfigDict

from igerg_jax.constraints import Choice, Range, check_constraints
from igerg_jax.data import input_parts, input_threads, tokenizers
from igerg_jax.errors import UserError

CONSTRAINTS = (
    Choice("preprocessing", input_parts.PREPROCESSING),
    Choice("image_backend", input_parts.BACKENDS),
    Choice("tokenizer.kind", tuple(tokenizers.KINDS)),
    Choice("tokenizer.model_type", tokenizers.MODEL_TYPES),
    Range("labels.min_confidence", at_least=0, at_most=1),
    Range("balance_emotions", at_least=0, at_most=1),
    Range("context_turns", at_least=0),
    Range("context_tokens", at_least=2),  # a token and its EOS
    Range("response_tokens", at_least=2),
    Range("image_size", at_least=1),
    Range("short_side", at_least=0),
    Range("feature_dim", at_least=0),
    Range("augment.crop_min_area", above=0, at_most=1),
    Range("augment.colour_jitter", at_least=0, below=1),
    Range("augment.erase_probability", at_least=0, at_most=1),
    Range("augment.erase_max_area", above=0, at_most=1),
    Range("tokenizer.vocab_size", at_least=8),  # more than the special tokens
    Range("tokenizer.max_sentences", at_least=1),
    Range("prepare_workers", at_least=0),
    Range("prefetch_batches", at_least=1),
    Range("read_threads", at_least=1),
)


def check(data: ConfigDict) -> None:
    """Raises UserError for a value that is not allowed; the message names the key."""
    check_constraints("data", data, CONSTRAINTS)
    _check_length_buckets(data)
    if data.image_backend == input_parts.OPENCV:
        input_threads.opencv()
    if 0 < data.short_side < data.image_size:
        raise UserError(
            f"data.short_side={data.short_side} is below data.image_size={data.image_size}: images "
            "would be scaled down, then up again; 0 keeps them as they are"
        )
    if data.reverse and data.use_images:
        raise UserError(
            "data.reverse=True is for words alone, since it would show the response's image beside "
            "the wrong turn: set data.use_images=False, as configs/backward.py does"
        )


def _check_length_buckets(data: ConfigDict) -> None:
    full = (data.context_tokens, data.response_tokens)
    sizes = [*data.length_buckets, full]
    in_order = all(map(_is_size, sizes)) and all(
        smaller[0] <= larger[0] and smaller[1] <= larger[1] and tuple(smaller) != tuple(larger)
        for smaller, larger in itertools.pairwise(sizes)
    )
    if not in_order:
        raise UserError(
            f"data.length_buckets={data.length_buckets} must be pairs of (context, response) "
            "tokens, at least 2 of each, from small to large and all below "
            f"(data.context_tokens, data.response_tokens)={full}; () turns them off"
        )


def _is_size(size: object) -> bool:
    is_pair = isinstance(size, list | tuple) and [type(tokens) for tokens in size] == [int, int]
    return is_pair and min(size) >= 2  # a token and its EOS

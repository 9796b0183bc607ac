"""What the values under `config.data` may be."""

from ml_collections import ConfigDict

from igerg_jax.constraints import Choice, Range, check_constraints
from igerg_jax.data import input_graph, tokenizers
from igerg_jax.errors import UserError

CONSTRAINTS = (
    Choice("preprocessing", input_graph.PREPROCESSING),
    Choice("tokenizer.kind", tuple(tokenizers.KINDS)),
    Choice("tokenizer.model_type", tokenizers.MODEL_TYPES),
    Range("labels.min_confidence", at_least=0, at_most=1),
    Range("balance_emotions", at_least=0, at_most=1),
    Range("context_turns", at_least=0),
    Range("context_tokens", at_least=2),  # a token and its EOS
    Range("response_tokens", at_least=2),
    Range("image_size", at_least=1),
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
    if data.reverse and data.use_images:
        raise UserError(
            "data.reverse=True is for words alone, since it would show the response's image beside "
            "the wrong turn: set data.use_images=False, as configs/backward.py does"
        )

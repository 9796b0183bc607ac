"""MMI re-ranking (Li et al. 2016, https://arxiv.org/abs/1510.03055) of a beam search's hypotheses.

The response is the hypothesis with the highest

    (1 - a) * log p(response | context, images) / length ** length_penalty
        + a * log p(context | response)

so that what could answer anything loses to what answers this context. The second model is one that
`configs/backward.py` trains; it reads words alone. Letters as in `igerg_jax.decoding.search`, and
K beams.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igerg_jax.constraints import Range, check_constraints
from igerg_jax.decoding.beam_search import Hypotheses
from igerg_jax.errors import UserError
from igerg_jax.models.igerg import Igerg, TextSide, shift_right
from igerg_jax.models.settings import select
from igerg_jax.objectives import losses
from igerg_jax.run import checkpoint, recorded_config
from igerg_jax.setup import Setup, set_up


@dataclasses.dataclass(frozen=True)
class Reranking:
    """The keys of `config.generate` that say whether and by what to re-rank."""

    strategy: str
    mmi_checkpoint: str
    mmi_weight: float  # a; 0 = no re-ranking

    @classmethod
    def of(cls, config: Any) -> "Reranking":
        """Raises UserError for a weight out of range, or without beams or a checkpoint."""
        chosen = select(cls, config.generate)
        weight = Range("mmi_weight", at_least=0, at_most=1)
        check_constraints("generate", vars(chosen), [weight])
        if chosen.mmi_weight and chosen.strategy != "beam":
            raise UserError(
                f"generate.mmi_weight={chosen.mmi_weight} re-ranks beams: set "
                "generate.strategy='beam', or the weight to 0"
            )
        if chosen.mmi_weight and not chosen.mmi_checkpoint:
            raise UserError(
                f"generate.mmi_weight={chosen.mmi_weight} needs a run of configs/backward.py: name "
                "it in generate.mmi_checkpoint, or set the weight to 0"
            )
        return chosen


class Backward(NamedTuple):
    """A model of log p(context | response), and the weight of what it says."""

    model: Igerg
    params: Any
    weight: float


def load(setup: Setup, tokenizer_digest: str) -> Backward | None:
    """What `setup.config.generate` says to re-rank by, on the setup's mesh; None = nothing.

    Args:
      tokenizer_digest: of the run's tokenizer, which must be the backward model's too.

    Raises:
      UserError: no such checkpoint, or it was not trained for this, with this tokenizer, or for
        texts of this length.
    """
    settings = Reranking.of(setup.config)
    if not settings.mmi_weight:
        return None
    where = f"generate.mmi_checkpoint='{settings.mmi_checkpoint}'"
    folder = checkpoint.find(settings.mmi_checkpoint)
    config = recorded_config.for_this_version(checkpoint.read_run(folder)["config"], folder)
    if not config.data.reverse:
        raise UserError(f"{where} predicts responses: give a run of configs/backward.py")
    longest = max(setup.config.data.context_tokens, setup.config.generate.max_tokens)
    if longest > config.model.text.max_positions:
        raise UserError(
            f"{where} has model.text.max_positions={config.model.text.max_positions}, below the "
            f"{longest} tokens of this run's data.context_tokens or generate.max_tokens"
        )
    config.mesh, config.sharding_rules = setup.config.mesh, setup.config.sharding_rules
    model = setup.model
    theirs = set_up(config, model.vocab_size, model.special, list(setup.mesh.devices.flat))
    params, _ = checkpoint.load_params(folder, theirs, tokenizer_digest=tokenizer_digest)
    return Backward(theirs.model, params, settings.mmi_weight)


def rerank(
    hypotheses: Hypotheses, backward: Backward, batch: Mapping[str, jax.Array]
) -> Hypotheses:
    """The hypotheses with the scores of re-ranking, best first. The first wins ties."""
    log_p_BxK = log_probability(backward, hypotheses.tokens_BxKxT, batch["context"])
    score_BxK = (1 - backward.weight) * hypotheses.score_BxK + backward.weight * log_p_BxK
    order_BxK = jnp.argsort(score_BxK, axis=1, descending=True, stable=True)
    pick = jax.vmap(lambda x_K, order_K: x_K[order_K])
    ranked = hypotheses._replace(score_BxK=score_BxK)
    return Hypotheses(*(pick(leaf, order_BxK) for leaf in ranked))


def log_probability(
    backward: Backward, tokens_BxKxT: jax.Array, context_BxS: jax.Array
) -> jax.Array:
    """float32 [B, K]: log p(context | response) in nats, of the context's tokens, EOS included."""
    rows, beams, _ = tokens_BxKxT.shape
    model, pad = backward.model, backward.model.special.pad
    apply = functools.partial(model.apply, {"params": backward.params})
    tokens_RxT = tokens_BxKxT.reshape(rows * beams, -1)
    context_RxS = jnp.repeat(context_BxS, beams, axis=0)
    words = TextSide(tokens_RxT, jnp.zeros_like(tokens_RxT), tokens_RxT != pad)
    encoded = apply(None, words, method="encode")
    inputs_RxS = shift_right(context_RxS, model.special)
    arguments = inputs_RxS, encoded.hidden_BxLxD, encoded.mask_BxL, None
    sums = losses.vocabulary(
        apply(*arguments, method="decode"),
        backward.params["token_embedding"],
        context_RxS,
        context_RxS != pad,
        model.vocab_chunk_tokens,
    )
    return -sums.loss_B.reshape(rows, beams)

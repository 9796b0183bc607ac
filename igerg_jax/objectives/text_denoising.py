"""Text infilling and turn shuffling, as BART's pre-training (https://arxiv.org/abs/1910.13461)."""

from igerg_jax.constraints import Range
from igerg_jax.models.igerg import TextSide
from igerg_jax.objectives import corruption
from igerg_jax.objectives.base import WORDS, Context, EncoderInput, Objective, Result, one_term
from igerg_jax.objectives.display import Line, Row


class TextDenoising(Objective):
    """Reconstructs the original context from masked spans and shuffled turns."""

    name = "text_denoising"
    summary = "rebuild a text from masked spans and shuffled turns"
    needs = (WORDS,)
    constraints = (
        Range("mask_fraction", at_least=0, below=1),
        Range("mean_span_tokens", above=0, at_most=100),  # far beyond it, exp(-mean) is 0
    )

    def encoder_input(self, context: Context) -> EncoderInput:
        settings, special = context.settings, context.model.special
        tokens_BxS, turn_BxS = corruption.shuffle_turns(
            context.row_keys("shuffle"),
            context.batch["context"],
            context.batch["context_turn"],
            special,
        )
        tokens_BxS, turn_BxS = corruption.infill(
            context.row_keys("infill"),
            tokens_BxS,
            turn_BxS,
            settings["mask_fraction"],
            settings["mean_span_tokens"],
            special,
        )
        return EncoderInput(TextSide(tokens_BxS, turn_BxS, tokens_BxS != special.pad), None)

    def loss(self, context: Context) -> Result:
        target_BxS = context.batch["context"]
        hidden_BxSxD = context.decode(target_BxS)
        return one_term(context.token_loss(hidden_BxSxD, target_BxS))

    def show(self, row: Row) -> list[Line]:
        context_S, turn_S = row.arrays["context"], row.arrays["context_turn"]
        return [row.encoder_line(), *row.decoder_lines(context_S, turn_S)]


OBJECTIVE = TextDenoising()

"""Which images belong to which words: a sigmoid contrastive loss, as SigLIP's."""

from collections.abc import Mapping
from typing import Any

import jax

from igerg_jax.constraints import Choice
from igerg_jax.models.partitioning import by_slice
from igerg_jax.objectives import base, losses
from igerg_jax.objectives.base import Context, EncoderInput, Result, one_term
from igerg_jax.objectives.display import Line, Row


class ImageTextContrastive(base.Objective):
    """Binds a window's images to its words.

    With `negatives` "batch", every other pair of the global batch (of an accumulation step's part
    of it) is a negative. With "slice", those of the same slice are, so that no slice sends its
    vectors to another; the loss then depends on `mesh.dcn`, and on nothing else of the mesh.
    """

    name = "image_text_contrastive"
    summary = "tell which images belong to which words"
    needs = (base.IMAGES, base.WORDS)
    trains = (
        "contrastive_image",
        "contrastive_text",
        "contrastive_log_scale",
        "contrastive_bias",
    )
    constraints = (Choice("negatives", ("batch", "slice")),)

    def encoder_input(self, context: Context) -> EncoderInput:
        return EncoderInput(context.text, None)

    def loss(self, context: Context) -> Result:
        image_BxG, text_BxG, log_scale, bias = context.apply(
            "contrastive_vectors", context.image_encoding, context.encoding
        )
        paired_B = context.batch["image_mask"].any(1) & context.text.mask_BxS.any(1)
        pairs = image_BxG, text_BxG, paired_B
        if context.settings["negatives"] == "batch":
            return one_term(losses.sigmoid_contrastive(*pairs, log_scale, bias))
        loss_per_slice = jax.vmap(losses.sigmoid_contrastive, (0, 0, 0, None, None))
        sums = loss_per_slice(*map(by_slice, pairs), log_scale, bias)
        return one_term(jax.tree.map(lambda x: x.sum(), sums))

    def show(self, row: Row) -> list[Line]:
        tokens = row.encoder_line().tokens
        return [Line("Which of the batch's image sequences goes with", tokens)]

    def fixed_keys(self, settings: Mapping[str, Any]) -> dict[str, str]:
        why = (
            f"objectives.{self.name}.negatives 'slice' makes the loss depend on the number of "
            "slices; give that number"
        )
        return {"mesh.dcn": why} if settings["negatives"] == "slice" else {}


OBJECTIVE = ImageTextContrastive()

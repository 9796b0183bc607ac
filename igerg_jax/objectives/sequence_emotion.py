"""The emotion of an image sequence as a whole (the original's "cls")."""

import jax.numpy as jnp

from igerg_jax.batch import UNKNOWN
from igerg_jax.objectives import losses
from igerg_jax.objectives.base import IMAGES, LABELLED_IMAGES, Context, Objective, Result, one_term
from igerg_jax.objectives.display import Line, Row


class SequenceEmotion(Objective):
    """Classifies the sequence from CLS of the encoding of the images alone."""

    name = "sequence_emotion"
    summary = "name the emotion of the whole image sequence"
    needs = (IMAGES, LABELLED_IMAGES)
    trains = ("sequence_emotion_head",)

    def loss(self, context: Context) -> Result:
        logits_BxC = context.apply("sequence_emotion_logits", context.image_encoding)
        has_images_B = context.batch["image_mask"].any(1)
        labels_B = jnp.where(has_images_B, context.batch["sequence_emotion"], UNKNOWN)
        return one_term(losses.classification(logits_BxC, labels_B))

    def show(self, row: Row) -> list[Line]:
        has_images = row.arrays["image_mask"].any()
        emotion = int(row.arrays["sequence_emotion"]) if has_images else UNKNOWN
        caption = "The encoder is given the images alone; CLS has to name"
        return [Line(caption, [], ((-1, emotion),))]


OBJECTIVE = SequenceEmotion()

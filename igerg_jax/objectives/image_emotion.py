"""Each image's emotion, in an image sequence (the original's "isl")."""

import jax.numpy as jnp

from igerg_jax.batch import UNKNOWN
from igerg_jax.constraints import Range
from igerg_jax.models.igerg import Encoded
from igerg_jax.objectives import losses
from igerg_jax.objectives.base import IMAGES, LABELLED_IMAGES, Context, Objective, Result, one_term
from igerg_jax.objectives.display import Line, Row


class ImageEmotion(Objective):
    """Classifies every image from the encoding of the images alone."""

    name = "image_emotion"
    summary = "name each image's emotion, from the images alone"
    needs = (IMAGES, LABELLED_IMAGES)
    trains = ("emotion_head",)

    constraints = (Range("label_smoothing", at_least=0, below=1),)

    def loss(self, context: Context) -> Result:
        smoothing = context.settings["label_smoothing"]
        return one_term(classify_images(context, context.image_encoding, smoothing))

    def show(self, row: Row) -> list[Line]:
        caption = "The encoder is given the images alone, and has to name each one's emotion"
        return [Line(caption, [], row.image_emotions())]


def classify_images(
    context: Context, encoding: Encoded, label_smoothing: float = 0.0
) -> losses.Sums:
    """Cross-entropy of the labelled images' emotions, from an encoding with images."""
    logits_BxNxC = context.apply("image_emotion_logits", encoding)
    batch = context.batch
    labels_BxN = jnp.where(batch["image_mask"], batch["image_emotion"], UNKNOWN)
    return losses.classification(logits_BxNxC, labels_BxN, label_smoothing)


OBJECTIVE = ImageEmotion()

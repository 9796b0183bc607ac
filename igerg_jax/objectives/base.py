"""What an objective is, what it is given, and what it returns.

The loss that training minimises is

    sum over objectives of weight * sum over their terms of scale * loss_sum / count

with counts over the global batch. An objective may have several terms, since a mean over tokens
and a mean over images cannot share a count. Letters as in `igerg_jax.batch`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax

from igerg_jax.constraints import Choice, Range, check_constraints
from igerg_jax.models import igerg
from igerg_jax.models.igerg import Encoded, Igerg, ImageSide, TextSide, shift_right
from igerg_jax.objectives import losses
from igerg_jax.objectives.display import Line, Row
from igerg_jax.random_keys import batch_key, named_key, row_keys

Batch = Mapping[str, jax.Array]


class Need(NamedTuple):
    """Something that a split must have."""

    count: str  # the key of the split's summary that may not be 0
    words: str  # what it counts, for messages


IMAGES = Need("images", "images")
LABELLED_IMAGES = Need("labelled_images", "images with an emotion")
WORDS = Need("turns_with_words", "words")
LABELLED_TURNS = Need("labelled_turns", "turns with an emotion")
DIALOGUES = Need("dialogues", "turns that answer others")


class Term(NamedTuple):
    """A part of a loss: float32 scalars, worth scale * loss_sum / count."""

    loss_sum: jax.Array
    count: jax.Array
    scale: jax.Array | float = 1.0


class Result(NamedTuple):
    """Terms by name ("" if there is one), and metrics by name as (sum, count)."""

    terms: dict[str, Term]
    metrics: dict[str, tuple[jax.Array, jax.Array]]

    def __or__(self, other: Result) -> Result:
        return Result(self.terms | other.terms, self.metrics | other.metrics)


def one_term(sums: losses.Sums, name: str = "", scale: jax.Array | float = 1.0) -> Result:
    """A term and its accuracy."""
    accuracy = f"{name}_accuracy" if name else "accuracy"
    return Result(
        {name: Term(sums.loss_sum, sums.count, scale)}, {accuracy: (sums.correct, sums.count)}
    )


class EncoderInput(NamedTuple):
    """What the encoder is given for an objective: text, images, or both.

    `drawn` is not for the encoder: random arrays [B, ...] that went into this input (a mask, say)
    and that the objective's `loss` and `show` need again, or None.
    """

    text: TextSide | None
    images: ImageSide | None
    drawn: Any = None


@dataclasses.dataclass(frozen=True)
class Context:
    """What an objective is given in a step."""

    model: Igerg  # its methods are called through `apply`
    batch: Batch  # exactly the arrays of `igerg_jax.batch`, of the objective's mixture
    rows_B: jax.Array  # int32, the examples' places in the global batch, which key their randomness
    settings: Mapping[str, Any]  # the keys of `config.objectives.<name>`
    step: jax.Array | int
    key: jax.Array  # this objective's, at this step
    # None, like the fields below, where there are no parameters (a tool that shows inputs).
    visual_BxNxKxD: jax.Array | None = None
    encoder_input: EncoderInput | None = None  # `Objective.encoder_input`'s; None while that runs
    params: Any = None
    # The parameters as training started; None where `needs_reference` is False, and for tools that
    # only count: then they are `params`.
    reference: Any = None
    image_encoding: Encoded | None = None  # of the images alone
    encoding: Encoded | None = None  # of `encoder_input`

    @property
    def images(self) -> ImageSide:
        """The batch's images, as the encoder takes them."""
        return igerg.image_side(self.batch, self.visual_BxNxKxD)

    @property
    def text(self) -> TextSide:
        """The batch's context, uncorrupted, as the encoder takes it."""
        return igerg.text_side(self.batch, self.model.special)

    def row_keys(self, draw: str) -> jax.Array:
        """One key per example [B], for what `draw` names."""
        return row_keys(named_key(self.key, draw), self.rows_B)

    def batch_key(self, draw: str) -> jax.Array:
        """A key for noise over the whole batch, for what `draw` names."""
        return batch_key(named_key(self.key, draw), self.rows_B)

    def apply(self, method: str, *args, params: Any = None, dropout_key: jax.Array | None = None):
        """Calls a method of the model; without a key, without dropout."""
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        variables = {"params": self.params if params is None else params}
        return self.model.apply(variables, *args, method=method, rngs=rngs)

    def decode(
        self, target_BxT: jax.Array, target_emotion_BxC: jax.Array | None = None
    ) -> jax.Array:
        """The decoder's output [B, T, D] on `encoding`, given the targets before each position.

        Also for several responses to each row, side by side: [B * K, T] to [B * K, T, D].

        Args:
          target_emotion_BxC: None = conditioned on no emotion.
        """
        return self.apply(
            "decode",
            shift_right(target_BxT, self.model.special),
            self.encoding.hidden_BxLxD,
            self.encoding.mask_BxL,
            target_emotion_BxC,
            dropout_key=self.batch_key("decoder dropout"),
        )

    def token_loss(
        self, hidden_BxTxD: jax.Array, target_BxT: jax.Array, mask_BxT: jax.Array | None = None
    ) -> losses.Sums:
        """Cross-entropy of the tokens where `mask` (bool) is True; by default, of all but PAD."""
        return self.token_loss_by_row(hidden_BxTxD, target_BxT, mask_BxT).total()

    def token_loss_by_row(
        self, hidden_BxTxD: jax.Array, target_BxT: jax.Array, mask_BxT: jax.Array | None = None
    ) -> losses.RowSums:
        """`token_loss` of each example."""
        if mask_BxT is None:
            mask_BxT = target_BxT != self.model.special.pad
        return losses.vocabulary(
            hidden_BxTxD,
            self.params["token_embedding"],
            target_BxT,
            mask_BxT,
            self.model.vocab_chunk_tokens,
        )


class Objective(abc.ABC):
    """A pre-training objective; a subclass says everything about one."""

    name: ClassVar[str]  # its key under `config.objectives`, which has `weight` and its settings
    summary: ClassVar[str]  # completes "the model learns to ...", for reports and pages
    needs: ClassVar[tuple[Need, ...]] = ()  # what a dataset must have for it
    trains: ClassVar[tuple[str, ...]] = ()  # those of the model's `OPTIONAL_PARTS` that learn by it
    constraints: ClassVar[tuple[Choice | Range, ...]] = ()  # on its settings but for `weight`

    @abc.abstractmethod
    def loss(self, context: Context) -> Result:
        """The terms of its loss, and its metrics."""

    def encoder_input(self, context: Context) -> EncoderInput | None:
        """What the encoder is to be given for it; None = it only needs the images' encoding.

        All objectives on a batch share one pass of the encoder.
        """
        return None

    def show(self, row: Row) -> list[Line]:
        """What it receives of one example, for a person to read."""
        return [row.encoder_line()] if row.encoder_input else []

    def fixed_keys(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """{config key outside `settings` that the loss depends on: why}.

        Such a key must be given, so not be -1, and must not change when a run resumes.
        """
        return {}

    def reads(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Those of the model's `OPTIONAL_PARTS` that the loss reads and that do not learn by it."""
        return ()

    def needs_reference(self, settings: Mapping[str, Any]) -> bool:
        """Whether the loss reads the parameters as training started, `Context.reference`."""
        return False

    def check(self, settings: Mapping[str, Any], model: Mapping[str, Any]) -> None:
        """Raises UserError for an invalid setting, or one that contradicts `config.model`."""
        declared = (Range("weight", at_least=0), *self.constraints)
        check_constraints(f"objectives.{self.name}", settings, declared)

"""The model: images and words fused in one encoder, a response decoder, and the heads.

    encoder input = [CLS] image tokens (N*K) text tokens (S)

An image's tokens and its turn's words share one turn embedding, so that the encoder can tell
whose face belongs to which words. Letters as in `igerg_jax.batch`, and P = the positions of a row
that holds several sequences, or of a prefix.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from igerg_jax.batch import NUM_EMOTIONS, SpecialIds
from igerg_jax.models import initializers
from igerg_jax.models.attention import split
from igerg_jax.models.heads import EmotionHead, Judge, MaskedTokenHead
from igerg_jax.models.layers import (
    Decoder,
    DecoderCache,
    DecodingStep,
    Encoder,
    dense,
    dropout,
    layer_norm,
)
from igerg_jax.models.partitioning import lookup, replicate_small_parameter, shard_activations
from igerg_jax.models.settings import JudgeSettings, TextSettings

IMAGE_TYPE, TEXT_TYPE = 0, 1  # rows of the type embedding

# Where the decoder is conditioned on an emotion: nowhere, at its input, at its output, or at both.
EMOTION_EMBEDDINGS = ("none", "input", "output", "both")

# The parts that a model may lack, by their names among its parameters: each is for some objectives
# only (`Objective.trains`, `Objective.reads`).
OPTIONAL_PARTS = (
    "emotion_head",
    "sequence_emotion_head",
    "masked_token_head",
    "judge_network",
    "contrastive_image",
    "contrastive_text",
    "contrastive_log_scale",
    "contrastive_bias",
)
# Those that predict an emotion, by the name of its label in a batch.
EMOTION_PARTS = {
    "image_emotion": "emotion_head",
    "sequence_emotion": "sequence_emotion_head",
    "response_emotion": "judge_network",
}


class ImageSide(NamedTuple):
    """The encoder's visual input: visual tokens, which images are real (bool), and their turns."""

    visual_BxNxKxD: jax.Array
    mask_BxN: jax.Array
    turn_BxN: jax.Array


class TextSide(NamedTuple):
    """The encoder's textual input: token ids, their turns, and which are real (bool)."""

    tokens_BxS: jax.Array
    turn_BxS: jax.Array
    mask_BxS: jax.Array


def text_side(batch: Mapping[str, jax.Array], special: SpecialIds) -> TextSide:
    """The uncorrupted context of a batch."""
    return TextSide(batch["context"], batch["context_turn"], batch["context"] != special.pad)


def image_side(batch: Mapping[str, jax.Array], visual_BxNxKxD: jax.Array) -> ImageSide:
    """The images of a batch, of which `Igerg.visual_tokens` made `visual_BxNxKxD`."""
    return ImageSide(visual_BxNxKxD, batch["image_mask"], batch["image_turn"])


def response_image(batch: Mapping[str, jax.Array], special: SpecialIds) -> jax.Array:
    """bool [B, N]: the image of the response's own turn, the one after the context's last turn.

    All False where that turn has no image, or the model is not shown it. Takes NumPy arrays too.
    """
    response_turn_B = (batch["context_turn"] * (batch["context"] != special.pad)).max(1) + 1
    return batch["image_mask"] & (batch["image_turn"] == response_turn_B[:, None])


def target_emotion(image_logits_BxNxC: jax.Array, response_image_BxN: jax.Array) -> jax.Array:
    """What the decoder is conditioned on where nobody names an emotion, float32 [B, C].

    The probabilities that `Igerg.image_emotion_logits` gives the response's image; all 0, which
    conditions on nothing, without one.
    """
    p_BxNxC = jax.nn.softmax(image_logits_BxNxC)
    return jnp.where(response_image_BxN[..., None], p_BxNxC, 0.0).sum(1)


def shift_right(targets_BxT: jax.Array, special: SpecialIds) -> jax.Array:
    """The decoder's input for `targets`: the start token, then all but the last target."""
    start_Bx1 = jnp.full_like(targets_BxT[:, :1], special.decoder_start)
    return jnp.concatenate([start_Bx1, targets_BxT[:, :-1]], axis=1)


class Encoded(NamedTuple):
    """The encoder's output, as one sequence and by part; None for a part without an input."""

    hidden_BxLxD: jax.Array
    mask_BxL: jax.Array
    cls_BxD: jax.Array | None
    images_BxNxD: jax.Array | None  # mean over an image's K tokens
    text_BxSxD: jax.Array | None


class Igerg(nn.Module):
    """Image-grounded emotional response generation.

    Each objective calls the methods that it needs through `apply(..., method=...)`. A method that
    needs an optional part raises flax's ScopeParamNotFoundError where the parameters lack it.

    Attributes:
      parts: those of `OPTIONAL_PARTS` that `init` makes parameters for.
      vision_tower: one of `igerg_jax.models.vision`, [I, ...] to [I, K, W].
      tokens_per_image: K.
      vision_frozen: whether the tower gets no gradient.
      turn_embeddings: whether an image and its turn's words share a learned vector.
      emotion_embedding: one of `EMOTION_EMBEDDINGS`: where the decoder is conditioned on its target
        emotion, by learned vectors that are added at every position.
      emotion_scale: of those vectors, which start as small as any other embedding.
      contrastive_width: G.
      vocab_chunk_tokens: sequence positions whose [B, chunk, V] logits exist at once.
      max_turns: turns of a window, the response's own included.
      dtype: of activations.
    """

    parts: tuple[str, ...]
    vision_tower: nn.Module
    tokens_per_image: int
    vision_frozen: bool
    text: TextSettings
    judge: JudgeSettings
    turn_embeddings: bool
    emotion_embedding: str
    emotion_scale: float
    contrastive_width: int
    vocab_chunk_tokens: int
    vocab_size: int
    max_turns: int
    special: SpecialIds
    dtype: jnp.dtype

    def setup(self):
        dtype, width = self.dtype, self.text.width
        self.image_projection = dense(width, dtype, None, "patch", "embed")

        def table(name: str, rows: int) -> jax.Array:
            table_init = initializers.normal("positions", "embed")
            return replicate_small_parameter(self.param(name, table_init, (rows, width)))

        self.token_embedding_VxD = self.param(
            "token_embedding", initializers.normal("vocab", "embed"), (self.vocab_size, width)
        )
        self.encoder_positions = table("encoder_position_embedding", self.text.max_positions)
        self.decoder_positions = table("decoder_position_embedding", self.text.max_positions)
        self.cls_1xD = table("cls_embedding", 1)
        self.type_2xD = table("type_embedding", 2)
        self.image_slot_KxD = table("image_slot_embedding", self.tokens_per_image)
        if self.turn_embeddings:
            self.turn_table = table("turn_embedding", self.max_turns)
        self.emotion_tables = {
            place: table(f"emotion_{place}_embedding", NUM_EMOTIONS)
            for place in ("input", "output")
            if self.emotion_embedding in (place, "both")
        }
        self.embedding_norm = layer_norm(None)
        self.decoder_embedding_norm = layer_norm(None)
        self.encoder = Encoder(self.text.encoder)
        self.decoder = Decoder(self.text.decoder)
        self.emotion_head = EmotionHead(dtype)  # of image_emotion and masked_multimodal
        self.sequence_emotion_head = EmotionHead(dtype)
        self.masked_token_head = MaskedTokenHead(dtype)
        self.judge_network = Judge(self.judge)
        self.contrastive_image = dense(self.contrastive_width, dtype, None, "embed", "mlp")
        self.contrastive_text = dense(self.contrastive_width, dtype, None, "embed", "mlp")

    def __call__(self, batch: Mapping[str, jax.Array]) -> None:
        """Uses every parameter once, for `init` to trace: Linen makes those of a submodule when it
        is called. Returns nothing."""
        images = image_side(batch, self.visual_tokens(batch))
        words = text_side(batch, self.special)
        encoded = self.encode(images, words)
        if "emotion_head" in self.parts:
            self.image_emotion_logits(encoded)
        if "sequence_emotion_head" in self.parts:
            self.sequence_emotion_logits(encoded)
        if "masked_token_head" in self.parts:
            self.masked_token_hidden(encoded.text_BxSxD)
        no_emotion_BxC = jnp.zeros((batch["response"].shape[0], NUM_EMOTIONS))
        self.decode(batch["response"], encoded.hidden_BxLxD, encoded.mask_BxL, no_emotion_BxC)
        if "judge_network" in self.parts:
            self.judge_tokens(batch["response"])
        if "contrastive_image" in self.parts:
            self.contrastive_vectors(encoded, encoded)

    def visual_tokens(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Visual tokens [B, N, K, D] of `images` (uint8) or `features` (float32) of a batch."""
        if "features" in batch:
            # A masked vector may hold anything, NaN too: none of it may reach a gradient.
            pixels = jnp.where(batch["image_mask"][..., None], batch["features"], 0.0)
        else:
            pixels = batch["images"]
        b, n = pixels.shape[:2]
        visual_IxKxW = self.vision_tower(pixels.reshape(b * n, *pixels.shape[2:]))
        if self.vision_frozen:
            visual_IxKxW = jax.lax.stop_gradient(visual_IxKxW)
        visual_IxKxD = self.image_projection(visual_IxKxW)
        return visual_IxKxD.reshape(b, n, *visual_IxKxD.shape[1:])

    def _dropout(self, x: jax.Array) -> jax.Array:
        return dropout(self, self.text.encoder.dropout_rate, x)

    def _turns(self, turn: jax.Array) -> jax.Array:
        """The embeddings of turn numbers; zeros without turn embeddings."""
        return self.turn_table[turn] if self.turn_embeddings else jnp.zeros((*turn.shape, 1))

    def encode(self, images: ImageSide | None, words: TextSide | None) -> Encoded:
        """Encodes both sides together, or one of them alone (single-modal objectives)."""
        return self.encode_all([(images, words)])[0]

    def encode_all(
        self, inputs: Sequence[tuple[ImageSide | None, TextSide | None]]
    ) -> list[Encoded]:
        """`encode` of several inputs to each example, in one pass of the encoder.

        They lie side by side in a row, so that all but attention itself runs once for all of them.
        """
        embedded, masks = zip(*(self._embed(*each) for each in inputs), strict=True)
        lengths = tuple(mask_BxL.shape[1] for mask_BxL in masks)
        x_BxPxD = self.embedding_norm(jnp.concatenate(embedded, axis=1)).astype(self.dtype)
        x_BxPxD = shard_activations(self._dropout(x_BxPxD))
        hidden_BxPxD = self.encoder(x_BxPxD, jnp.concatenate(masks, axis=1), lengths)
        hidden = split(hidden_BxPxD, lengths)
        return [
            self._by_part(hidden_BxLxD, mask_BxL, *each)
            for hidden_BxLxD, mask_BxL, each in zip(hidden, masks, inputs, strict=True)
        ]

    def _embed(
        self, images: ImageSide | None, words: TextSide | None
    ) -> tuple[jax.Array, jax.Array]:
        """The encoder's input, float32 [B, L, D], and bool [B, L]: which positions are real."""
        mask = images.mask_BxN if images is not None else words.mask_BxS
        batch_size = mask.shape[0]
        parts = [jnp.broadcast_to(self.cls_1xD[None], (batch_size, 1, self.text.width))]
        masks = [jnp.ones((batch_size, 1), bool)]
        if images is not None:
            parts.append(self._embed_images(images))
            masks.append(jnp.repeat(images.mask_BxN, self.tokens_per_image, axis=1))
        if words is not None:
            parts.append(self._embed_words(words))
            masks.append(words.mask_BxS)
        x_BxLxD = jnp.concatenate([part.astype(jnp.float32) for part in parts], axis=1)
        return x_BxLxD, jnp.concatenate(masks, axis=1)

    def _embed_images(self, images: ImageSide) -> jax.Array:
        """[B, N * K, D]."""
        x_BxNxKxD = images.visual_BxNxKxD + self._turns(images.turn_BxN)[:, :, None]
        x_BxNxKxD = x_BxNxKxD + self.image_slot_KxD[None, None]
        x_BxNxKxD = x_BxNxKxD + self.type_2xD[IMAGE_TYPE][None, None, None]
        x_BxNxKxD = jnp.where(images.mask_BxN[:, :, None, None], x_BxNxKxD, 0.0)
        return x_BxNxKxD.reshape(x_BxNxKxD.shape[0], -1, self.text.width)

    def _embed_words(self, words: TextSide) -> jax.Array:
        """[B, S, D]."""
        length = words.tokens_BxS.shape[1]
        x_BxSxD = lookup(self.token_embedding_VxD, words.tokens_BxS) + self._turns(words.turn_BxS)
        x_BxSxD = x_BxSxD + self.encoder_positions[None, :length]
        x_BxSxD = x_BxSxD + self.type_2xD[TEXT_TYPE][None, None]
        return jnp.where(words.mask_BxS[..., None], x_BxSxD, 0.0)

    def _by_part(self, hidden_BxLxD, mask_BxL, images, words) -> Encoded:
        text_start = 1
        images_BxNxD = text_BxSxD = None
        if images is not None:
            b, n, k, d = images.visual_BxNxKxD.shape
            text_start += n * k
            images_BxNxD = hidden_BxLxD[:, 1:text_start].reshape(b, n, k, d).mean(axis=2)
        if words is not None:
            text_BxSxD = hidden_BxLxD[:, text_start:]
        return Encoded(hidden_BxLxD, mask_BxL, hidden_BxLxD[:, 0], images_BxNxD, text_BxSxD)

    def image_emotion_logits(self, encoded: Encoded) -> jax.Array:
        """float32 [B, N, C]."""
        return self.emotion_head(encoded.images_BxNxD)

    def sequence_emotion_logits(self, encoded: Encoded) -> jax.Array:
        """float32 [B, C], from CLS."""
        return self.sequence_emotion_head(encoded.cls_BxD)

    def masked_token_hidden(self, text_BxMxD: jax.Array) -> jax.Array:
        """[B, M, D] of the encoder's output at M text positions, for the tied output layer."""
        return self.masked_token_head(text_BxMxD)

    def decode(
        self,
        tokens_BxT: jax.Array,
        encoded_BxLxD: jax.Array,
        encoded_mask_BxL: jax.Array,
        target_emotion_BxC: jax.Array | None,
    ) -> jax.Array:
        """[B, T, D] for the input ids `tokens` (see `shift_right`), all positions at once.

        Also [B * K, T, D] for K sequences to each row of `encoded`, side by side.

        Args:
          target_emotion_BxC: probabilities of the emotion to respond with; all 0, or None, where
            the decoder is conditioned on none. `emotion_embedding` "none" ignores it.
        """
        x_BxTxD = self._decoder_input(tokens_BxT, 0, target_emotion_BxC)
        hidden, _ = self.decoder(x_BxTxD, encoded_BxLxD, encoded_mask_BxL, None, None, False)
        return self._condition("output", hidden, target_emotion_BxC)

    def start_decoding(
        self,
        tokens_BxP: jax.Array,
        encoded_BxLxD: jax.Array,
        encoded_mask_BxL: jax.Array,
        target_emotion_BxC: jax.Array | None,
        max_tokens: int,
    ) -> tuple[jax.Array, DecoderCache]:
        """Decodes a prefix (at least the start token) into a new cache of `max_tokens` places.

        Returns:
          ([B, P, D], every layer's cache, with a leading layer axis).
        """
        x_BxPxD = self._decoder_input(tokens_BxP, 0, target_emotion_BxC)
        hidden, cache = self.decoder(x_BxPxD, encoded_BxLxD, encoded_mask_BxL, None, None, True)
        past = cache.self_attention.with_room(max_tokens - tokens_BxP.shape[1])
        hidden = self._condition("output", hidden, target_emotion_BxC)
        return hidden, DecoderCache(past, cache.cross_attention)

    def decode_step(
        self,
        tokens_BxK: jax.Array,
        step: DecodingStep,
        cache: DecoderCache | list[DecoderCache],
        encoded_mask_BxL: jax.Array,
        target_emotion_BxC: jax.Array | None,
    ) -> tuple[jax.Array, DecoderCache | list[DecoderCache]]:
        """Decodes one more token of each response: ([B, K, D], the updated cache)."""
        x_BxKxD = self._decoder_input(tokens_BxK, step.position, target_emotion_BxC, one=True)
        hidden, cache = self.decoder(x_BxKxD, None, encoded_mask_BxL, cache, step, True)
        return self._condition("output", hidden, target_emotion_BxC), cache

    def _condition(self, place: str, x_BxTxD: jax.Array, target_emotion_BxC) -> jax.Array:
        """`x` with the target emotion's vector added at every position."""
        if target_emotion_BxC is None or place not in self.emotion_tables:
            return x_BxTxD
        vector_BxD = self.emotion_scale * (target_emotion_BxC @ self.emotion_tables[place])
        return shard_activations(x_BxTxD + vector_BxD[:, None].astype(x_BxTxD.dtype))

    def _decoder_input(
        self, tokens_BxT: jax.Array, position: jax.Array | int, target_emotion_BxC, one=False
    ) -> jax.Array:
        """The embedded tokens at the positions from `position` on; with `one`, all at that one."""
        length = 1 if one else tokens_BxT.shape[1]
        positions_TxD = jax.lax.dynamic_slice_in_dim(self.decoder_positions, position, length)
        x = self.decoder_embedding_norm(
            lookup(self.token_embedding_VxD, tokens_BxT) + positions_TxD[None]
        )
        x = self._condition("input", x.astype(self.dtype), target_emotion_BxC)
        return shard_activations(self._dropout(x))

    def judge_tokens(self, tokens_BxT: jax.Array) -> jax.Array:
        """The judge's emotion logits, float32 [B, C], of token ids (PAD is masked)."""
        return self.judge_network.classify_tokens(tokens_BxT, tokens_BxT != self.special.pad)

    def judge_embedded(self, embedded_BxTxJ: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        """The judge's emotion logits, float32 [B, C], of mixed rows of its own embedding."""
        return self.judge_network(embedded_BxTxJ, mask_BxT)

    @nn.compact
    def contrastive_vectors(self, images: Encoded, words: Encoded):
        """(image [B, G], text [B, G], log scale, bias), float32, for the sigmoid loss.

        `images` is an encoding of images alone, `words` of words alone. The scalar parameters are
        offsets from SigLIP's initial values (https://arxiv.org/abs/2303.15343), log 10 and -10,
        so that both start at zero and weight decay pulls them to where SigLIP starts.
        """
        image_BxG = self.contrastive_image(images.cls_BxD).astype(jnp.float32)
        text_BxG = self.contrastive_text(words.cls_BxD).astype(jnp.float32)
        scalar = initializers.zeros()
        log_scale = self.param("contrastive_log_scale", scalar, ()) + jnp.log(10.0)
        bias = self.param("contrastive_bias", scalar, ()) - 10.0
        return image_BxG, text_BxG, log_scale, bias

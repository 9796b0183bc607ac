"""The PyTorch model for benchmarks/default_step.py, which says what it does and does not do.

Letters as in `igerg_jax.batch`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igerg_jax.batch import NUM_EMOTIONS, UNKNOWN
from igerg_jax.models.settings import BART_EPSILON
from igerg_jax.models.vision.vit import VIT_EPSILON


class Attention(nn.Module):
    """Multi-head attention, of x to itself or to a memory."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BxLxD: Tensor, memory_BxMxD: Tensor, mask=None, causal=False) -> Tensor:
        """[B, L, D]; `mask` (bool [B, M]) says what may be attended to."""
        k, v = map(self._split, self.key_value(memory_BxMxD).chunk(2, -1))
        mask = None if mask is None else mask[:, None, None]
        q = self._split(self.query(x_BxLxD))
        y_BxHxLxE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out(y_BxHxLxE.transpose(1, 2).flatten(2))

    def _split(self, x_BxLxD: Tensor) -> Tensor:
        return x_BxLxD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Layer(nn.Module):
    """A pre-LN layer of an encoder, or with `cross` of a decoder."""

    def __init__(self, width: int, heads: int, hidden: int, epsilon: float, cross: bool):
        super().__init__()
        self.causal = cross
        self.self_norm, self.attend = nn.LayerNorm(width, epsilon), Attention(width, heads)
        if cross:
            self.cross_norm, self.cross = nn.LayerNorm(width, epsilon), Attention(width, heads)
        self.mlp_norm, self.mlp = nn.LayerNorm(width, epsilon), mlp(width, hidden)

    def forward(self, x, mask=None, memory=None, memory_mask=None) -> Tensor:
        h = self.self_norm(x)
        x = x + self.attend(h, h, mask, self.causal)
        if memory is not None:
            x = x + self.cross(self.cross_norm(x), memory, memory_mask)
        return x + self.mlp(self.mlp_norm(x))


class Stack(nn.Module):
    """Layers, and the norm after the last."""

    def __init__(self, layers, width, heads, hidden, epsilon=BART_EPSILON, cross=False):
        super().__init__()
        sizes = width, heads, hidden, epsilon, cross
        self.layers = nn.ModuleList(Layer(*sizes) for _ in range(layers))
        self.norm = nn.LayerNorm(width, epsilon)

    def forward(self, x, mask=None, memory=None, memory_mask=None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask, memory, memory_mask)
        return self.norm(x)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [I, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class VisionTower(nn.Module):
    """A ViT with a convolutional stem, and learned queries that pool its patches."""

    def __init__(self, vision, image_size: int):
        super().__init__()
        width, epsilon = vision.width, vision.norm_epsilon
        halvings = vision.patch_size.bit_length() - 1
        parts, channels = [], 3
        for i in range(halvings):
            after = max(width // 2 ** (halvings - 1 - i), 8)
            parts += [nn.Conv2d(channels, after, 3, 2, 1), ChannelNorm(after, VIT_EPSILON)]
            parts += [nn.GELU("tanh")]
            channels = after
        self.stem = nn.Sequential(*parts, nn.Conv2d(channels, width, 1))
        patches = (image_size // vision.patch_size) ** 2
        self.positions = nn.Parameter(0.02 * torch.randn(patches, width))
        self.layers = Stack(vision.layers, width, vision.heads, vision.mlp_width, epsilon)
        self.queries = nn.Parameter(0.02 * torch.randn(vision.tokens_per_image, width))
        self.pool = Attention(width, vision.heads)
        self.pool_norm, self.pool_mlp = nn.LayerNorm(width, epsilon), mlp(width, vision.mlp_width)
        self.norm = nn.LayerNorm(width, VIT_EPSILON)

    def forward(self, images_IxHxWx3: Tensor) -> Tensor:
        """uint8 images to [I, K, W]."""
        x_IxWxHxH = self.stem(images_IxHxWx3.permute(0, 3, 1, 2).float() / 127.5 - 1.0)
        x_IxPxW = self.layers(x_IxWxHxH.flatten(2).transpose(1, 2) + self.positions)
        y_IxKxW = self.pool(self.queries.expand(len(x_IxPxW), -1, -1), x_IxPxW)
        return self.norm(y_IxKxW + self.pool_mlp(self.pool_norm(y_IxKxW)))


class Judge(nn.Module):
    """Classifies the emotion of embedded words."""

    def __init__(self, judge, words: int, positions: int):
        super().__init__()
        self.embedding = nn.Embedding(words, judge.width)
        self.positions = nn.Embedding(positions, judge.width)
        self.encoder = Stack(judge.layers, judge.width, judge.heads, judge.mlp_width)
        self.classifier = nn.Linear(judge.width, NUM_EMOTIONS)

    def forward(self, embedded_BxTxJ: Tensor, mask_BxT: Tensor) -> Tensor:
        """[B, C]."""
        x = embedded_BxTxJ + self.positions.weight[: embedded_BxTxJ.shape[1]]
        weight_BxTx1 = mask_BxT[..., None].float()
        total_BxJ = (self.encoder(x * weight_BxTx1, mask_BxT) * weight_BxTx1).sum(1)
        return self.classifier(total_BxJ / weight_BxTx1.sum(1))


class Model(nn.Module):
    """The modules of the default run, and their passes."""

    def __init__(self, config, special, words: int):
        super().__init__()
        text, vision = config.model.text, config.model.vision
        width, self.special = text.width, special
        sizes = width, text.heads, text.mlp_width
        self.emotion_scale = config.model.emotion_scale
        self.vision, self.k = VisionTower(vision, config.data.image_size), vision.tokens_per_image
        self.project = nn.Linear(vision.width, width)
        self.words = nn.Embedding(words, width)
        self.encoder_positions = nn.Embedding(text.max_positions, width)
        self.decoder_positions = nn.Embedding(text.max_positions, width)
        self.cls, self.types = nn.Embedding(1, width), nn.Embedding(2, width)
        self.slots = nn.Embedding(self.k, width)
        self.turns = nn.Embedding(config.data.context_turns + 1, width)
        self.emotion_in = nn.Linear(NUM_EMOTIONS, width, bias=False)
        self.emotion_out = nn.Linear(NUM_EMOTIONS, width, bias=False)
        self.encoder_norm = nn.LayerNorm(width, BART_EPSILON)
        self.decoder_norm = nn.LayerNorm(width, BART_EPSILON)
        self.encoder = Stack(text.encoder_layers, *sizes)
        self.decoder = Stack(text.decoder_layers, *sizes, cross=True)
        self.image_head, self.sequence_head = (
            nn.Sequential(nn.Linear(width, width), nn.GELU("tanh"), nn.Linear(width, NUM_EMOTIONS))
            for _ in range(2)
        )
        self.masked_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU("tanh"), nn.LayerNorm(width, BART_EPSILON)
        )
        self.judge = Judge(config.model.judge, words, text.max_positions)
        self.contrastive_image = nn.Linear(width, config.model.contrastive_width)
        self.contrastive_text = nn.Linear(width, config.model.contrastive_width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.contrastive_bias = nn.Parameter(torch.tensor(-10.0))
        for part in self.modules():
            if isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)

    def visual_tokens(self, images_BxNxHxWx3: Tensor) -> Tensor:
        """[B, N, K, D]."""
        visual_IxKxD = self.project(self.vision(images_BxNxHxWx3.flatten(0, 1)))
        return visual_IxKxD.unflatten(0, images_BxNxHxWx3.shape[:2])

    def encode(self, images=None, words=None) -> tuple[Tensor, Tensor]:
        """(hidden [B, L, D], mask [B, L]) of CLS and (visual tokens, mask, turns) and/or
        (word ids, turns)."""
        rows = len((images or words)[0])
        parts = [self.cls.weight.expand(rows, 1, -1)]
        masks = [torch.ones(rows, 1, dtype=torch.bool)]
        if images is not None:
            visual_BxNxKxD, mask_BxN, turn_BxN = images
            x = visual_BxNxKxD + self.turns(turn_BxN)[:, :, None] + self.slots.weight
            parts.append((x + self.types.weight[0]).flatten(1, 2))
            masks.append(mask_BxN.repeat_interleave(self.k, 1))
        if words is not None:
            tokens_BxS, turn_BxS = words
            x = self.words(tokens_BxS) + self.turns(turn_BxS) + self.types.weight[1]
            parts.append(x + self.encoder_positions.weight[: tokens_BxS.shape[1]])
            masks.append(tokens_BxS != self.special.pad)
        x_BxLxD, mask_BxL = torch.cat(parts, 1), torch.cat(masks, 1)
        return self.encoder(self.encoder_norm(x_BxLxD), mask_BxL), mask_BxL

    def decode(self, encoded, target_BxT: Tensor, emotion_BxC: Tensor | None = None) -> Tensor:
        """Logits [B, T, V], given the targets before each position."""
        hidden_BxLxD, mask_BxL = encoded
        tokens_BxT = F.pad(target_BxT[:, :-1], (1, 0), value=self.special.decoder_start)
        positions_TxD = self.decoder_positions.weight[: tokens_BxT.shape[1]]
        x_BxTxD = self.decoder_norm(self.words(tokens_BxT) + positions_TxD)
        if emotion_BxC is not None:
            x_BxTxD = x_BxTxD + self.emotion_scale * self.emotion_in(emotion_BxC)[:, None]
        y_BxTxD = self.decoder(x_BxTxD, None, hidden_BxLxD, mask_BxL)
        if emotion_BxC is not None:
            y_BxTxD = y_BxTxD + self.emotion_scale * self.emotion_out(emotion_BxC)[:, None]
        return self.logits(y_BxTxD)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.words.weight)


class Losses(nn.Module):
    """The seven objectives, each with a pass of its own; `forward` is their weighted sum."""

    def __init__(self, config, special, words: int):
        super().__init__()
        self.model = Model(config, special, words)
        self.special, self.words = special, words
        self.objectives = config.objectives.to_dict()
        tokens = config.data.context_tokens
        self.predictions = math.ceil(config.objectives.masked_multimodal.max_fraction * tokens)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        visual = self.model.visual_tokens(batch["images"])
        images = visual, batch["image_mask"], batch["image_turn"]
        total = 0.0
        for name, settings in self.objectives.items():
            total = total + settings["weight"] * getattr(self, name)(batch, images, settings)
        return total

    def image_emotion(self, batch, images, settings) -> Tensor:
        return self._image_loss(self.model.encode(images)[0], batch)

    def sequence_emotion(self, batch, images, settings) -> Tensor:
        hidden, _ = self.model.encode(images)
        return _classification(self.model.sequence_head(hidden[:, 0]), batch["sequence_emotion"])

    def text_denoising(self, batch, images, settings) -> Tensor:
        context_BxS = batch["context"]
        hidden_BxS = self._chosen(context_BxS, settings["mask_fraction"])
        noisy_BxS = context_BxS.masked_fill(hidden_BxS, self.special.mask)
        encoded = self.model.encode(None, (noisy_BxS, batch["context_turn"]))
        return self._token_loss(self.model.decode(encoded, context_BxS), context_BxS)

    def text_emotion(self, batch, images, settings) -> Tensor:
        response_BxT, judge = batch["response"], self.model.judge
        logits_BxC = judge(judge.embedding(response_BxT), response_BxT != self.special.pad)
        return _classification(logits_BxC, batch["response_emotion"])

    def masked_multimodal(self, batch, images, settings) -> Tensor:
        context_BxS, special = batch["context"], self.special
        chosen_BxS = self._chosen(context_BxS, settings["mask_fraction"])
        kind_BxS = torch.rand(context_BxS.shape)
        random_BxS = torch.randint_like(context_BxS, self.words)
        new_BxS = torch.where(kind_BxS < 0.9, random_BxS, context_BxS)
        new_BxS = new_BxS.masked_fill(kind_BxS < 0.8, special.mask)
        given_BxS = torch.where(chosen_BxS, new_BxS, context_BxS)
        hidden, _ = self.model.encode(images, (given_BxS, batch["context_turn"]))
        place_BxM = chosen_BxS.int().argsort(1, descending=True)[:, : self.predictions]
        words_BxSxD = hidden[:, -context_BxS.shape[1] :]
        words_BxMxD = words_BxSxD.gather(1, place_BxM[..., None].expand(-1, -1, hidden.shape[2]))
        target_BxM = context_BxS.masked_fill(~chosen_BxS, special.pad).gather(1, place_BxM)
        logits_BxMxV = self.model.logits(self.model.masked_head(words_BxMxD))
        return self._token_loss(logits_BxMxV, target_BxM) + self._image_loss(hidden, batch)

    def emotional_response(self, batch, images, settings) -> Tensor:
        """The likelihood, the contrast, and the consistency at its full weight."""
        response_BxT, label_B = batch["response"], batch["response_emotion"]
        context_BxS, turn_BxS = batch["context"], batch["context_turn"]
        visual, mask_BxN, turn_BxN = images
        dropped_B = torch.rand(label_B.shape) < settings["face_dropout"]
        own_BxN = turn_BxN == turn_BxS.amax(1, keepdim=True) + 1
        images = visual, mask_BxN & ~(own_BxN & dropped_B[:, None]), turn_BxN
        encoded = self.model.encode(images, (context_BxS, turn_BxS))
        emotion_BxC = F.one_hot(label_B, NUM_EMOTIONS).float() * ~dropped_B[:, None]
        logits_BxTxV = self.model.decode(encoded, response_BxT, emotion_BxC)
        nll_BxT = self._nll(logits_BxTxV, response_BxT)

        offset_B = torch.randint_like(label_B, 1, NUM_EMOTIONS)
        other_BxC = F.one_hot((label_B + offset_B) % NUM_EMOTIONS, NUM_EMOTIONS).float()
        other_BxT = self._nll(self.model.decode(encoded, response_BxT, other_BxC), response_BxT)
        contrast_B = F.softplus(nll_BxT.sum(1) - other_BxT.sum(1)) * ~dropped_B
        contrast = contrast_B.sum() / (~dropped_B).sum().clamp(min=1)

        real_BxT, judge = response_BxT != self.special.pad, self.model.judge
        fixed = {name: parameter.detach() for name, parameter in judge.named_parameters()}
        table_VxJ = fixed["embedding.weight"]
        soft = torch.softmax(logits_BxTxV / settings["temperature_end"], -1) @ table_VxJ
        embedded_BxTxJ = table_VxJ[logits_BxTxV.argmax(-1)] + soft - soft.detach()
        judged_BxC = torch.func.functional_call(judge, fixed, (embedded_BxTxJ, real_BxT))
        consistency = _classification(judged_BxC, label_B)

        return (
            nll_BxT.sum() / real_BxT.sum()
            + settings["contrast_weight"] * contrast
            + settings["consistency_weight"] * consistency
        )

    def image_text_contrastive(self, batch, images, settings) -> Tensor:
        model = self.model
        hidden_images, _ = model.encode(images)
        hidden_words, _ = model.encode(None, (batch["context"], batch["context_turn"]))
        image_BxG = F.normalize(model.contrastive_image(hidden_images[:, 0]), dim=-1)
        text_BxG = F.normalize(model.contrastive_text(hidden_words[:, 0]), dim=-1)
        logits_BxB = image_BxG @ text_BxG.T * model.log_scale.exp() + model.contrastive_bias
        sign_BxB = 2.0 * torch.eye(len(logits_BxB)) - 1.0
        return -F.logsigmoid(sign_BxB * logits_BxB).sum() / len(logits_BxB)

    def _image_loss(self, hidden_BxLxD: Tensor, batch) -> Tensor:
        """Each image's emotion, from an encoding with images."""
        images, k = batch["image_emotion"].shape[1], self.model.k
        images_BxNxD = hidden_BxLxD[:, 1 : 1 + images * k].unflatten(1, (images, k)).mean(2)
        return _classification(self.model.image_head(images_BxNxD), batch["image_emotion"])

    def _chosen(self, tokens_BxS: Tensor, fraction: float) -> Tensor:
        """Words, each with that probability."""
        is_word = (tokens_BxS != self.special.pad) & (tokens_BxS != self.special.eos)
        return is_word & (torch.rand(tokens_BxS.shape) < fraction)

    def _nll(self, logits_BxTxV: Tensor, target_BxT: Tensor) -> Tensor:
        pad = self.special.pad
        flat = logits_BxTxV.flatten(0, 1), target_BxT.flatten()
        return F.cross_entropy(*flat, ignore_index=pad, reduction="none").view_as(target_BxT)

    def _token_loss(self, logits_BxTxV: Tensor, target_BxT: Tensor) -> Tensor:
        return F.cross_entropy(
            logits_BxTxV.flatten(0, 1), target_BxT.flatten(), ignore_index=self.special.pad
        )


def _classification(logits_xC: Tensor, labels_x: Tensor) -> Tensor:
    """Mean cross-entropy of the emotions that are known."""
    return F.cross_entropy(logits_xC.flatten(0, -2), labels_x.flatten(), ignore_index=UNKNOWN)

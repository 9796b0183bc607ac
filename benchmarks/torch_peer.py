"""The PyTorch model for benchmarks/train_gpu.py: ViT and BART from transformers."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, BartConfig, ViTConfig


def bart_config(config, **others) -> BartConfig:
    """BART's settings at the sizes of a config of ours, with `others` of its keys."""
    text = config.model.text
    return BartConfig(
        vocab_size=config.data.tokenizer.vocab_size,
        d_model=text.width,
        encoder_layers=text.encoder_layers,
        decoder_layers=text.decoder_layers,
        encoder_attention_heads=text.heads,
        decoder_attention_heads=text.heads,
        encoder_ffn_dim=text.mlp_width,
        decoder_ffn_dim=text.mlp_width,
        max_position_embeddings=text.max_positions,
        dropout=text.dropout_rate,
        use_cache=False,
        **others,
    )


class Peer(nn.Module):
    """An image and text encoder-decoder whose forward pass returns the sum of four losses."""

    def __init__(self, config, special, emotions: int):
        super().__init__()
        vision, text, data = config.model.vision, config.model.text, config.data
        vit = ViTConfig(
            hidden_size=vision.width,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            intermediate_size=vision.mlp_width,
            image_size=data.image_size,
            patch_size=vision.patch_size,
        )
        bart = bart_config(
            config,
            attention_dropout=0.0,
            pad_token_id=special.pad,
            bos_token_id=special.bos,
            eos_token_id=special.eos,
            decoder_start_token_id=special.decoder_start,
        )
        self.vit = AutoModel.from_config(vit, attn_implementation="sdpa")
        self.bart = AutoModel.from_config(bart, attn_implementation="sdpa")
        self.special, self.k, width = special, vision.tokens_per_image, text.width
        self.max_predictions = math.ceil(
            config.objectives.masked_multimodal.max_fraction * data.context_tokens
        )
        self.queries = nn.Parameter(torch.randn(self.k, vision.width) * 0.02)
        self.pool = nn.MultiheadAttention(vision.width, vision.heads, batch_first=True)
        self.project = nn.Linear(vision.width, width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.turns = nn.Embedding(data.context_turns + 1, width)
        self.types = nn.Embedding(2, width)
        self.emotion = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, emotions))
        self.masked = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.inputs: dict[str, int] = {}

    def count(self, name: str, number: int) -> None:
        """Counts the inputs of a part of the model, except while torch.compile traces."""
        if not torch.compiler.is_compiling():
            self.inputs[name] = self.inputs.get(name, 0) + number

    def visual_tokens(self, images):
        """Maps uint8 images [B, N, H, W, 3] to visual tokens [B, N * K, D]."""
        b, n = images.shape[:2]
        pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        self.count("images", b * n)
        patches = self.vit(pixel_values=pixels).last_hidden_state
        pooled = self.pool(self.queries.expand(b * n, -1, -1), patches, patches)[0]
        return self.project(pooled).reshape(b, n * self.k, -1)

    def encode(self, visual, image_mask, image_turn, tokens, turn):
        """Encodes CLS and any images and words: returns (hidden [B, L, D], mask [B, L])."""
        some = visual if visual is not None else tokens
        b, device = some.shape[0], some.device
        parts = [self.cls.expand(b, -1, -1)]
        masks = [torch.ones(b, 1, dtype=torch.bool, device=device)]
        if visual is not None:
            turns = self.turns(image_turn).repeat_interleave(self.k, 1)
            parts.append(visual + turns + self.types.weight[0])
            masks.append(image_mask.repeat_interleave(self.k, 1))
        if tokens is not None:
            words = self.bart.get_input_embeddings()(tokens)
            parts.append(words + self.turns(turn) + self.types.weight[1])
            masks.append(tokens != self.special.pad)
        x, mask = torch.cat(parts, 1), torch.cat(masks, 1)
        self.count("encoder_tokens", x.shape[0] * x.shape[1])
        encoder = self.bart.encoder(inputs_embeds=x, attention_mask=mask.long())
        return encoder.last_hidden_state, mask

    def decode_loss(self, encoded, target):
        """Mean cross-entropy of generating `target`."""
        hidden, mask = encoded
        start = torch.full_like(target[:, :1], self.special.decoder_start)
        tokens = torch.cat([start, target[:, :-1]], 1)
        self.count("decoder_tokens", tokens.numel())
        out = self.bart.decoder(
            input_ids=tokens, encoder_hidden_states=hidden, encoder_attention_mask=mask.long()
        )
        return self.vocabulary_loss(out.last_hidden_state, target)

    def vocabulary_loss(self, hidden, target):
        """Mean cross-entropy over the tied vocabulary, ignoring PAD."""
        logits = F.linear(hidden, self.bart.get_input_embeddings().weight).float()
        return F.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=self.special.pad
        )

    def emotion_loss(self, hidden, labels):
        """Mean cross-entropy of every image's emotion; -1 = unknown."""
        b, n = labels.shape
        images = hidden[:, 1 : 1 + n * self.k].reshape(b, n, self.k, -1).mean(2)
        logits = self.emotion(images).float()
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)

    def forward(self, batch):
        """The four losses of one batch."""
        context, turn, special = batch["context"], batch["context_turn"], self.special
        labels = torch.where(batch["image_mask"], batch["image_emotion"], -1)
        images = (self.visual_tokens(batch["images"]), batch["image_mask"], batch["image_turn"])
        real = context != special.pad

        seen = self.encode(*images, None, None)
        loss = self.emotion_loss(seen[0], labels)

        noise = torch.rand(context.shape, device=context.device)
        corrupt = torch.where(real & (noise < 0.3), special.mask, context)
        loss = loss + self.decode_loss(self.encode(None, None, None, corrupt, turn), context)

        chosen = real & (torch.rand(context.shape, device=context.device) < 0.15)
        masked = torch.where(chosen, special.mask, context)
        hidden, _ = self.encode(*images, masked, turn)
        place = chosen.int().argsort(1, descending=True)[:, : self.max_predictions]
        words = hidden[:, -context.shape[1] :]
        words = words.gather(1, place[..., None].expand(-1, -1, words.shape[-1]))
        target = torch.where(chosen, context, special.pad).gather(1, place)
        loss = loss + self.vocabulary_loss(self.masked(words), target)
        loss = loss + self.emotion_loss(hidden, labels)

        everything = self.encode(*images, context, turn)
        return loss + self.decode_loss(everything, batch["response"])

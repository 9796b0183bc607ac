"""The presets of pretrain.py: each is a function that changes what differs from its keys."""

from ml_collections import ConfigDict


def small(config: ConfigDict) -> None:
    """A model worth talking to, on all of the embedded chats: under two hours on a 2-core CPU."""
    # These three take half of a step (17 examples/s with them, 33 to 42 without, on two cores).
    # What they would add at this size has not been measured.
    for name in ("text_denoising", "masked_multimodal", "image_text_contrastive"):
        config.objectives[name].weight = 0.0
    # Rare emotions are mostly in the stretches of chats that the local preset trains on.
    config.data.mixtures = {
        "chats": {
            "objectives": (),
            "datasets": {"chitchat_peeps": 1, "chitchat_peeps/all": 2},
        }
    }
    config.data.context_tokens = 64
    config.data.augment.update(crop_min_area=0.9, colour_jitter=0.3)
    config.data.tokenizer.mixture = "all"
    config.model.vision.update(width=96, layers=3, heads=4, mlp_width=384)
    config.model.text.update(
        width=192, encoder_layers=3, decoder_layers=3, heads=4, mlp_width=768, dropout_rate=0.1
    )
    config.model.judge.update(width=96, layers=2, heads=4, mlp_width=384)
    config.objectives.emotional_response.update(
        consistency_start_step=1200,
        consistency_ramp_steps=800,
        temperature_anneal_steps=4000,
    )
    config.optim.update(peak_learning_rate=1.5e-3, warmup_steps=300, ema_decay=0.998)
    config.train.update(
        batch_size=32,
        steps=7000,
        evaluate_every_steps=1400,
        checkpoint_every_steps=250,
    )
    # It follows the face without guidance, which would fill responses with cue words.
    config.generate.guidance = 0.0


def daily_dialog(config: ConfigDict) -> None:
    """Real words and real faces: DailyDialog's turns, each with a FER2013 face of its emotion."""
    _real_faces(config, "daily_dialog")
    # 83 % of the turns are neutral and 0.2 % fear; at 0.75, a third and one in fifteen.
    config.data.balance_emotions = 0.75


def meld(config: ConfigDict) -> None:
    """Real words and real faces: MELD's turns, each with a FER2013 face of its emotion."""
    _real_faces(config, "meld")
    config.data.balance_emotions = 0.5  # 47 % of the turns are neutral


def paper(config: ConfigDict) -> None:
    """The paper's sizes and schedule, on OpenViDial: ResNet-50 logits into BART-base."""
    config.data.dataset = "openvidial/v1"
    config.data.update(context_tokens=128, response_tokens=32, image_size=224)
    config.data.preprocessing = "imagenet"
    # To start from BART's weights, use its tokenizer: kind="byte_level_bpe", path=a folder with
    # its tokenizer.json, vocab_size=50265.
    config.data.tokenizer.update(vocab_size=32000)
    config.model.compute_dtype = "bfloat16"
    config.model.vision.update(kind="resnet50", frozen=True, tokens_per_image=1)
    config.model.text.update(
        width=768,
        encoder_layers=6,
        decoder_layers=6,
        heads=12,
        mlp_width=3072,
        dropout_rate=0.1,
        norm_first=False,
        max_positions=1024,
    )
    config.model.judge.update(width=256, layers=4, heads=4, mlp_width=1024)
    config.model.vocab_chunk_tokens = 16
    _beam_search(config)
    without_emotion_conditioning(config)
    config.objectives.image_text_contrastive.weight = 0.0
    config.optim.update(
        schedule="inverse_sqrt",
        peak_learning_rate=3e-4,
        warmup_steps=6000,
        b2=0.999,
        weight_decay=0.0,
        clip_norm=0.0,
    )
    _long_run(config, batch_size=128, steps=200_000)


def base(config: ConfigDict) -> None:
    """ViT-B/16 and a text model of BART-base's size: one host."""
    _pretrain_sizes(config)
    config.model.vision.update(patch_size=16, width=768, layers=12, heads=12, mlp_width=3072)
    config.model.text.update(
        width=768, encoder_layers=6, decoder_layers=6, heads=12, mlp_width=3072
    )
    config.model.vision.remat, config.model.text.remat = "full", "dots"
    _long_run(config, batch_size=256, steps=200_000)


def large(config: ConfigDict) -> None:
    """ViT-L/16 and a text model of BART-large's size: a v5e pod."""
    _pretrain_sizes(config)
    config.model.vision.update(patch_size=16, width=1024, layers=24, heads=16, mlp_width=4096)
    config.model.text.update(
        width=1024, encoder_layers=12, decoder_layers=12, heads=16, mlp_width=4096
    )
    config.model.vision.remat = config.model.text.remat = "dots"
    config.mesh.update(data=-1, fsdp=16)
    config.objectives.image_text_contrastive.negatives = "slice"  # nothing crosses slices
    _long_run(config, batch_size=4096, steps=100_000)


def xl(config: ConfigDict) -> None:
    """ViT-So400m/14 and 24+24 text layers of width 2048: v5p and v6e pods."""
    _pretrain_sizes(config)
    # SigLIP's shape-optimised ViT-So400m/14.
    config.model.vision.update(patch_size=14, width=1152, layers=27, heads=16, mlp_width=4304)
    config.model.text.update(
        width=2048, encoder_layers=24, decoder_layers=24, heads=16, mlp_width=8192
    )
    config.model.vision.remat = config.model.text.remat = "dots"
    config.mesh.update(data=-1, fsdp=64)
    config.objectives.image_text_contrastive.negatives = "slice"
    _long_run(config, batch_size=8192, steps=100_000)


def _real_faces(config: ConfigDict, dialogues: str) -> None:
    """What daily_dialog and meld share: the tower of configs/faces.py, frozen."""
    config.data.dataset = f"paired/{dialogues}+fer2013"
    # The public files have no test split. Once there are some, use "test".
    config.data.test_split = "valid"
    config.data.extra_test_splits = ()
    config.data.update(context_tokens=48, image_size=48)  # pixels per side, as FER2013 has them
    config.data.augment.update(crop_min_area=0.8, colour_jitter=0.3)
    config.init_from = "faces"  # as it comes with igerg_jax; or a workdir of configs/faces.py
    config.init_parts = ("vision_tower",)
    face_tower(config)
    config.model.vision.frozen = True
    # At 0.3, as elsewhere, consistency and contrast cost 5.1 % of perplexity together.
    config.objectives.emotional_response.consistency_weight = 0.2
    config.evaluate.following_examples = 96  # faces that are harder to read need more of them
    config.train.update(steps=800, evaluate_every_steps=400)


def face_tower(config: ConfigDict) -> None:
    """A small ResNet for FER2013's faces, which are aligned."""
    config.model.vision.update(kind="resnet", depths=(1, 1, 1, 1), pooling="positions")


def _pretrain_sizes(config: ConfigDict) -> None:
    """What base, large and xl share: 224-pixel images, four visual tokens each, bfloat16."""
    config.data.dataset = "openvidial/v2"
    config.data.update(context_tokens=128, response_tokens=32, image_size=224)
    config.data.tokenizer.update(vocab_size=32768)
    config.model.compute_dtype = "bfloat16"
    config.model.vision.update(stem="patch", tokens_per_image=4)
    config.model.vision.attention = config.model.text.attention = "fused"
    config.train.prng = "rbg"  # dropout's random bits come from the hardware generator
    config.model.text.update(dropout_rate=0.1, max_positions=512)
    config.model.judge.update(width=256, layers=4, heads=4, mlp_width=1024)
    config.model.contrastive_width = 512
    config.model.vocab_chunk_tokens = 64
    _beam_search(config)
    config.optim.update(peak_learning_rate=3e-4, warmup_steps=4000, weight_decay=0.05)


def _beam_search(config: ConfigDict) -> None:
    """As in the original: the likeliest of five beams."""
    config.generate.update(
        strategy="beam", max_tokens=32, candidates=1, guidance=1.0, no_repeat_ngram=3
    )


def _long_run(config: ConfigDict, batch_size: int, steps: int) -> None:
    """What paper, base, large and xl share: longer contexts, schedules and intervals."""
    config.data.update(context_turns=5, extra_test_splits=())
    config.data.augment.crop_min_area = 0.8
    # One scan over layers keeps compile time flat with depth. (Unrolling is faster for two.)
    config.model.vision.scan_layers = config.model.text.scan_layers = True
    config.train.update(
        batch_size=batch_size,
        steps=steps,
        log_every_steps=100,
        evaluate_every_steps=5000,
        checkpoint_every_steps=2500,
        keep_checkpoints=3,
    )
    config.evaluate.update(batch_size=batch_size, examples=8192, generated_examples=2048)
    config.generate.examples = 256
    config.objectives.emotional_response.update(
        consistency_start_step=steps // 5,
        consistency_ramp_steps=steps // 10,
        temperature_anneal_steps=steps // 2,
    )


def without_emotion_conditioning(config: ConfigDict) -> None:
    """As in the original: an emotion reaches the decoder only through the encoder.

    The response's face is never withheld either, so there is nothing to guide away from.
    """
    config.model.emotion_embedding = "none"
    config.objectives.emotional_response.update(face_dropout=0.0, contrast_weight=0.0)
    config.generate.guidance = 0.0


PRESETS = {
    "local": lambda config: None,  # the keys of pretrain.py as they are
    "small": small,
    "daily_dialog": daily_dialog,
    "meld": meld,
    "paper": paper,
    "base": base,
    "large": large,
    "xl": xl,
}

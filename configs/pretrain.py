"""Pre-training: every key that the code reads, and the presets.

    python main.py --config=configs/pretrain.py            # "local": a 2-core CPU, minutes
    python main.py --config=configs/pretrain.py:base       # or paper, large, xl

A preset is a small function that changes what differs. Code holds no defaults for these keys:
what is not here does not exist, and a misspelt override is refused.
"""

from ml_collections import ConfigDict


def get_config(preset: str = "") -> ConfigDict:
    """Returns the pre-training config of one of `PRESETS` ("" = "local")."""
    name = preset or "local"
    if name not in PRESETS:
        raise ValueError(f"unknown preset '{name}'; there are: {', '.join(PRESETS)}")
    config = _local()
    config.name, config.preset = "pretrain", name
    PRESETS[name](config)
    return config


def _local() -> ConfigDict:
    config = ConfigDict()
    config.name = "pretrain"
    config.preset = "local"
    config.seed = 0
    config.init_from = ""  # checkpoint folder whose parameters training starts from; "" = random
    config.compilation_cache_dir = "~/.cache/igerg_jax/xla"  # compiled programs; "" = not kept

    # A trace of so many steps, in workdir/profile for TensorBoard; 0 = none. The first steps of a
    # start, which are slower, go before it.
    config.profile = ConfigDict(dict(after_steps=5, steps=0))

    config.distributed = ConfigDict(
        dict(
            # none: this process alone, or, with a coordinator_address, the processes counted here.
            # auto, gcetpu, gketpu, slurm, ompi: as the cluster around the process says.
            cluster="none",
            coordinator_address="",  # HOST:PORT of process 0
            process_count=-1,  # -1 = not said; 1 = alone, even inside a cluster
            process_index=-1,
            initialization_timeout_seconds=300,  # for all processes to be there
            heartbeat_timeout_seconds=100,  # after which a silent process ends the run
        )
    )

    config.data = ConfigDict(
        dict(
            dataset="chitchat_openmoji",
            data_dir="~/.cache/igerg_jax",  # or gs://…, which holds what was prepared elsewhere
            bucket_copies_dir="~/.cache/igerg_jax/buckets",  # where each host then keeps a copy
            manual_dir="",  # folder with the files that a dataset does not fetch
            labels=dict(path="", min_confidence=0.6),  # pseudo-labels; builders/pseudo_labels.py
            mixtures={},  # {name: {objectives, datasets: {dataset: weight}}}
            train_split="train",
            eval_split="valid",
            test_split="test",
            context_turns=3,  # previous turns given as words; the window holds one image a turn
            context_tokens=40,
            response_tokens=20,
            include_response_image=True,  # the original does; a chatbot cannot
            use_images=True,
            image_size=64,  # pixels a side
            feature_dim=0,  # > 0: precomputed vectors of this width instead of pixels
            # augment: as the next line says in training, the largest centred square elsewhere;
            # imagenet: always the middle of the image, as ResNet-50 was evaluated on ImageNet.
            preprocessing="augment",
            augment=dict(crop_min_area=0.8, flip=True, colour_jitter=0.2),
            tokenizer=dict(
                kind="sentencepiece",  # or byte_level_bpe, BART's, which needs a path
                path="",  # a file or folder; "" = train one on the train split of:
                mixture="",  # "" = the dataset; a mixture's name; "all" = all datasets
                model_type="unigram",  # unigram, bpe
                vocab_size=2048,
                byte_fallback=True,
                max_sentences=2_000_000,
            ),
            prepare_workers=0,  # processes; 0 = one a core
            prefetch_batches=4,
            read_threads=2,
        )
    )

    config.model = ConfigDict(
        dict(
            compute_dtype="float32",
            vision=dict(
                kind="vit",  # vit, resnet50, features
                stem="convolution",  # patch, convolution (learns from fewer images)
                patch_size=16,
                width=64,
                layers=2,
                heads=4,
                mlp_width=256,
                dropout_rate=0.0,
                # Three that pre-trained weights need: see docs/weights.md.
                class_token=False,  # a learned vector before the patches, as in the first ViTs
                gelu="exact",  # exact, tanh (as SigLIP)
                norm_epsilon=1e-6,  # of layer norms
                tokens_per_image=1,
                frozen=False,
                scan_layers=False,
                remat="none",  # none, dots, all_dots, full: what the backward pass makes again
                attention="xla",  # xla, fused (one kernel on TPUs)
            ),
            text=dict(
                width=128,
                encoder_layers=2,
                decoder_layers=2,
                heads=4,
                mlp_width=512,
                dropout_rate=0.0,
                norm_first=True,
                max_positions=128,
                scan_layers=False,
                remat="none",
                attention="xla",
            ),
            judge=dict(width=64, layers=1, heads=4, mlp_width=128),
            turn_embeddings=True,
            contrastive_width=64,
            vocab_chunk_tokens=20,  # sequence positions whose [B, chunk, V] logits exist at once
        )
    )

    config.objectives = ConfigDict(
        dict(
            image_emotion=dict(weight=1.0),
            sequence_emotion=dict(weight=1.0),
            text_denoising=dict(weight=1.0, mask_fraction=0.3, mean_span_tokens=3.0),
            text_emotion=dict(weight=1.0),
            masked_multimodal=dict(weight=1.0, mask_fraction=0.15, max_fraction=0.25),
            emotional_response=dict(
                weight=1.0,
                estimator="straight_through",  # expected, straight_through, gumbel, detached
                consistency_weight=0.3,  # lambda at its full height
                consistency_start_step=300,  # lambda is 0 until the MLE has warmed up
                consistency_ramp_steps=200,
                temperature_start=1.0,
                temperature_end=0.5,
                temperature_anneal_steps=800,
            ),
            image_text_contrastive=dict(
                weight=0.1,
                # Whose words are a window's negatives: all others' (of an accumulation step), or
                # those of the same slice, one of mesh.dcn.
                negatives="batch",  # batch, slice
            ),
        )
    )

    config.optim = ConfigDict(
        dict(
            name="adamw",  # adamw, lion (a third of the rate), adafactor (least memory)
            first_moment_dtype="float32",  # bfloat16 halves what it takes
            schedule="cosine",  # cosine, inverse_sqrt
            peak_learning_rate=2e-3,
            initial_learning_rate=1e-7,
            final_learning_rate=1e-5,  # where cosine ends
            warmup_steps=100,
            b1=0.9,
            b2=0.98,
            eps=1e-8,
            weight_decay=0.01,
            clip_norm=1.0,  # 0 = no clipping
            ema_decay=0.0,  # 0 = no moving average
        )
    )

    config.train = ConfigDict(
        dict(
            batch_size=16,  # examples a step, over all devices and accumulation steps
            steps=700,
            accumulate_steps=1,
            log_every_steps=10,
            evaluate_every_steps=350,
            checkpoint_every_steps=350,
            keep_checkpoints=2,
            max_consecutive_skips=10,
            stall_seconds=600,  # dump stacks when no step ends for this long; 0 = never
            prng="threefry2x32",  # or rbg: quick on TPUs, but dropout then depends on the mesh
        )
    )

    config.evaluate = ConfigDict(
        dict(
            batch_size=64,
            examples=512,  # of the split, from its start; 0 = all
            generated_examples=256,  # of those, how many get a response for the text metrics
            best_metric="response_perplexity",
            best_mode="min",
        )
    )

    config.generate = ConfigDict(
        dict(
            strategy="beam",  # greedy, sample, beam
            max_tokens=20,
            beams=5,
            length_penalty=1.0,
            temperature=1.0,
            top_k=0,  # 0 = off
            top_p=1.0,  # 1 = off
            no_repeat_ngram=3,  # no run of so many tokens twice in a response; 0 = off
            examples=64,  # written to samples.jsonl by a run
        )
    )

    config.mesh = ConfigDict(dict(dcn=1, data=-1, fsdp=1, tensor=1))  # -1 = the devices left over
    # Which mesh axes hold each logical axis of a parameter or activation.
    config.sharding_rules = (
        ("batch", ("dcn", "data", "fsdp")),
        ("vocab", "tensor"),
        ("embed", "fsdp"),
        ("mlp", "tensor"),
        ("heads", "tensor"),
        ("head_dim", None),
        ("layers", None),
        ("positions", None),
        ("classes", None),
        ("patch", None),
        ("norm", None),
    )
    return config


def _paper(config: ConfigDict) -> None:
    """The original's sizes and schedule, on OpenViDial: ResNet-50 logits into BART-base."""
    config.data.dataset = "openvidial/v1"
    config.data.update(context_tokens=128, response_tokens=32, image_size=224)
    config.data.preprocessing = "imagenet"
    # BART's own words, to start from its weights: kind="byte_level_bpe", path= a folder with its
    # tokenizer.json, vocab_size=50265.
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


def _base(config: ConfigDict) -> None:
    _pretrain_sizes(config)
    config.model.vision.update(patch_size=16, width=768, layers=12, heads=12, mlp_width=3072)
    config.model.text.update(
        width=768, encoder_layers=6, decoder_layers=6, heads=12, mlp_width=3072
    )
    config.model.vision.remat, config.model.text.remat = "full", "dots"
    _long_run(config, batch_size=256, steps=200_000)


def _large(config: ConfigDict) -> None:
    _pretrain_sizes(config)
    config.model.vision.update(patch_size=16, width=1024, layers=24, heads=16, mlp_width=4096)
    config.model.text.update(
        width=1024, encoder_layers=12, decoder_layers=12, heads=16, mlp_width=4096
    )
    config.model.vision.remat = config.model.text.remat = "dots"
    config.mesh.update(data=-1, fsdp=16)
    config.objectives.image_text_contrastive.negatives = "slice"  # no vectors cross
    _long_run(config, batch_size=4096, steps=100_000)


def _xl(config: ConfigDict) -> None:
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


def _pretrain_sizes(config: ConfigDict) -> None:
    """What base, large and xl share: pixels at 224, four visual tokens an image, bfloat16."""
    config.data.dataset = "openvidial/v2"
    config.data.update(context_tokens=128, response_tokens=32, image_size=224)
    config.data.tokenizer.update(vocab_size=32768)
    config.model.compute_dtype = "bfloat16"
    config.model.vision.update(stem="patch", tokens_per_image=4)
    config.model.vision.attention = config.model.text.attention = "fused"
    config.train.prng = "rbg"  # dropout's random bits from the chip itself
    config.model.text.update(dropout_rate=0.1, max_positions=512)
    config.model.judge.update(width=256, layers=4, heads=4, mlp_width=1024)
    config.model.contrastive_width = 512
    config.model.vocab_chunk_tokens = 64
    config.optim.update(peak_learning_rate=3e-4, warmup_steps=4000, weight_decay=0.05)


def _long_run(config: ConfigDict, batch_size: int, steps: int) -> None:
    config.data.context_turns = 5
    # Layers in one loop: compiling does not grow with depth. (Two unrolled layers are quicker.)
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


PRESETS = {
    "local": lambda config: None,
    "paper": _paper,
    "base": _base,
    "large": _large,
    "xl": _xl,
}

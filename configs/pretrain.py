"""Pre-training: every key that the code reads, at the values of the preset "local".

    python main.py --config=configs/pretrain.py            # "local": minutes on a 2-core CPU
    python main.py --config=configs/pretrain.py:base       # or small, paper, large, xl

The other presets, in pretrain_presets.py, change only what differs. The code holds no defaults: a
key that is not here does not exist, and a misspelt override is refused.
"""

from ml_collections import ConfigDict

from configs.pretrain_presets import PRESETS


def get_config(preset: str = "") -> ConfigDict:
    """Returns the pre-training config of one of `PRESETS` ("" = "local")."""
    name = preset or "local"
    if name not in PRESETS:
        raise ValueError(f"unknown preset '{name}'; available: {', '.join(PRESETS)}")
    config = _all_keys()
    config.name, config.preset = "pretrain", name
    PRESETS[name](config)
    return config


def _all_keys() -> ConfigDict:
    """Every key, at sizes that train on a CPU in minutes."""
    config = ConfigDict()

    # The run: its identity, its seed, and where it starts from.
    config.name = "pretrain"  # the config file; with the preset it names the default workdir
    config.preset = "local"
    config.seed = 0  # of initialisation, data order, augmentation, masking and dropout
    config.init_from = ""  # checkpoint folder to initialise parameters from; "" = random
    config.init_parts = ()  # parts of the model to take from it, as ("vision_tower",); () = all
    config.compilation_cache_dir = "~/.cache/igerg_jax/xla"  # compiled programs; "" = no cache

    # Profiling: traces `steps` steps into workdir/profile (0 = off), after `after_steps` steps: the
    # first ones of a start are slower.
    config.profile = ConfigDict(dict(after_steps=5, steps=0))

    # Several processes, one per host or GPU: docs/pods.md.
    config.distributed = ConfigDict(
        dict(
            # none: one process, or process_count of them if coordinator_address is set.
            # auto, gcetpu, gketpu, slurm, ompi: detected from the cluster's environment.
            cluster="none",
            coordinator_address="",  # HOST:PORT of process 0
            process_count=-1,  # -1 = unset; 1 = one process, even inside a cluster
            process_index=-1,  # -1 = unset
            initialization_timeout_seconds=300,  # raise it where hosts start far apart
            heartbeat_timeout_seconds=100,  # a process silent for this long ends the run
        )
    )

    # Data: which datasets, how turns become windows, and the input pipeline. See docs/data.md.
    config.data = ConfigDict(
        dict(
            dataset="chitchat_peeps",  # see docs/data.md; "synthetic" = random batches
            data_dir="~/.cache/igerg_jax",  # prepared data; gs://… if prepared beforehand
            bucket_copies_dir="~/.cache/igerg_jax/buckets",  # each host's copy of a gs:// data_dir
            manual_dir="",  # folder of files that you must download yourself
            short_side=0,  # pixels that prepared images are scaled down to; 0 = as they are
            labels=dict(path="", min_confidence=0.6),  # pseudo-labels; confidence in 0..1
            mixtures={},  # {name: {objectives, datasets: {dataset: weight}}}
            train_split="train",
            eval_split="valid",  # evaluated during training
            test_split="test",  # evaluated at the end; samples.jsonl comes from it
            extra_test_splits=("test_style",),  # evaluated at the end too; () if there are none
            context_turns=3,  # previous turns given as text; one image per turn; 0 for faces only
            context_tokens=40,  # per example; raise with context_turns
            response_tokens=28,  # longer responses are truncated: one in ten
            # (context, response) tokens of batches of shorter windows, as ((20, 14),): less of them
            # is padding, and each size is compiled on its own. () = all batches have one size.
            length_buckets=(),
            # How far training evens out responses' emotions: 0 = as in the data, 1 = all equal.
            balance_emotions=0.0,
            include_response_image=True,  # as in the original; False for a chatbot
            use_images=True,  # False masks out every image
            reverse=False,  # True: the context from the response, as configs/backward.py learns it
            image_size=64,  # pixels per side
            feature_dim=0,  # > 0: precomputed vectors of this width instead of pixels
            # augment: random crop, flip and jitter in training, the central square in evaluation.
            # imagenet: always resize and centre-crop, as ResNet-50 was evaluated on ImageNet.
            preprocessing="augment",
            augment=dict(
                # Smallest crop, as a fraction of the image's area, stretched by up to 4/3; 1 = the
                # largest square: a small tower needs it to learn faces in so few steps.
                crop_min_area=1.0,
                flip=True,  # half of the images are mirrored
                colour_jitter=0.2,  # largest relative change of brightness, contrast, saturation
                erase_probability=0.0,  # of turning a random rectangle grey
                erase_max_area=0.2,  # the largest such rectangle, as a fraction of the image
            ),
            tokenizer=dict(
                kind="sentencepiece",  # sentencepiece, byte_level_bpe (BART's; needs a path)
                path="",  # file or folder; "" = train one on the train split
                mixture="",  # to train it on: "" = dataset; a mixture's name; "all" = all datasets
                model_type="unigram",  # unigram, bpe
                vocab_size=2048,  # special tokens and bytes included
                byte_fallback=True,  # bytes are pieces too, so no text becomes <unk>
                max_sentences=2_000_000,  # texts to train it on, sampled; lower to save memory
            ),
            prepare_workers=0,  # processes that prepare data; 0 = one per core
            # Decodes and augments images: numpy; tensorflow, with the same pixels; opencv, which
            # costs least: pixels differ by up to 2 of 255, and it is an extra package.
            image_backend="numpy",
            prefetch_batches=4,  # batches prepared ahead; costs host memory
            read_threads=2,  # threads that read and decode; raise if input_wait_fraction is high
        )
    )

    # Model: vision tower, text encoder-decoder, and the judge that classifies responses.
    config.model = ConfigDict(
        dict(
            compute_dtype="float32",  # bfloat16 = mixed precision, for TPUs and GPUs
            vision=dict(
                kind="vit",  # vit, resnet, resnet50, features
                stem="convolution",  # patch, convolution (learns from fewer images)
                patch_size=16,  # pixels per side
                width=64,
                layers=2,
                heads=4,
                mlp_width=256,
                dropout_rate=0.0,
                # The next three are set to match pre-trained weights: see docs/weights.md.
                class_token=False,  # a learned vector before the patches, as in the original ViT
                gelu="exact",  # exact, tanh (as SigLIP)
                norm_epsilon=1e-6,  # of layer norms
                # With resnet: blocks and channels of each stage; all but the first halve the size.
                depths=(1, 2, 2, 1),
                widths=(32, 64, 128, 256),
                channel_norm="group",  # with resnet: group, layer
                pooling="mean",  # with resnet: mean, positions (for aligned faces)
                tokens_per_image=1,  # visual tokens that the encoder sees per image
                frozen=False,  # True trains everything but the tower; needs init_from
                scan_layers=False,  # True for deep models: compile time stays flat with depth
                remat="none",  # none, all_dots, dots, full: from most memory to most recomputation
                attention="xla",  # xla, fused (one kernel on TPUs and, in bfloat16, on GPUs)
            ),
            text=dict(
                width=128,
                encoder_layers=2,
                decoder_layers=2,
                heads=4,
                mlp_width=512,
                dropout_rate=0.0,  # raise it if held-out loss rises while training loss falls
                norm_first=True,  # pre-LN; False = post-LN, as BART
                max_positions=128,  # at least the longest of context, response and generated text
                scan_layers=False,  # this, remat and attention: as for vision
                remat="none",
                attention="xla",
            ),
            judge=dict(width=64, layers=1, heads=4, mlp_width=128),
            turn_embeddings=True,  # tie each image to its turn's words
            # Where the decoder is conditioned on the response's emotion: none, input, output, both.
            emotion_embedding="both",
            # Scale of the emotion vectors; raise it if responses ignore the emotion, lower it if
            # they get garbled.
            emotion_scale=3.0,
            contrastive_width=64,  # of the vectors that image_text_contrastive compares
            vocab_chunk_tokens=40,  # positions per chunk of float32 logits; lower saves memory
        )
    )

    # Objectives: the loss is their weighted sum; one with weight 0 is not compiled at all.
    config.objectives = ConfigDict(
        dict(
            image_emotion=dict(weight=1.0, label_smoothing=0.0),
            sequence_emotion=dict(weight=1.0),
            # BART's infilling: the fraction of words hidden, and the mean span length.
            text_denoising=dict(weight=1.0, mask_fraction=0.3, mean_span_tokens=3.0),
            text_emotion=dict(weight=1.0),
            # BERT's masking; max_fraction of a context's tokens caps those that are predicted.
            masked_multimodal=dict(weight=1.0, mask_fraction=0.15, max_fraction=0.25),
            emotional_response=dict(
                weight=1.0,
                # What the decoder is conditioned on in training: label (the response's emotion),
                # predicted (what the model sees in the response's image).
                emotion_source="label",
                face_dropout=0.2,  # fraction without the response's image and emotion; for guidance
                # Weight of the contrast: the response is likelier under its own emotion than under
                # another; 0 = off.
                contrast_weight=0.1,
                estimator="straight_through",  # expected, straight_through, gumbel, detached
                consistency_weight=0.3,  # lambda after its ramp; 0 = maximum likelihood alone
                consistency_start_step=300,  # lambda is 0 before; let the likelihood settle first
                consistency_ramp_steps=200,  # steps over which lambda rises linearly
                temperature_start=1.0,  # of the softmax that the judge reads
                temperature_end=0.5,
                temperature_anneal_steps=800,  # until temperature_end is reached
                # From responses that the model draws itself, after fine-tuning: needs init_from.
                preference_weight=0.0,  # of preferring those for the own emotion; 0 = off
                preference_beta=0.1,  # raise it to stay closer to the parameters of init_from
                policy_weight=0.0,  # of the policy gradient on the judge's verdict; 0 = off
                policy_samples=4,  # responses drawn for each example, at least 2
                policy_fluency=0.1,  # weight of log q(response) per token in the reward
                policy_kl=0.1,  # weight of log p - log q in it, subtracted; q is init_from's
            ),
            image_text_contrastive=dict(
                weight=0.1,
                # batch: every other pair in the global batch (or accumulation step).
                # slice: pairs in the same slice (mesh.dcn), so no vectors cross between slices.
                negatives="batch",
            ),
        )
    )

    # Optimizer and learning rate: linear warm-up to the peak, then decay.
    config.optim = ConfigDict(
        dict(
            name="adamw",  # adamw, lion (use a third of the rate), adafactor (least memory)
            first_moment_dtype="float32",  # bfloat16 halves the first moment's memory
            schedule="cosine",  # cosine, inverse_sqrt
            peak_learning_rate=2e-3,  # lower for larger models: base uses 3e-4
            initial_learning_rate=1e-7,  # where warm-up starts
            final_learning_rate=1e-5,  # where cosine ends
            warmup_steps=100,
            # adafactor reads none of the next three, lion not eps.
            b1=0.9,  # decay rate of the gradient's moving average
            b2=0.98,  # of its square's; with lion, of the average that is kept
            eps=1e-8,  # added to the square root of the second moment
            weight_decay=0.01,  # per step, times the learning rate
            clip_norm=1.0,  # global gradient norm; 0 = no clipping
            ema_decay=0.0,  # of a moving average of the parameters; 0 = none
        )
    )

    # The training loop.
    config.train = ConfigDict(
        dict(
            batch_size=16,  # global batch in examples, over all devices and accumulation steps
            steps=900,
            accumulate_steps=1,  # raise to fit the global batch into less memory
            log_every_steps=10,
            evaluate_every_steps=225,  # 0 = only at the end
            checkpoint_every_steps=450,  # 0 = only when it evaluates
            keep_checkpoints=2,  # the most recent; the best by evaluate.best_metric is kept too
            max_consecutive_skips=10,  # steps with a non-finite loss or gradient before giving up
            stall_seconds=600,  # dump all stacks when no step or batch ends for so long; 0 = never
            stall_ends_run=False,  # True: end the run, so that the launcher can restart it
            wandb_project="",  # at Weights & Biases, beside TensorBoard; "" = none
            prng="threefry2x32",  # or rbg: fast on TPUs, but dropout then depends on the mesh
        )
    )

    # Evaluation, during training and with --mode=evaluate.
    config.evaluate = ConfigDict(
        dict(
            batch_size=64,  # windows
            examples=512,  # windows from the start of the split; 0 = all
            generated_examples=256,  # of those, how many get a response for the text metrics
            following_examples=48,  # at the end, with each of seven faces in turn; 0 = off
            progress_examples=4,  # responses at each evaluation, to progress.jsonl; 0 = none
            # Up to two files of tools.train_text_labeller, separated by a comma; "" = none.
            text_labeller="",
            # Folder of a transformers encoder that BERTScore compares responses with; "" = none.
            similarity_weights="",
            best_metric="response_perplexity",
            best_mode="min",  # min, max
        )
    )

    # Decoding.
    config.generate = ConfigDict(
        dict(
            # Beam search follows the face equally well, but its responses are less diverse.
            strategy="sample",  # greedy, sample, beam
            max_tokens=28,  # EOS included; at most text.max_positions
            beams=5,  # with beam
            length_penalty=1.0,  # with beams or candidates; higher favours longer responses
            candidates=4,  # with sample: of those that end by themselves, the likeliest is kept
            temperature=0.7,  # with sample, as are top_k and top_p
            top_k=0,  # 0 = off
            top_p=1.0,  # 1 = off
            guidance=1.5,  # classifier-free guidance scale, away from no face; 0 = off
            # Only tokens of at least this fraction of the top token's probability; 0 = all.
            guidance_floor=0.1,
            # MMI re-ranking of beams: a run of configs/backward.py, and the weight of its
            # log p(context | response); 0 = none. The original's weight is 0.037.
            mmi_checkpoint="",
            mmi_weight=0.0,
            no_repeat_ngram=2,  # no n-gram of this many tokens twice in a response; 0 = off
            examples=64,  # responses that a run writes to samples.jsonl
        )
    )

    # Device mesh: axis sizes; -1 = all remaining devices. docs/scaling.md says how to choose.
    config.mesh = ConfigDict(dict(dcn=1, data=-1, fsdp=1, tensor=1))
    # Logical axis of a parameter or activation -> the mesh axes that shard it; None = replicated.
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

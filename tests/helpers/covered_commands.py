"""What covers each command of the docs: the table of tests/test_docs_commands.py."""

from typing import NamedTuple


class Here(NamedTuple):
    """Runs in this test, with more words on its command line."""

    more: str = ""
    slow: bool = True
    stdin: str = ""


class By(NamedTuple):
    """Another test does the same: file, or file::function."""

    test: str


class Needs(NamedTuple):
    """Hardware, files or minutes that tests lack; the command's page says so in these words."""

    what: str


TINY = """data.dataset=chitchat_peeps/tiny data.extra_test_splits=() data.data_dir=DATA
    data.context_turns=2 data.context_tokens=24 data.response_tokens=12 data.image_size=16
    data.tokenizer.vocab_size=512 data.prefetch_batches=2 model.vision.kind=vit
    model.vision.width=16 model.vision.layers=1 model.vision.heads=2 model.vision.mlp_width=32
    model.text.width=16 model.text.encoder_layers=1 model.text.decoder_layers=1 model.text.heads=2
    model.text.mlp_width=32 model.text.max_positions=24 model.judge.width=8 model.judge.layers=1
    model.judge.heads=2 model.judge.mlp_width=16 model.contrastive_width=8"""
BRIEF = """objectives.sequence_emotion.weight=0 objectives.text_denoising.weight=0
    objectives.masked_multimodal.weight=0 objectives.image_text_contrastive.weight=0
    train.batch_size=8 train.steps=2 train.log_every_steps=1 train.evaluate_every_steps=0
    train.checkpoint_every_steps=0 optim.warmup_steps=1 evaluate.batch_size=8 evaluate.examples=8
    evaluate.generated_examples=8 evaluate.following_examples=2 generate.strategy=greedy
    generate.max_tokens=6 generate.examples=4"""
RUN = f"{TINY} {BRIEF}"
FINETUNED = "tests/tools/test_ablations.py::test_pre_trains_fine_tunes_and_compares"
WHEELS = Needs("")  # a package index: pip says so itself

COVERED = {
    # Quick: no model.
    "igerg --help": Here(slow=False),
    "igerg COMMAND --help": By("tests/cli/test_commands.py::test_every_command_explains_itself"),
    "igerg config --config=FILE": Here(slow=False),
    "igerg config --config=mine.py --diff": Here(slow=False),
    "igerg compare docs/results/local --baseline=no_binding": Here(
        "--out=compare.html", slow=False
    ),
    "igerg compare docs/results/local --out= --markdown=docs/results/local/README.md": Here(
        "--markdown=table.md", slow=False
    ),
    "igerg compare RUN RUN …": Here(slow=False),
    "igerg compare RUN RUN … [--baseline=NAME] [--out=compare.html]": Here(slow=False),
    "igerg compare runs/ablations-local --out= --markdown": Here(slow=False),
    "igerg compare runs": Here("--out=compare.html", slow=False),
    "igerg human_eval --runs=A,B": Here(slow=False),
    "igerg human_eval --runs=A,B --count=50 --out=human_eval.html": Here(slow=False),
    "igerg human_eval --key=human_eval.key.json anna.json ben.json [--json=found.json]": By(
        "tests/tools/test_human_eval.py::test_simulated_annotators_are_recovered"
    ),
    "cp runs/ablations-local/rows/*.json docs/results/local/": By(
        "tests/tools/test_ablations.py::test_the_miniature_trains_compares_and_is_not_repeated"
    ),
    "igerg runs --serve": By(
        "tests/tools/test_runs.py::test_the_served_page_is_as_the_runs_are_now"
    ),
    "igerg weights push --checkpoint=RUN --repo=USER/NAME": Here("--checkpoint=small", slow=False),
    "igerg weights push …": By("tests/tools/test_weights_hub.py"),
    "igerg weights pull --repo=USER/NAME --out=DIR": By(
        "tests/tools/test_weights_hub.py::test_what_is_pushed_comes_back"
    ),
    # What others build on: two runs, one fine-tuned, one on the reader's own faces.
    "igerg train --config=configs/pretrain.py": Here(RUN),
    "main.py --config=configs/pretrain.py": Here(f"{RUN} --workdir=runs/main"),
    "igerg train --config=configs/pretrain.py --run=low-rate "
    "--config.optim.peak_learning_rate=3e-4": Here(RUN),
    "igerg compare runs/pretrain-local runs/low-rate --out=compare.html": Here(),
    "igerg train --config=configs/finetune.py --config.init_from=runs/pretrain-local": Here(RUN),
    "igerg train --config=configs/pretrain.py --run=continued "
    "--config.init_from=runs/pretrain-local --config.optim.peak_learning_rate=3e-4": Here(RUN),
    "igerg train --config=configs/preference.py --config.init_from=runs/finetune-local": Here(RUN),
    "igerg train --config=configs/backward.py": Here(
        f"{RUN} evaluate.generated_examples=0 evaluate.following_examples=0 generate.examples=0"
    ),
    "igerg train --config=configs/backward.py:daily_dialog --config.data.manual_dir=DIR": By(
        "tests/test_configs.py"
    ),
    "igerg evaluate --config=configs/finetune.py:daily_dialog --workdir=RUN "
    "--config.generate.strategy=beam --config.generate.mmi_weight=0.037 "
    "--config.generate.mmi_checkpoint=runs/backward-daily_dialog": By(
        "tests/decoding/test_reranking.py"
    ),
    "igerg … \\| head": By("tests/cli/test_output.py"),
    "igerg evaluate --config=configs/finetune.py --config.generate.guidance=2": Here(RUN),
    "igerg weights export --format=safetensors --checkpoint=runs/finetune-local "
    "--out=shared": Here(),
    "igerg prepare --config=mine.py --manual_dir=mine": Here(TINY),
    "igerg show --config=mine.py --stats": Here(RUN),
    "igerg train --config=mine.py": Here(RUN),
    "igerg train --config=mine.py --run=my-faces --config.init_from=runs/pretrain-local "
    "--config.optim.peak_learning_rate=3e-4": Here(RUN),
    "igerg label --checkpoint=runs/my-faces --images=mine/test --out=labels": Here(),
    "igerg train --config=configs/ablations/no_images.py": Here(RUN),
    "igerg compare runs/pretrain-local runs/ablations-no_images-local": Here(),
    "igerg train --config=configs/baselines/text_only.py": Here(RUN),
    "igerg train --config=configs/pretrain.py --run=throughput "
    "--config.data.dataset=synthetic": Here(f"{RUN} data.dataset=synthetic"),
    "igerg train --config=configs/pretrain.py --config.train.wandb_project=igerg": By(
        "tests/training/test_trackers.py::test_weights_and_biases_is_given_the_same_offline"
    ),
    "igerg train --config=configs/pretrain.py:small": Here(RUN),
    # With a run's model.
    "igerg evaluate --config=configs/pretrain.py": Here(RUN),
    "igerg evaluate --config=configs/pretrain.py --config.generate.strategy=greedy": Here(RUN),
    "igerg evaluate --workdir=DIR": Here(f"--config=configs/pretrain.py {RUN} --workdir=RUN"),
    'igerg generate --config=configs/pretrain.py --context="hey how are you" '
    '--image=docs/faces/joy.jpg --context="oh no, my exam was terrible" '
    "--image=docs/faces/sadness.jpg --image=docs/faces/surprise.jpg": Here(RUN),
    'igerg generate --config=configs/pretrain.py --context="hey how are you" '
    "--image=docs/faces/joy.jpg --image=docs/faces/sadness.jpg": Here(RUN),
    'igerg generate --config=configs/pretrain.py --context="hey how are you" '
    "--emotion=sadness": Here(RUN),
    'igerg generate --checkpoint=small --context="oh no, my exam was terrible" '
    "--image=docs/faces/sadness.jpg --image=docs/faces/surprise.jpg": Here(
        "generate.strategy=greedy"
    ),
    "igerg chat --checkpoint=small": Here("--checkpoint=RUN", stdin="hello\n/quit\n"),
    "igerg chat --checkpoint=…": Here("--checkpoint=RUN", stdin="/face docs/faces/joy.jpg\nhi\n"),
    "igerg chat … < lines.txt": Here("--checkpoint=RUN", stdin="hello\n/new\nhello\n"),
    "igerg demo --checkpoint=RUN": By("tests/tools/test_demo.py::test_as_a_process"),
    "igerg demo --checkpoint=small": By("tests/tools/test_demo.py::test_as_a_process"),
    "igerg show --config=configs/pretrain.py --out=show.html": Here(RUN),
    "igerg show --config=… --out=show.html": Here(RUN),
    "igerg show --config=CONFIG.py --out=show.html [--step=K]": Here(f"{RUN} --step=1"),
    "igerg show --config=CONFIG.py --stats": Here(RUN),
    "igerg prepare --config=… --manual_dir=DIR": Here(TINY),
    "igerg prepare --config=CONFIG.py [--data_dir=DIR] [--manual_dir=DIR]": Here(TINY),
    "igerg prepare --config=configs/pretrain.py --config.data.dataset=meld --manual_dir=DIR": Here(
        f"{TINY} data.dataset=meld data.tokenizer.vocab_size=280"
    ),
    "igerg compile --config=configs/pretrain.py:base": Here(RUN),
    "igerg label --checkpoint=RUN --images=DIR --out=LABELS": Here("--images=mine/train"),
    "igerg train --config=… --config.data.labels.path=LABELS "
    "--config.data.labels.min_confidence=0.6": By(
        "tests/data/test_openvidial.py::test_pseudo_labels_are_read_and_doubtful_ones_are_left_out"
    ),
    "python -m igerg_jax.tools.calibrate_images --checkpoint=RUN": Here(),
    "python -m igerg_jax.tools.guidance_sweep --workdir=RUN --guidance=0,0.5,1,2,4": By(
        "tests/tools/test_guidance_sweep.py"
    ),
    "python -m igerg_jax.tools.guidance_sweep --workdir=runs/pretrain-local "
    "--guidance=0,0.5,1,2,4": Here("--windows=2 --batch_size=8 --guidance=0,1"),
    "python -m igerg_jax.tools.guidance_sweep --workdir=RUN --guidance=0,0.5,1,2,4 "
    "[--text_labeller=FILE] [--windows=N] [--split=test] [--batch_size=N]": By(
        "tests/tools/test_guidance_sweep.py"
    ),
    "igerg weights export --format=hf": By("tests/tools/test_weights_export.py"),
    "igerg weights export --format=hf --checkpoint=RUN --out=DIR": Here("--out=for-transformers"),
    "igerg weights export --format=stablehlo --checkpoint=RUN --out=DIR": Here("--out=programs"),
    "cd DIR && python example.py": By(
        "tests/tools/test_stablehlo.py::test_the_example_says_how_far_it_is_from_what_was_recorded"
    ),
    "igerg weights import": By("tests/tools/test_weights.py"),
    "igerg weights import …": By("tests/tools/test_weights.py"),
    "igerg weights import --config=configs/pretrain.py:paper --text=bart-base "
    "--vision=resnet50-0676ba61.pth --out=start --config.data.tokenizer.kind=byte_level_bpe "
    "--config.data.tokenizer.path=bart-base --config.data.tokenizer.vocab_size=50265": By(
        "tests/tools/test_weights.py::"
        "test_bart_base_fills_the_paper_preset_but_for_the_named_additions"
    ),
    "igerg train --config=configs/pretrain.py:paper --config.init_from=start …": By(
        "tests/tools/test_weights.py::test_a_run_starts_from_an_imported_bart"
    ),
    "igerg train --config=configs/pretrain.py:paper --config.data.tokenizer.kind=byte_level_bpe "
    "--config.data.tokenizer.path=bart-base --config.data.tokenizer.vocab_size=50265 …": By(
        "tests/data/test_byte_level_bpe.py"
    ),
    # Data of others, of which the tests write a few lines.
    "igerg train --config=configs/meld_fer2013.py --config.data.manual_dir=DIR": By(
        "tests/test_configs.py"
    ),
    "igerg train --config=configs/faces.py --config.data.manual_dir=DIR": By(
        "tests/test_configs.py"
    ),
    "python -m igerg_jax.tools.train_text_labeller --datasets=meld,daily_dialog --manual_dir=DIR "
    "--out=FILE": By("tests/tools/test_train_text_labeller.py"),
    "python -m igerg_jax.tools.train_text_labeller --datasets=meld,daily_dialog --manual_dir=DIR "
    "--out=linear.npz": By("tests/tools/test_train_text_labeller.py"),
    "python -m igerg_jax.tools.train_text_labeller --datasets=meld,daily_dialog --manual_dir=DIR "
    "--kind=network --seed=1 --out=network.npz": By("tests/tools/test_train_text_labeller.py"),
    "python -m igerg_jax.tools.train_text_labeller --datasets=meld,daily_dialog --manual_dir=DIR "
    "--train_splits=valid --out=linear-valid.npz": By("tests/tools/test_train_text_labeller.py"),
    "python -m igerg_jax.tools.train_text_labeller --datasets=meld,daily_dialog --manual_dir=DIR "
    "--train_splits=valid --kind=network --seed=1 --out=network-valid.npz": By(
        "tests/tools/test_train_text_labeller.py"
    ),
    "igerg evaluate --config=… --config.evaluate.text_labeller=linear.npz,network.npz": Here(RUN),
    "igerg evaluate --config=configs/pretrain.py:small --checkpoint=small --workdir=DIR "
    "--config.evaluate.text_labeller=text_labeller.npz": By(
        "tests/test_pretrained.py::test_two_figures_of_its_card"
    ),
    # Several processes, devices and machines.
    "./launch/multiprocess.sh 2 --config=configs/pretrain.py --run=two-processes "
    "--config.data.dataset=synthetic": By("tests/parallel/test_processes.py"),
    "igerg train --config=configs/pretrain.py:base --run=throughput --config.mesh.fsdp=8 "
    "--config.data.dataset=synthetic": Needs("eight accelerators"),
    "igerg train --config=configs/pretrain.py:base --run=base --config.mesh.fsdp=8 "
    "--config.data.dataset=synthetic": Needs("eight accelerators"),
    "igerg compile --config=configs/pretrain.py:large --topology=v5e:16x16": Needs(
        "requirements-tpu.txt"
    ),
    "igerg compile --config=configs/pretrain.py:large --topology=v5e:16x16 "
    "--report=large.json": Needs("requirements-tpu.txt"),
    "igerg compile --config=configs/pretrain.py:large --topology=v5e:16x16 --slices=2 "
    "--config.train.batch_size=8192 --report=two.json": Needs("requirements-tpu.txt"),
    "igerg compile --config=configs/pretrain.py:base --topology=v5e:2x4 --search "
    "--report=search.json": Needs("requirements-tpu.txt"),
    "gcloud storage rsync -r LOCAL/prepared gs://BUCKET/FOLDER/prepared": Needs("Google Cloud"),
    "docker build -t igerg .": By("tests/test_docker.py"),
    "docker build -t igerg:gpu --build-arg DEVICE=gpu .": By("tests/test_docker.py"),
    "docker build -t igerg:tpu --build-arg DEVICE=tpu .": By("tests/test_docker.py"),
    'docker run --rm -it -v "$PWD/runs:/igerg/runs" -v igerg-cache:/igerg/.cache igerg '
    "train --config=configs/pretrain.py": Needs("needs Docker"),
    "docker run --rm -it igerg chat --checkpoint=small": Needs("needs Docker"),
    'docker run --rm -it --gpus=all -v "$PWD/runs:/igerg/runs" -v igerg-cache:/igerg/.cache '
    "igerg:gpu train --config=configs/pretrain.py:base --config.data.dataset=synthetic": Needs(
        "needs Docker and GPUs"
    ),
    "docker run --rm -it --network=host igerg demo --checkpoint=small": Needs("needs Docker"),
    # Installing, and the scripts that install before they run what stands above.
    "./launch/local.sh": Needs("installs"),
    "./launch/local.sh --config.train.steps=2000": Needs("installs"),
    "./launch/demo.sh": Needs("installs"),
    "./launch/docs.sh": By("tests/test_docs.py::test_the_site_builds_without_a_warning"),
    "pip install .": By("tests/test_package.py"),
    "pip install -r requirements-opencv.txt": WHEELS,
    "pip install 'igerg_jax[video]'": WHEELS,
    "pip install pre-commit": WHEELS,
    "pip install xprof": WHEELS,
    "pip install -r requirements-evidence.txt": WHEELS,
    "pip install -r requirements-gcs.txt": WHEELS,
    "pip install -r requirements-gpu.txt": WHEELS,
    "pip install -r requirements-parity.txt": WHEELS,
    "python -m pip install -r requirements-browser.txt": WHEELS,
    "python -m pip install -r requirements-tpu.txt": WHEELS,
    "python -m pip install -r requirements-wandb.txt": WHEELS,
    "apt-get install chromium": Needs("Debian"),
    "ssh -L 7860:127.0.0.1:7860 HOST": Needs("from another machine"),
    "hf auth login": Needs("to a repository"),
    "tensorboard --logdir=runs": By(
        "tests/training/test_trackers.py::test_tensorboard_reads_it_back"
    ),
    # Long: hours, or the tests themselves.
    "./launch/ablations.sh --smoke": By(
        "tests/tools/test_ablations.py::test_the_miniature_trains_compares_and_is_not_repeated"
    ),
    "./launch/ablations.sh --seeds=0,1,2": By("tests/tools/test_ablations.py"),
    "./launch/ablations.sh --preset=daily_dialog --finetune --config.data.manual_dir=DIR": By(
        FINETUNED
    ),
    "./launch/ablations.sh --preset=daily_dialog --finetune --seeds=0,1,2 "
    "--config.data.manual_dir=DIR "
    "--config.evaluate.text_labeller=linear-valid.npz,network-valid.npz": By(FINETUNED),
    "./launch/ablations.sh --preset=meld --finetune --seeds=0 "
    "--only=full,no_consistency_no_contrast,no_binding,no_pretraining,text_only "
    "--config.data.manual_dir=DIR "
    "--config.evaluate.text_labeller=linear-valid.npz,network-valid.npz": By(FINETUNED),
    "./launch/ablations.sh --preset=daily_dialog --finetune --seeds=0,1,2 "
    "--only=full,no_consistency,estimator_detached,no_face_contrast,no_consistency_no_contrast "
    "--config.data.manual_dir=DIR "
    "--config.evaluate.text_labeller=linear-valid.npz,network-valid.npz": By(FINETUNED),
    "./launch/ablations.sh --preset=daily_dialog --finetune --only=full,preference,free_running "
    "--config.data.manual_dir=DIR "
    "--config.evaluate.text_labeller=linear-valid.npz,network-valid.npz": By(
        "tests/tools/test_ablations.py::test_stages_after_fine_tuning_start_from_the_full_one"
    ),
    "./launch/ablations.sh --preset=daily_dialog --finetune --seeds=0,1,2 "
    "--only=no_binding,no_pretraining,single_modal_only,cross_modal_only,response_only,text_only "
    "--config.data.manual_dir=DIR "
    "--config.evaluate.text_labeller=linear-valid.npz,network-valid.npz": By(FINETUNED),
    "python -m igerg_jax.tools.ablations --seeds=0,1,2": By("tests/tools/test_ablations.py"),
    "./launch/ablations.sh --seeds=0,1,2 --only=full,no_binding,with_consistency,"
    "with_emotion_embedding,with_face_contrast,with_face_dropout "
    "--config.train.evaluate_every_steps=0 --config.train.checkpoint_every_steps=150": By(
        "tests/tools/test_ablations.py"
    ),
    "python -m benchmarks.NAME": Needs("scripts that print measurements"),
    "python -m benchmarks.all --quick": By("tests/test_benchmarks_table.py"),
    "python -m benchmarks.objective_cost --rounds=12": Needs("minutes"),
    "python -m benchmarks.length_buckets --manual_dir=DIR": Needs("the files of MELD"),
    "python -m benchmarks.read_prepared --manual_dir=DIR --batches=200": Needs("Preparing MELD"),
    "python -m benchmarks.input_pipeline --out=speed.json": Needs("needs other loaders"),
    "python -m benchmarks.input_pipeline --mode=memory --out=memory.json": Needs("5,000 batches"),
    "python -m igerg_jax.tools.guidance_sweep --workdir=RUN --guidance=0,1.5,2,4 --split=valid "
    "--text_labeller=linear-valid.npz,network-valid.npz": By("tests/tools/test_guidance_sweep.py"),
    "./launch/test.sh": By("tests"),
    "./launch/test.sh -m slow": By("tests"),
    "./launch/test.sh --parity": By("tests"),
    "./launch/test.sh tests/test_text_metrics.py -k bleu": By("tests/test_text_metrics.py"),
    "./launch/test.sh -m slow -n 0 tests/faults": By("tests/faults"),
    "./launch/test.sh -m slow -n 0 tests/test_docs_commands.py": By("tests/test_docs_commands.py"),
    "python -m pytest -m slow tests/tools/test_demo_browser.py": By(
        "tests/tools/test_demo_browser.py"
    ),
    "python -m pytest -n 0 --hypothesis-show-statistics tests/data/test_mutated_files.py": By(
        "tests/data/test_mutated_files.py"
    ),
    "pytest tests/tools/test_weights.py -k seconds -rP": By(
        "tests/tools/test_weights.py::test_bart_base_takes_seconds_and_less_than_thrice_its_size"
    ),
    "ruff check --fix . && ruff format .": By("tests/test_repository.py"),
    "mypy": By("tests/test_repository.py"),
}

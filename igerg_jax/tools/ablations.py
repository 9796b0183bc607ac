"""Trains configs/pretrain.py and every ablation and baseline, one after another, and compares them.

    python -m igerg_jax.tools.ablations [--only=full,no_images] [--seeds=0,1,2] [--preset=local]
                                        [--finetune] [--out=DIR] [--config.KEY=VALUE …]
    python -m igerg_jax.tools.ablations --smoke       # three configs in miniature

launch/ablations.sh runs it too. Overrides apply to every run. Names are those of the files in
configs/ablations and configs/baselines; "full" is configs/pretrain.py. All configs run with the
first seed before any runs with the second.

With --finetune every pre-trained model is then fine-tuned by configs/finetune.py:PRESET+NAME, and
that is what is compared, also with no_pretraining, which needs this flag, and with what
configs/preference.py and configs/free_running.py make of `full` after that; those two run only
where --only names them. --config.init_from is what pre-training starts from.

    DIR/<name>-seed<k>/             the run's workdir; with --finetune, that of fine-tuning
    DIR/<name>-seed<k>-pretraining/ with --finetune, that of pre-training
    DIR/logs/<name>-seed<k>.log     its output
    DIR/rows/<name>-seed<k>.json    its metrics, and the code and hardware they were measured with
    DIR/compare.html, .md, .csv     all rows of DIR side by side

Rerun the command to resume: finished rows are skipped. A row that fails is recorded, and the next
one runs. Run it from the repository's root.
Exit codes: 0; 1 = a row failed; 2 = a mistake in the command, named in one message; 130 and 143 =
stopped by Ctrl-C or SIGTERM, the state saved.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from igerg_jax import environment, storage
from igerg_jax.constraints import LARGEST
from igerg_jax.data import parts
from igerg_jax.errors import RunError, UserError, check_all, check_known
from igerg_jax.report.templates import duration
from igerg_jax.run import command_line, workdirs
from igerg_jax.run.provenance import commit, cpu_model
from igerg_jax.tools import child_runs
from igerg_jax.tools.compare import files, rows
from igerg_jax.tools.compare.rows import DONE, FAILED, INTERRUPTED, Row

FOLDERS = ("configs/ablations", "configs/baselines")
FULL, NO_PRETRAINING = "full", "no_pretraining"  # of the names
LATER = ("preference", "free_running")  # stages after the fine-tuning of `full`

SMOKE_NAMES = ("full", "no_turn_embeddings", "text_only")
SMOKE = tuple(
    f"--config.{setting}"
    for setting in """
    data.dataset=chitchat_peeps/tiny data.extra_test_splits=() data.image_size=32
    data.context_tokens=32 data.response_tokens=16 data.tokenizer.vocab_size=512
    model.vision.patch_size=8 model.vision.width=32 model.vision.layers=1 model.vision.heads=2
    model.vision.mlp_width=64
    model.text.width=32 model.text.encoder_layers=1 model.text.decoder_layers=1 model.text.heads=2
    model.text.mlp_width=64 model.text.max_positions=64
    model.judge.width=16 model.judge.heads=2 model.judge.mlp_width=32 model.contrastive_width=16
    objectives.emotional_response.consistency_start_step=2
    objectives.emotional_response.consistency_ramp_steps=2
    objectives.emotional_response.temperature_anneal_steps=4
    optim.warmup_steps=2 train.batch_size=8 train.steps=6 train.log_every_steps=1
    train.evaluate_every_steps=3 train.checkpoint_every_steps=3
    evaluate.batch_size=16 evaluate.examples=32 evaluate.generated_examples=16
    evaluate.following_examples=12
    generate.strategy=greedy generate.max_tokens=8 generate.examples=4
    """.split()
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One config with one seed, whose last stage becomes a row.

    Attributes:
      stages: {name of the workdir: FILE:PRESET of its config}; each starts from the one before.
      config: that of the first stage.
    """

    name: str
    stages: dict[str, str]
    preset: str
    seed: int
    overrides: tuple[str, ...]
    config: Any

    @property
    def title(self) -> str:
        return f"{self.name}-seed{self.seed}"

    @functools.cached_property
    def configs(self) -> list[dict[str, Any]]:
        """Of each stage, as JSON; the `init_from` of all but the first is not in it."""
        later = (parse(a, self.seed, self.overrides) for a in [*self.stages.values()][1:])
        return [workdirs.as_json(config) for config in (self.config, *later)]

    @functools.cached_property
    def digest(self) -> str:
        return rows.digest(*self.configs)

    def results(self, out: pathlib.Path) -> dict[str, Any]:
        """`rows.results` of the last run; steps and examples are of all. Raises UserError."""
        runs = zip(self.runs(out), self.configs, strict=True)
        found = [rows.results(workdir, config) for (workdir, _), config in runs]
        counts = {key: [each[key] for each in found] for key in ("steps", "examples")}
        return found[-1] | {k: None if None in v else sum(v) for k, v in counts.items()}

    def runs(self, out: pathlib.Path) -> list[tuple[pathlib.Path, list[str]]]:
        """(workdir, arguments of main.py) of each stage; the last one is compared."""
        found: list[tuple[pathlib.Path, list[str]]] = []
        for folder, argument in self.stages.items():
            start = [f"--config.init_from={found[-1][0]}"] if found else []
            given = [f"--config={argument}", f"--config.seed={self.seed}", *self.overrides, *start]
            found.append((out / folder, given))
        return found

    def row(self, **fields: Any) -> Row:
        return Row(
            name=self.name,
            config=self.name if self.name in LATER else self.config.name,
            preset=self.preset,
            seed=self.seed,
            digest=self.digest,
            overrides=self.overrides,
            **fields,
        )


def parse(argument: str, seed: int, overrides: Sequence[str]) -> Any:
    """The config that --config=`argument` and overrides mean. Raises UserError."""
    arguments = [f"--config={argument}", f"--config.seed={seed}", *overrides]
    return command_line.parse(["ablations", *arguments], command_line.new_flags).config


def config_files(finetune: bool) -> dict[str, str]:
    """{name: file} of the configs that are compared, the full one first.

    Raises:
      UserError: they are not in the current folder.
    """
    if not pathlib.Path("main.py").is_file() or not pathlib.Path("configs").is_dir():
        raise UserError("run it from the repository's root: there is no main.py or configs/ here")
    config_of = {FULL: "configs/pretrain.py"}
    for folder in FOLDERS:
        for path in sorted(pathlib.Path(folder).glob("[a-z]*.py")):
            config_of[path.stem] = path.as_posix()
    if not finetune:  # there is no run that is equal but for pre-training
        config_of.pop(NO_PRETRAINING, None)
    return config_of


def stages(name: str, file: str, preset: str, seed: int, finetune: bool) -> dict[str, str]:
    """`Experiment.stages` of a config."""
    title = f"{name}-seed{seed}"
    if name in LATER:
        before = stages(FULL, "configs/pretrain.py", preset, seed, finetune)
        return before | {title: f"configs/{name}.py:{preset}"}
    if not finetune or name == NO_PRETRAINING:
        return {title: f"{file}:{preset}"}
    ablation = "" if name == FULL else f"+{name}"
    return {
        f"{title}-pretraining": f"{file}:{preset}",
        title: f"configs/finetune.py:{preset}{ablation}",
    }


def plan(
    names: Sequence[str],
    seeds: Sequence[int],
    preset: str,
    overrides: Sequence[str],
    finetune: bool = False,
) -> list[Experiment]:
    """The experiments of the configs `names` (none = all), in the order in which they run.

    Raises:
      UserError: an unknown name, preset or key, or a value that a key may not have.
    """
    known = config_files(finetune)
    for name in names:
        if name in (NO_PRETRAINING, *LATER) and not finetune:
            raise UserError(f"--only: {name} is compared with what is fine-tuned: add --finetune")
        places = [*known, *LATER]
        check_known(name, places, f"--only: '{name}' is neither an ablation nor a baseline")
    experiments = []
    for seed in seeds:
        for name in names or known:
            runs = stages(name, known.get(name, ""), preset, seed, finetune)
            config = parse(next(iter(runs.values())), seed, overrides)
            experiments.append(Experiment(name, runs, preset, seed, tuple(overrides), config))
    from igerg_jax import checks  # imports JAX, which --help and wrong flags need not wait for

    check_all(*(functools.partial(checks.check_values, e.config) for e in experiments))
    return experiments


def earlier_rows(experiments: Sequence[Experiment], out: pathlib.Path) -> dict[str, Row]:
    """{title: row} of the experiments that have one, finished or not.

    Raises:
      UserError: a row is finished, but of another config.
    """
    earlier = {}
    for experiment in experiments:
        path = row_file(experiment, out)
        if not path.exists():
            continue
        row = rows.of_file(path)
        if row.digest == experiment.digest:
            earlier[experiment.title] = row
        elif row.status == DONE:
            raise UserError(
                f"'{path}' is of another config or other overrides; give another --out, or delete "
                f"it and '{out / experiment.title}'"
            )
    return earlier


def row_file(experiment: Experiment, out: pathlib.Path) -> pathlib.Path:
    return out / rows.FOLDER / f"{experiment.title}.json"


def run_all(experiments: Sequence[Experiment], out: pathlib.Path) -> None:
    """Runs the experiments that are not finished, and compares all rows of `out`.

    Raises:
      UserError: `out` holds finished rows of other configs; nothing was run.
      RunError: rows failed; the others are finished.
      SystemExit, KeyboardInterrupt: a signal stopped it.
    """
    earlier, failed = earlier_rows(experiments, out), []
    for number, experiment in enumerate(experiments, 1):
        before, place = earlier.get(experiment.title), f"[{number}/{len(experiments)}]"
        if before and before.status == DONE:
            print(f"{place} {experiment.title}: finished before", file=sys.stderr)
            continue
        log = out / "logs" / f"{experiment.title}.log"
        print(f"{place} {experiment.title}: running; its output goes to {log}", file=sys.stderr)
        spent = before.wall_seconds or 0.0 if before else 0.0
        row = run_one(experiment, out, log, spent)
        took = duration(row.wall_seconds)
        print(
            f"{place} {experiment.title}: {row.status} after {took} {row.message}", file=sys.stderr
        )
        if row.status == FAILED:
            failed.append(experiment.title)
    print(f"comparison: {files.compare([str(out / rows.FOLDER)], out)}", file=sys.stderr)
    if failed:
        raise RunError(f"{len(failed)} of {len(experiments)} rows failed: {', '.join(failed)}")


def run_one(experiment: Experiment, out: pathlib.Path, log: pathlib.Path, spent: float) -> Row:
    """Trains and evaluates one experiment; writes and returns its row.

    Args:
      log: the file that its output is appended to.
      spent: seconds that earlier attempts took.

    Raises:
      SystemExit, KeyboardInterrupt: a signal stopped this process and the run; its row is written.
    """
    workdir, path = out / experiment.title, row_file(experiment, out)
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = log.stat().st_size if log.exists() else 0
    fields: dict[str, Any] = {"commit": commit() or "", "jax": importlib.metadata.version("jax")}
    start = time.perf_counter()
    for folder, arguments in experiment.runs(out):
        command = [sys.executable, "main.py", *arguments, f"--workdir={folder}"]
        code, stopped_by = child_runs.call(command, log)
        if code or stopped_by:
            break
    fields["wall_seconds"] = spent + time.perf_counter() - start
    fields["hardware"] = {"cpu": cpu_model(), "cores": parts.cores()}
    if workdir.is_dir():
        fields["workdir"] = os.path.relpath(workdir, path.parent)
    if stopped_by:
        rows.write(experiment.row(status=INTERRUPTED, **fields), path)
        if stopped_by == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + stopped_by)
    row = experiment.row(**_outcome(experiment, out, fields, code, log, begin))
    rows.write(row, path)
    return row


def _outcome(
    experiment: Experiment,
    out: pathlib.Path,
    fields: dict[str, Any],
    code: int,
    log: pathlib.Path,
    begin: int,
) -> dict[str, Any]:
    """The fields of a row whose run has exited with `code`, without a signal to stop."""
    if code:
        return fields | {"status": FAILED, "message": child_runs.failure(code, log, begin)}
    try:
        results = experiment.results(out)
    except UserError as error:
        return fields | {"status": FAILED, "message": str(error)}
    return results | fields | {"hardware": fields["hardware"] | results["hardware"]}


def run(argv: list[str]) -> None:
    """Runs a command line. Raises UserError if it is wrong."""
    argv = command_line.with_flagfiles(argv)
    overrides = [argument for argument in argv[1:] if command_line.OVERRIDE.match(argument)]
    rest = [argument for argument in argv if argument not in overrides]
    values = command_line.parse(rest, define_flags)
    for override in overrides:
        if command_line.OVERRIDE.match(override)[1] == "seed":
            raise UserError(f"'{override}': the seeds are --seeds=0,1,2")
    names = list(dict.fromkeys(name for name in values.only.split(",") if name))
    if values.smoke:
        names, overrides = names or list(SMOKE_NAMES), [*SMOKE, *overrides]
    ending = "-finetuned" if values.finetune else ""
    out = values.out or f"runs/ablations-{'smoke' if values.smoke else values.preset}{ending}"
    seeds = parse_seeds(values.seeds)
    experiments = plan(names, seeds, values.preset, overrides, values.finetune)
    folder = storage.local_path(out)
    with claimed(folder):
        run_all(experiments, folder)


@contextlib.contextmanager
def claimed(folder: pathlib.Path) -> Iterator[None]:
    """Creates a folder, and keeps other processes of this tool out of it.

    Raises:
      UserError: another one uses it, or the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(workdirs.locked(folder, "folder", "--out"))
        except OSError as error:
            raise UserError(f"cannot write to '{folder}': {error.strerror}") from error
        yield


def parse_seeds(text: str) -> list[int]:
    """ "0,1,2" as numbers. Raises UserError."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds={text}: give whole numbers, as in --seeds=0,1,2") from None
    if len(set(seeds)) < len(seeds) or not all(0 <= seed <= LARGEST for seed in seeds):
        raise UserError(f"--seeds={text}: give different numbers from 0 to {LARGEST}")
    return seeds


def define_flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    define = functools.partial(flags.DEFINE_string, flag_values=values)
    define("only", "", "Names of the configs to run, separated by commas. Default: all.")
    define("seeds", "0", "Seeds, separated by commas; each config runs with each of them.")
    define("preset", "local", "Preset of all configs.")
    define("out", "", "Folder for the runs. Default: runs/ablations-PRESET[-finetuned].")
    help_text = "Fine-tune what was pre-trained before it is compared."
    flags.DEFINE_boolean("finetune", False, help_text, flag_values=values)
    help_text = "Run three configs in miniature, on a tiny data set."
    flags.DEFINE_boolean("smoke", False, help_text, flag_values=values)
    return values


main = functools.partial(command_line.main, doc=__doc__, define_flags=define_flags, run=run)

if __name__ == "__main__":
    environment.run(main)

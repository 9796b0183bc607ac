"""Rows: the results of one config with one seed, from a small JSON file or a run's workdir."""

import dataclasses
import hashlib
import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from igerg_jax import storage
from igerg_jax.errors import UserError
from igerg_jax.report.templates import finite
from igerg_jax.run import command_line, history, workdirs
from igerg_jax.storage import read_json_object
from igerg_jax.tools.compare import valid_fields

FOLDER = "rows"  # in the folder of an ablation's runs
SPLIT = "test"  # the split, by its name in summary.json, whose windows a row keeps
DONE, FAILED, INTERRUPTED = "done", "failed", "interrupted"
FULL = {"pretrain": "full"}  # config -> its name among its ablations

# Keys for the places of files and the speed of reading them: they do not affect results.
PLACE_KEYS = """
    compilation_cache_dir data.data_dir data.bucket_copies_dir data.manual_dir
    data.prefetch_batches data.read_threads data.prepare_workers distributed. profile.
""".split()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The results of a run; the fields are the keys of the JSON file. None or empty: not known.

    Attributes:
      name: short, as tables show it.
      config: `config.name`, such as "ablations/no_images".
      overrides: --config.KEY=VALUE as given.
      digest: of the config without its seed and `PLACE_KEYS`: rows with the same digest are one
        experiment with several seeds.
      status: "done", "failed" or "interrupted"; `message` says why it failed.
      commit: of the code, with "-dirty" if files differed from it.
      hardware: {"cpu": model, "cores": number, "devices": as in summary.json}.
      wall_seconds: of the complete command, evaluation included, over all attempts.
      evaluation: {split: {metric: value}}, as in summary.json.
      text_labeller: how well the labellers besides the lexicon do, as in summary.json.
      following_matrix: int [7, 7] of `SPLIT`, as in summary.json.
      windows: of `SPLIT`, as in windows.json.
      workdir: the run's folder, in the file relative to the file; "" = it does not exist.
    """

    name: str
    config: str
    preset: str
    seed: int
    digest: str = ""
    overrides: Sequence[str] = ()
    status: str = DONE
    message: str = ""
    commit: str = ""
    jax: str = ""
    hardware: dict[str, Any] = dataclasses.field(default_factory=dict)
    wall_seconds: float | None = None
    steps: int | None = None
    examples: int | None = None
    parameters: int | None = None
    evaluation: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    text_labeller: dict[str, Any] = dataclasses.field(default_factory=dict)
    following_matrix: list[list[int]] | None = None
    windows: dict[str, Any] = dataclasses.field(default_factory=dict)
    workdir: str = ""


FIELDS = {field.name: field for field in dataclasses.fields(Row)}


def short_name(config: str) -> str:
    """The name of a config among its ablations: "ablations/no_images" is no_images."""
    return FULL.get(config, config.rpartition("/")[2])


def digest(config: dict[str, Any], *later: dict[str, Any]) -> str:
    """Sixteen hex digits that identify a config (of `workdirs.as_json`); see `Row`.

    Args:
      later: the configs of the stages that follow, of which the first is fine-tuning.
    """
    kept = _compared(config)
    for stage in later:
        group = "finetuning" if stage is later[0] else stage["name"]
        kept |= {f"{group}.{key}": value for key, value in _compared(stage).items()}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _compared(config: dict[str, Any]) -> dict[str, Any]:
    """{key: value} without what rows that are one line may differ in."""
    left_out = ["seed", *PLACE_KEYS]
    flat = workdirs.flatten(config)
    return {key: value for key, value in flat.items() if not workdirs.matches(key, left_out)}


def results(workdir: pathlib.Path, config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row that can be read from the folder of a finished run.

    Raises:
      UserError: the run has no summary.json, or a file is not JSON.
    """
    summary = read_json_object(workdir / workdirs.SUMMARY_FILE)
    if not summary:
        raise UserError(f"'{workdir}' has no summary.json: the run is not finished")
    steps, windows = summary.get("final_step"), read_json_object(workdir / "windows.json")
    batch_size = _inside(config, "train", "batch_size")
    counted = finite(steps) and finite(batch_size)
    return {
        "hardware": {"devices": summary["devices"]} if summary.get("devices") else {},
        "wall_seconds": summary.get("wall_seconds"),
        "steps": steps,
        "examples": steps * batch_size if counted else None,
        "parameters": _inside(summary, "parameters", "total"),
        "evaluation": summary.get("evaluation") or {},
        "text_labeller": summary.get("text_labeller") or {},
        "following_matrix": _inside(summary, "following_matrix", SPLIT),
        "windows": windows.get(SPLIT) or {},
    }


def _inside(content: Mapping[str, Any], group: str, key: str) -> Any:
    """A value in a group of a JSON object; None if there is no such group or value."""
    inner = content.get(group)
    return inner.get(key) if isinstance(inner, dict) else None


def of_workdir(workdir: pathlib.Path) -> Row:
    """The row of a run's folder. Raises UserError as `results` does, and without a config."""
    config = read_json_object(workdir / workdirs.CONFIG_FILE)
    finished = results(workdir, config)
    if "seed" not in config:
        raise UserError(f"'{workdir}' has no {workdirs.CONFIG_FILE} of a run")
    name = config.get("name") or workdir.name
    fields = {
        "name": short_name(name) if isinstance(name, str) else name,
        "config": name,
        "preset": config.get("preset") or "",
        "seed": config["seed"],
        "digest": digest(config),
        "workdir": str(workdir.resolve()),
    }
    return Row(**valid_fields.checked(fields | _last_start(workdir) | finished, workdir))


def _last_start(workdir: pathlib.Path) -> dict[str, Any]:
    """The fields of a row that the record of a run's last start has."""
    entries = history.read(epath.Path(workdir))
    if not entries:
        return {}
    try:
        arguments = shlex.split(str(entries[-1].get("command") or ""))
    except ValueError:  # a damaged file
        arguments = []
    given = [argument for argument in arguments if command_line.OVERRIDE.match(argument)]
    return {"overrides": given, "commit": entries[-1].get("commit") or ""}


def write(row: Row, path: pathlib.Path) -> None:
    """Writes a row, a line for each key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in dataclasses.asdict(row).items())
    storage.write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def of_file(path: pathlib.Path) -> Row:
    """The row in a JSON file.

    Raises:
      UserError: it is not JSON, or not a row.
    """
    stored = read_json_object(path)
    missing = [name for name in ("name", "config", "preset", "seed") if name not in stored]
    if missing:
        raise UserError(f"'{path}' is not a row of a comparison: it has no {', '.join(missing)}")
    # Older files lack some fields; fields of newer ones that are unknown here are ignored.
    known = {name: stored[name] for name in FIELDS if name in stored}
    row = Row(**valid_fields.checked(known, path))
    try:
        workdir = (path.parent / row.workdir).resolve()
        exists = bool(row.workdir) and workdir.is_dir()
    except (OSError, ValueError):  # not a path: too long, or with a null character
        exists = False
    return dataclasses.replace(row, workdir=str(workdir) if exists else "")


def read(paths: Sequence[str]) -> list[Row]:
    """The rows of workdirs, row files, folders of row files and folders that hold rows/, or that
    hold workdirs: then those of the runs in it that are finished.

    Raises:
      UserError: nothing there, not a row, or the same experiment and seed twice.
    """
    by_key: dict[tuple, tuple[Row, pathlib.Path]] = {}
    for text in paths:
        for row, source in _read(storage.local_path(text)):
            key = row.config, row.preset, row.digest, row.seed
            if key in by_key:
                raise UserError(
                    f"'{source}' and '{by_key[key][1]}' are both {row.name} with seed {row.seed}: "
                    "name one of them"
                )
            by_key[key] = row, source
    return [row for row, _ in by_key.values()]


def _read(path: pathlib.Path) -> list[tuple[Row, pathlib.Path]]:
    if path.is_file():
        return [(of_file(path), path)]
    if (path / workdirs.SUMMARY_FILE).exists() or (path / workdirs.CONFIG_FILE).exists():
        return [(of_workdir(path), path)]
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    finished = sorted(path.glob("*/summary.json")) if not files else []
    if finished:
        return [(of_workdir(file.parent), file.parent) for file in finished]
    if not files:
        raise UserError(f"'{path}' is not a workdir, a row or a folder of rows")
    return [(of_file(file), file) for file in files]

"""Experiment trackers: TensorBoard and, if configured, Weights & Biases.

Both are written through the interface of `clu.metric_writers`, with the same names. "loss/total" in
metrics.jsonl is "train/loss/total" here, because trackers group curves by the first part of a name.
"""

import base64
import concurrent.futures
import importlib.util
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from etils import epath

from igerg_jax import storage
from igerg_jax.data import image_gate, text_repair
from igerg_jax.run.workdirs import flatten

FOLDER = "tensorboard"  # in a workdir
WANDB_ID = "wandb-id"  # in a workdir: the run's id at Weights & Biases, which a resumed run keeps
TRAINING_METRICS = ("loss/", "metric/", "learning_rate", "grad_norm")
SAMPLES, FACE_SIZE = 8, 96  # conversations that are written; pixels per side of a face


class Tracker:
    """Writes to several writers, under the names that `tag` gives."""

    def __init__(self, writers: Sequence[Any]):
        self._writers = writers

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars that are named as in metrics.jsonl."""
        tagged = {tag(name): value for name, value in scalars.items()}
        for writer in self._writers:
            writer.write_scalars(step, tagged)

    def write_results(
        self,
        step: int,
        evaluation: Mapping[str, Mapping[str, float]],
        rows: Sequence[Mapping[str, Any]],
        config: Mapping[str, Any],
    ) -> None:
        """Writes the results of a finished run.

        Args:
          evaluation: {split: {metric: value}}.
          rows: of samples.jsonl; the first `SAMPLES` are written.
          config: the run's config; its numbers, booleans and strings become hyperparameters.
        """
        scalars = {f"{k}/{name}": v for k, of in evaluation.items() for name, v in of.items()}
        shown = rows[:SAMPLES]
        faces = [face for row in shown if (face := _face(row)) is not None]
        kinds = bool | int | float | str
        hparams = {k: v for k, v in flatten(config).items() if isinstance(v, kinds)}
        for writer in self._writers:
            writer.write_scalars(step, scalars)
            writer.write_hparams(hparams)
            if shown:
                writer.write_texts(step, {"samples/conversations": table(shown)})
            if faces:
                writer.write_images(step, {"samples/faces": np.stack(faces)})

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def open_tracker(workdir: epath.Path, wandb_project: str) -> Tracker:
    """A tracker of a run.

    Args:
      wandb_project: the project at Weights & Biases; "" = only TensorBoard.

    Raises:
      ImportError: what writes TensorBoard's events is not installed, or wandb although it has a
        project.
    """
    for name in ("clu", "tensorboard", "tensorflow"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(name=name)
    writers: list[Any] = [TensorBoardWriter(workdir / FOLDER)]
    if wandb_project:
        writers.append(WandbWriter(workdir, wandb_project))
    return Tracker(writers)


def tag(name: str) -> str:
    """The tracker's name for what metrics.jsonl calls `name`."""
    if name.startswith(TRAINING_METRICS):
        return f"train/{name}"
    return name if "/" in name else f"utilisation/{name}"


class TensorBoardWriter:
    """clu's writer of TensorBoard events, in a thread of its own.

    Importing it imports TensorFlow, which takes seconds. The thread does so at the first write, so
    that nothing waits for it. What a write raises, the next write raises, or `close`; where the
    import fails, a line says so and nothing is written.
    """

    def __init__(self, folder: epath.Path):
        self._folder = os.fspath(folder)
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._writes: list[concurrent.futures.Future] = []
        self._writer: Any = None  # only the thread uses this and the next
        self._imports = True

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._write("write_scalars", step, scalars)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        self._write("write_texts", step, texts)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._write("write_images", step, images)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._write("write_hparams", hparams)

    def close(self) -> None:
        """Waits until all is written."""
        self._writes.append(self._thread.submit(self._close))
        self._thread.shutdown()
        self._raise_errors()

    def _write(self, method: str, *arguments: Any) -> None:
        self._raise_errors()
        self._writes.append(self._thread.submit(self._call, method, *arguments))

    def _call(self, method: str, *arguments: Any) -> None:
        if self._writer is None and self._imports:
            try:
                from clu import metric_writers
            except ImportError as error:  # installed, and broken: training goes on without
                tqdm.tqdm.write(f"no TensorBoard events: {error}", file=sys.stderr)
                self._imports = False
            else:
                self._writer = metric_writers.SummaryWriter(self._folder)
        if self._writer is not None:
            getattr(self._writer, method)(*arguments)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _raise_errors(self) -> None:
        done = [write for write in self._writes if write.done()]
        self._writes = [write for write in self._writes if write not in done]
        for write in done:
            write.result()


class WandbWriter:
    """A run at Weights & Biases, with the methods of a `clu.metric_writers.MetricWriter`."""

    def __init__(self, workdir: epath.Path, project: str):
        import wandb  # an extra

        self._wandb = wandb
        file = workdir / WANDB_ID
        if not file.exists():
            storage.write_text(file, uuid.uuid4().hex[:12])
        # Its files are on this machine, wherever the workdir is.
        folder = None if storage.is_bucket(workdir) else os.fspath(workdir)
        self._run = wandb.init(
            project=project, name=workdir.name, id=file.read_text(), resume="allow", dir=folder
        )

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        def rows(text):
            data = [[line] for line in text_repair.lines(text)]
            return self._wandb.Table(columns=["text"], data=data)

        self._run.log({name: rows(text) for name, text in texts.items()}, step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        logged = {name: [self._wandb.Image(x) for x in array] for name, array in images.items()}
        self._run.log(logged, step=step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._run.config.update(dict(hparams), allow_val_change=True)

    def close(self) -> None:
        self._run.finish()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of samples.jsonl as a Markdown table."""
    lines = [
        "| last turn | intended emotion | emotion of the words | generated | reference |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        turns = row.get("context") or [{}]
        cells = [turns[-1].get("text"), row.get("reference_emotion"), row.get("spoken_emotion")]
        cells += [row.get("generated"), row.get("reference")]
        escaped = (" ".join(str(c or "–").replace("|", "\\|").split()) for c in cells)
        lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join(lines)


def _face(row: Mapping[str, Any]) -> np.ndarray | None:
    """The response's image of a row of samples.jsonl, uint8 [96, 96, 3]."""
    url = (row.get("response_image") or {}).get("image")
    if not url:
        return None
    image = image_gate.read_rgb(base64.b64decode(url.partition(",")[2]))
    return np.asarray(image.resize((FACE_SIZE, FACE_SIZE)))

"""Labels images with the emotions that a trained model sees in them.

    igerg label --checkpoint=RUN --images=DIR --out=DIR

--checkpoint is a workdir or one of its checkpoints. --images is a folder, read at any depth, or a
quoted pattern such as 'frames/*/*.jpg'. Give a dataset's own folder (OpenViDial's, the one with
train_images/), and training reads the labels with --config.data.labels.path=DIR; below
--config.data.labels.min_confidence a turn has no label. Each image is classified by itself.

If it is killed, the same command resumes: parts that are complete are kept.
Exit codes: 0; 2 = a mistake in the command or its files, named in one message.

    DIR/labels-*.npz     image str[n], probability float32[n, 7] in the order of
                         igerg_jax.batch.EMOTIONS; broken str[m], files that are not images;
                         strange bool[n], unlike the model's training images (False if
                         igerg_jax.tools.calibrate_images has not been run)
    DIR/summary.json     counts, in all and by the likeliest emotion, and of skipped files
"""

import functools
import hashlib
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from igerg_jax import environment, storage
from igerg_jax.batch import EMOTIONS, NUM_EMOTIONS
from igerg_jax.data import image_domain, image_files, parts, pipeline
from igerg_jax.data.images import find_files
from igerg_jax.data.parts import progress
from igerg_jax.errors import UserError
from igerg_jax.evaluation import trained_run
from igerg_jax.evaluation.predictions import image_probabilities
from igerg_jax.parallel import sharding
from igerg_jax.run import checkpoint, command_line
from igerg_jax.setup import Jitted

PLAN, SUMMARY = "plan.json", "summary.json"
# (name; float32[7], or None if it is broken; whether it is unlike the training images)
Labels = Iterator[tuple[str, np.ndarray | None, bool]]


def label(source: str, images: str, out: str, batch_size: int, part_images: int) -> dict:
    """Writes the files that the module's docstring lists.

    Args:
      source: a workdir, or one of its checkpoints.
      images: a folder, or a pattern.
      batch_size: images per call, over all devices; the last batch is padded, so that only one
        program is compiled.
      part_images: images per file.

    Returns:
      summary.json's content.

    Raises:
      UserError: no checkpoint or no images, a model that takes feature vectors instead, or an
        `out` with labels of another checkpoint or of other images.
    """
    if batch_size < 1 or part_images < 1:
        raise UserError("--batch_size and --part_images must be at least 1")
    files, folder = find_files(images), storage.local_path(out)
    run = trained_run.open_run(source, batch_size=batch_size)
    if feature_dim := run.config.data.feature_dim:
        raise UserError(
            f"'{source}' reads precomputed features (data.feature_dim={feature_dim}), so it "
            "cannot label image files"
        )
    if "emotion_head" not in run.params:
        raise UserError(
            f"'{source}' names no emotions in images: neither image_emotion nor masked_multimodal "
            "was among its objectives"
        )
    claim(folder, plan_of(run, files, part_images))
    borders = parts.borders(len(files.names), part_images)
    paths = [folder / f"labels-{number:05d}.npz" for number in range(len(borders))]
    missing = [
        (path, files.names[slice(*border)])
        for path, border in zip(paths, borders, strict=True)
        if not parts.is_whole(path)
    ]
    domain = image_domain.read(checkpoint.tokenizer_file(run.folder).parent)
    labels = predict(run, files.folder, [name for _, names in missing for name in names], domain)
    for path, names in progress(missing, "labelling", "part"):
        rows = [next(labels) for _ in names]
        good = [(name, p_C, strange) for name, p_C, strange in rows if p_C is not None]
        arrays = {  # the first two are what igerg_jax.data.builders.pseudo_labels reads
            "image": np.array([name for name, *_ in good], np.str_),
            "probability": np.array([p for _, p, _ in good], np.float32).reshape(-1, NUM_EMOTIONS),
            "broken": np.array([name for name, p_C, _ in rows if p_C is None], np.str_),
            "strange": np.array([strange for *_, strange in good], bool),
        }
        parts.save_npz(path, arrays)
    counts = summary(paths) | {"passed_over": dict(files.passed_over)}
    labelled, broken = counts["labelled"], counts["broken"]
    line = image_files.count_line(labelled, 0, broken, files.passed_over)
    print(f"{files.folder}: {line}", file=sys.stderr)
    if domain is None:
        print(image_domain.unknown(source), file=sys.stderr)
    elif counts["strange"] > domain.expected(labelled):
        print(domain.warning(counts["strange"], labelled), file=sys.stderr)
    storage.write_text(folder / SUMMARY, json.dumps(counts, indent=1) + "\n")
    return counts


def plan_of(run: Any, files: Any, part_images: int) -> dict[str, Any]:
    """The properties that all parts in one folder must share, as JSON."""
    names = "\n".join(files.names).encode(errors="surrogateescape")
    return {
        "checkpoint": str(run.folder),
        "images": str(files.folder.resolve()),
        "files": len(files.names),
        "names": hashlib.sha256(names).hexdigest()[:16],
        "part_images": part_images,
    }


def claim(folder: pathlib.Path, plan: dict[str, Any]) -> None:
    """Creates `folder`, or resumes in it. Raises UserError if its labels follow another plan."""
    path = folder / PLAN
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() and not any(folder.glob("labels-*.npz")):
            storage.write_text(path, json.dumps(plan, indent=1) + "\n")
        stored = storage.from_json(path.read_text())
        if not isinstance(stored, dict):
            raise ValueError(f"its {PLAN} is damaged")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write labels to --out '{folder}': {error}") from error
    different = ", ".join(
        f"{k} (there {stored.get(k)}, here {v})" for k, v in plan.items() if stored.get(k) != v
    )
    if different:
        raise UserError(f"'{folder}' holds other labels: {different}. Give another --out")


def predict(
    run: Any,
    folder: pathlib.Path,
    names: Sequence[str],
    domain: image_domain.Domain | None = None,
) -> Labels:
    """Yields `Labels` of the files in `folder`; reads a batch while the device runs another.

    Args:
      domain: of the training images; None = not known, so no image counts as unlike them.
    """
    placed = sharding.batch_sharding(run.setup.mesh)

    def of_the_image(model, params, batch):
        return image_probabilities(model, params, batch)["images"][:, 0]

    probabilities = Jitted(run.setup, of_the_image)
    paths, names = [folder / name for name in names], iter(names)

    def launched() -> Iterator[tuple[np.ndarray, jax.Array, np.ndarray]]:
        for batch in pipeline.file_batches(paths, run.setup.model.special, run.config):
            images = {name: batch[name] for name in ("images", "image_mask", "image_turn")}
            p_BxC = probabilities(run.params, sharding.to_devices(images, placed))
            real_B = batch["image_mask"][:, 0]
            strange_B = np.zeros_like(real_B) if domain is None else real_B.copy()
            if strange_B.any():
                strange_B[real_B] = domain.outside(batch["images"][real_B, 0])
            yield real_B, p_BxC, strange_B

    # In pairs, so that the next batch is launched before this one is waited for.
    for (real_B, p_BxC, strange_B), _ in itertools.pairwise(itertools.chain(launched(), [None])):
        rows = zip(real_B, np.asarray(p_BxC), strange_B, names, strict=False)
        for real, p_C, strange, name in rows:
            yield name, p_C if real else None, bool(strange)


def summary(paths: Sequence[pathlib.Path]) -> dict[str, Any]:
    """Counts over all parts, including those of earlier calls."""
    broken: list[str] = []
    counts_C, sure_C, strange = np.zeros(NUM_EMOTIONS, np.int64), np.zeros(NUM_EMOTIONS), 0
    for path in paths:
        with np.load(path) as part:
            p_NxC = part["probability"]
            broken += part["broken"].tolist()
            strange += int(part["strange"].sum()) if "strange" in part else 0
        best_N = p_NxC.argmax(1)
        counts_C += np.bincount(best_N, minlength=NUM_EMOTIONS)
        sure_C += np.bincount(best_N, p_NxC.max(1, initial=0), NUM_EMOTIONS)
    means = np.divide(sure_C, counts_C, out=np.zeros(NUM_EMOTIONS), where=counts_C > 0)
    return {
        "labelled": int(counts_C.sum()),
        "broken": len(broken),
        "first_broken": broken[:20],
        "strange": strange,
        "images_by_emotion": dict(zip(EMOTIONS, counts_C.tolist(), strict=True)),
        "mean_confidence": dict(zip(EMOTIONS, means.round(4).tolist(), strict=True)),
    }


def run(argv: list[str]) -> None:
    """Runs a command line. Raises UserError if it is wrong."""
    values = command_line.parse(argv, _flags)
    command_line.require(values, "checkpoint", "images", "out")
    counts = label(
        values.checkpoint, values.images, values.out, values.batch_size, values.part_images
    )
    print(json.dumps(counts, indent=1))


def _flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    define = functools.partial(flags.DEFINE_string, default="", flag_values=values)
    define("checkpoint", help="A workdir, or one of its checkpoints.")
    define("images", help="A folder, read at any depth, or a quoted pattern.")
    define("out", help="Folder of the labels.")
    flags.DEFINE_integer("batch_size", 64, "Images per step, over all devices.", flag_values=values)
    flags.DEFINE_integer("part_images", 4096, "Images per file of labels.", flag_values=values)
    return values


main = functools.partial(command_line.main, doc=__doc__, define_flags=_flags, run=run)

if __name__ == "__main__":
    environment.run(main)

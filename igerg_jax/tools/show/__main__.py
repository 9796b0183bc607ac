"""One page that shows what each objective really receives, and counts of what there is.

    python -m igerg_jax.tools.show --config=configs/pretrain.py --out=show.html [--step=K]
    python -m igerg_jax.tools.show --config=configs/pretrain.py --stats

The page shows the first examples of training step K (from 0): images after augmentation, tokens
with their turns, and what each objective makes of them, masked and shuffled with that step's own
random numbers. It is one file that works offline, on a desktop or a phone. --stats prints how long
each split's texts are, how many images its windows have, what is truncated and what is padding.

Exit codes: 0; 2 = the user can mend it, as the one message says.
"""

from __future__ import annotations

import base64
import io
import pathlib
import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from igerg_jax.batch import UNKNOWN, group_of
from igerg_jax.data import datasets, mixtures, prepare, store
from igerg_jax.data.prepared import Prepared
from igerg_jax.data.splits import Split
from igerg_jax.data.tokenizers import Tokenizer
from igerg_jax.errors import UserError
from igerg_jax.objectives import OBJECTIVES, combination
from igerg_jax.objectives.base import Context
from igerg_jax.objectives.display import Line, Row
from igerg_jax.run import command_line
from igerg_jax.setup import build_model
from igerg_jax.tools.show import counts
from igerg_jax.tools.show import page as show_page
from igerg_jax.tools.show.page import Example, Group, Slot
from igerg_jax.training import train_step


def define_flags(argv: list[str]) -> flags.FlagValues:
    values = command_line.new_flags(argv)
    flags.DEFINE_string("out", "", "The page to write.", flag_values=values)
    flags.DEFINE_integer("step", 0, "Which training step, from 0.", flag_values=values)
    flags.DEFINE_integer("examples", 8, "How many of its examples.", flag_values=values)
    flags.DEFINE_boolean("stats", False, "Print counts of the splits.", flag_values=values)
    return values


def run(values: flags.FlagValues) -> None:
    """Does what parsed flags ask for. Raises UserError."""
    config = values.config
    if not values.out and not values.stats:
        raise UserError("say where to: --out=show.html; or --stats, which prints counts")
    size = config.train.batch_size
    if not 1 <= values.examples <= size:
        raise UserError(f"--examples={values.examples}: a step has 1 to {size} (train.batch_size)")
    if values.step < 0:
        raise UserError(f"--step={values.step}: steps count from 0")
    if config.data.dataset == datasets.SYNTHETIC:
        raise UserError("config.data.dataset is 'synthetic': random numbers, nothing to look at")
    out = pathlib.Path(values.out).expanduser()
    if values.out and not out.parent.is_dir():
        raise UserError(f"--out: there is no folder '{out.parent}'")
    mixtures.check_start(config)
    prepared = prepare.prepare(config)
    mixtures.check(prepared, config)
    if values.stats:
        print(counts.describe(prepared, config))
    if values.out:
        groups = collect(prepared, config, values.step, values.examples)
        try:
            out.write_text(show_page.render(groups, prepared, config, values.step), "utf-8")
        except OSError as error:
            raise UserError(f"cannot write '{out}': {error.strerror}") from error
        print(out)


def collect(prepared: Prepared, config: ConfigDict, step: int, count: int) -> list[Group]:
    """The first `count` examples of a training step, of each mixture's batch."""
    from igerg_jax.data import pipeline  # TensorFlow

    jax.config.update("jax_platforms", "cpu")  # a few rows; accelerators are for training
    rows_b = np.arange(count)
    tokenizer = prepared.tokenizer
    batch = next(pipeline.train_batches(prepared, config, step, rows_b))
    model = build_model(config, tokenizer.vocab_size, tokenizer.special)
    key, streams = train_step.step_key(config, step), mixtures.streams(prepared, config)
    groups = []
    for mixture, names in sorted(combination.by_mixture(config).items()):  # the main one first
        arrays = group_of(batch, mixture)
        contexts = combination.contexts(
            config, model, arrays, key, step, jnp.asarray(rows_b), names
        )
        shown = _shown(arrays, contexts, tokenizer)
        sources, windows, positions = pipeline.example_ids(streams[mixture], config, step, rows_b)
        examples = []
        for i, lines in enumerate(shown):
            split = streams[mixture].splits[sources[i]]
            window, position = int(windows[i]), int(positions[i])
            row = {name: array[i] for name, array in arrays.items()}
            dataset = _dataset_of(prepared, split)
            examples.append(_example(row, lines, dataset, split, window, position, config.data))
        groups.append(Group(mixture, names, examples))
    return groups


def _shown(
    arrays: Mapping[str, np.ndarray], contexts: Mapping[str, Context], tokenizer: Tokenizer
) -> list[dict[str, list[Line]]]:
    """Of each row of a batch, what each objective receives."""
    inputs = {name: context.encoder_input for name, context in contexts.items()}
    tree = arrays, jax.tree.map(np.asarray, inputs)
    shown = []
    for i in range(len(arrays["image_mask"])):
        row_arrays, row_inputs = jax.tree.map(lambda x, i=i: x[i], tree)
        rows = {
            name: Row(row_arrays, row_inputs[name], context.settings, context.model, tokenizer)
            for name, context in contexts.items()
        }
        shown.append({name: OBJECTIVES[name].show(row) for name, row in rows.items()})
    return shown


def _dataset_of(prepared: Prepared, split: Split) -> str:
    return next(
        name for name, dataset in prepared.datasets.items() if dataset.split(split.name) is split
    )


def _example(
    row: Mapping[str, np.ndarray],
    lines: dict[str, list[Line]],
    dataset: str,
    split: Split,
    window: int,
    position: int,
    data: ConfigDict,
) -> Example:
    """A row of a batch, whose window of a dataset's split is shown at a position of its order."""
    first, last = split.turn_range(window)
    has_image = split.turns.image[first : last + 1] != store.NO_IMAGE
    withheld = not data.include_response_image and not split.standalone
    slots = []
    for slot in range(len(row["image_mask"])):
        why = "no turn" if slot >= len(has_image) else "no image"
        if slot < len(has_image) and has_image[slot]:
            why = "data.use_images is off"
            if withheld and slot == len(has_image) - 1:
                why = "withheld: include_response_image is off"
        slots.append(_slot(row, slot, why))
    return Example(
        dataset=dataset,
        window=window,
        position=position,
        response_slot=-1 if split.standalone else len(has_image) - 1,
        slots=slots,
        sequence_emotion=int(row["sequence_emotion"]),
        response_emotion=int(row["response_emotion"]),
        objectives=lines,
    )


def _slot(row: Mapping[str, np.ndarray], slot: int, why: str) -> Slot:
    """An image's place in a row; `why` is shown where it is masked."""
    if not row["image_mask"][slot]:
        return Slot("", why, UNKNOWN, -1)
    turn, emotion = int(row["image_turn"][slot]), int(row["image_emotion"][slot])
    if "features" in row:
        vector = row["features"][slot]
        words = f"{len(vector)} numbers, mean {vector.mean():.2f}, spread {vector.std():.2f}"
        return Slot("", words, emotion, turn)
    return Slot(png(row["images"][slot]), "", emotion, turn)


def png(pixels: np.ndarray) -> str:
    """uint8 [H, W, 3] as the address of an image inside a page, without loss."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def main(argv: list[str]) -> int:
    """Runs a command line (the program's name first) and returns its exit code."""
    return command_line.main(
        argv, __doc__, define_flags, lambda a: run(command_line.parse(a, define_flags))
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))

"""Shows what each objective actually receives, on a page, and statistics of the data.

    igerg show --config=configs/pretrain.py --out=show.html [--step=K]
    igerg show --config=configs/pretrain.py --stats

The page shows the first examples of training step K (from 0): images after augmentation, tokens
with their turns, and each objective's inputs and targets, masked and shuffled with that step's own
random keys. It is one file that works offline, on a desktop or a phone. --stats prints, for each
split, the lengths of texts, the numbers of images, and how much is cut or padding.

Exit codes: 0; 2 = a mistake in the command or its files, named in one message.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from igerg_jax import checks, environment, storage
from igerg_jax.batch import UNKNOWN, group_of
from igerg_jax.data import datasets, images, lengths, mixtures, pipeline, prepare, store
from igerg_jax.data.prepared import Prepared
from igerg_jax.data.tokenizers import Tokenizer
from igerg_jax.data.windows import Split
from igerg_jax.errors import UserError
from igerg_jax.objectives import OBJECTIVES, combination
from igerg_jax.objectives.base import Context, EncoderInput
from igerg_jax.objectives.display import Line, Row, RowInput
from igerg_jax.run import command_line
from igerg_jax.setup import build_model
from igerg_jax.tools.show import counts, page
from igerg_jax.tools.show.page import Example, Group, Slot
from igerg_jax.training import train_step


def define_flags(argv: list[str]) -> flags.FlagValues:
    values = command_line.new_flags(argv)
    flags.DEFINE_string("out", "", "The page to write.", flag_values=values)
    flags.DEFINE_integer("step", 0, "Training step, from 0.", flag_values=values)
    flags.DEFINE_integer("examples", 8, "Number of its examples.", flag_values=values)
    flags.DEFINE_boolean("stats", False, "Print statistics of the splits.", flag_values=values)
    return values


def run(values: flags.FlagValues) -> None:
    """Writes the page or prints the counts that parsed flags ask for. Raises UserError."""
    config = values.config
    if not values.out and not values.stats:
        raise UserError(
            "name the page to write, --out=show.html, or give --stats, which prints statistics"
        )
    size = config.train.batch_size
    if not 1 <= values.examples <= size:
        raise UserError(f"--examples={values.examples}: a step has 1 to {size} (train.batch_size)")
    if values.step < 0:
        raise UserError(f"--step={values.step}: steps count from 0")
    if config.data.dataset == datasets.SYNTHETIC:
        raise UserError("config.data.dataset is 'synthetic': random numbers, nothing to show")
    out = command_line.new_file("out", values.out) if values.out else None
    checks.check_examples(config)
    prepared = prepare.prepare(config)
    checks.check_data(prepared, config)
    if values.stats:
        print(counts.describe(prepared, config))
    if out is not None:
        groups = collect(prepared, config, values.step, values.examples)
        storage.write_text(out, page.render(groups, prepared, config, values.step))
        print(out)


def collect(prepared: Prepared, config: ConfigDict, step: int, count: int) -> list[Group]:
    """The first `count` examples of each mixture's batch in a training step."""
    jax.config.update("jax_platforms", "cpu")  # enough for a few rows
    rows_b = np.arange(count)
    tokenizer = prepared.tokenizer
    batch = next(pipeline.train_batches(prepared, config, step, rows_b))
    model = build_model(config, tokenizer.vocab_size, tokenizer.special)
    key, streams = train_step.step_key(config, step), mixtures.streams(prepared, config)
    groups = []
    for mixture, names in sorted(combination.by_mixture(config).items()):  # the main one first
        arrays, stream = group_of(batch, mixture), streams[mixture]
        contexts = combination.contexts(
            config, model, arrays, key, step, jnp.asarray(rows_b), names
        )
        ids = zip(*pipeline.example_ids(stream, config, step, rows_b), strict=True)
        examples = []
        for i, (source, window, position) in enumerate(ids):
            split = stream.splits[source]
            dataset = next(k for k, v in prepared.datasets.items() if v.split(split.name) is split)
            first, last = split.turn_range(window)
            examples.append(
                Example(
                    dataset=dataset,
                    window=int(window),
                    position=int(position),
                    response_slot=-1 if split.standalone else last - first,
                    slots=_slots(arrays, i, split, window, config.data),
                    sequence_emotion=int(arrays["sequence_emotion"][i]),
                    response_emotion=int(arrays["response_emotion"][i]),
                    cut=lengths.cut_tokens(split, window, config),
                    objectives=_lines(arrays, i, contexts, tokenizer),
                )
            )
        groups.append(Group(mixture, names, examples))
    return groups


def _lines(
    arrays: Mapping[str, np.ndarray], i: int, contexts: Mapping[str, Context], tokenizer: Tokenizer
) -> dict[str, list[Line]]:
    """What each objective receives from row `i` of a batch."""
    row = {name: np.asarray(array)[i] for name, array in arrays.items()}
    lines = {}
    for name, context in contexts.items():
        row_input = _row_input(context.encoder_input, i)
        shown = Row(row, row_input, context.settings, context.model, tokenizer)
        lines[name] = OBJECTIVES[name].show(shown)
    return lines


def _row_input(encoder_input: EncoderInput | None, i: int) -> RowInput | None:
    """Row `i` of an objective's encoder input."""
    if encoder_input is None:
        return None
    row = jax.tree.map(lambda x: np.asarray(x)[i], encoder_input)
    return RowInput(
        has_images=row.images is not None,
        tokens_S=None if row.text is None else row.text.tokens_BxS,
        turn_S=None if row.text is None else row.text.turn_BxS,
        drawn=row.drawn,
    )


def _slots(
    arrays: Mapping[str, np.ndarray], i: int, split: Split, window: int, data: ConfigDict
) -> list[Slot]:
    """The image slots of row `i` of a batch, which holds a window of a split."""
    first, last = split.turn_range(window)
    has_image = split.turns.image[first : last + 1] != store.NO_IMAGE
    notes = ["data.use_images is off" if has else "no image" for has in has_image]
    if has_image[-1] and not (data.include_response_image or split.standalone):
        notes[-1] = "withheld: include_response_image is off"
    notes += ["no turn"] * (len(arrays["image_mask"][i]) - len(notes))
    slots = []
    for slot, note in enumerate(notes):
        turn, emotion, image = arrays["image_turn"][i, slot], arrays["image_emotion"][i, slot], ""
        if not arrays["image_mask"][i, slot]:
            turn, emotion = -1, UNKNOWN
        elif "features" in arrays:
            vector = arrays["features"][i, slot]
            note = f"{len(vector)} numbers, mean {vector.mean():.2f}, spread {vector.std():.2f}"
        else:
            image = images.data_url(images.as_png(arrays["images"][i, slot]), "png")
        slots.append(Slot(image, note, int(emotion), int(turn)))
    return slots


def main(argv: list[str]) -> int:
    """Runs a command line (the program's name first) and returns its exit code."""
    return command_line.main(
        argv, __doc__, define_flags, lambda a: run(command_line.parse(a, define_flags))
    )


if __name__ == "__main__":
    environment.run(main)

"""One page that shows what each objective really receives, and counts of what there is.

    python -m igerg_jax.tools.show --config=configs/pretrain.py --out=show.html [--step=K]
    python -m igerg_jax.tools.show --config=configs/pretrain.py --stats

The page holds the first examples of training step K (from 0): images after augmentation, tokens
with their turns, and what each objective makes of them, masked and shuffled with the very random
numbers of that step. It is one file, for a desk or a phone, without a network. --stats prints how
long the texts of each split are, how many images a window has, what is cut and what is padding.

Exit codes: 0; 2 = something to mend, told in one message.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import pathlib
import sys

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
from igerg_jax.run import command_line
from igerg_jax.setup import build_model
from igerg_jax.tools.show import counts
from igerg_jax.tools.show import page as show_page
from igerg_jax.tools.show.page import Example, Group, Line, Slot, Token


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
    """The first `count` examples of a training step, for each batch that its objectives read."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # a few rows; the chips are for training
    from igerg_jax import objectives
    from igerg_jax.data import pipeline
    from igerg_jax.training import train_step

    rows_b = np.arange(count)
    tokenizer = prepared.tokenizer
    batch = next(pipeline.train_batches(prepared, config, step, rows_b))
    model = build_model(config, tokenizer.vocab_size, tokenizer.special)
    key, streams = train_step.step_key(config, step), mixtures.streams(prepared, config)
    found = []
    for name, active in sorted(objectives.by_group(config).items()):  # the main one first
        stream, own = streams[name], objectives.numbered(group_of(batch, name))
        readings = train_step.group_readings(config, model, own, key, active)
        arrays = jax.tree.map(np.asarray, (own, readings))
        sources, windows, positions = pipeline.example_ids(stream, config, step, rows_b)
        examples = []
        for row in range(count):
            split = stream.splits[sources[row]]
            view = _Row(*arrays, row, tokenizer, config)
            where = _dataset_of(prepared, split), int(windows[row]), int(positions[row])
            examples.append(view.example(split, active, *where))
        found.append(Group(name, active, examples))
    return found


def _dataset_of(prepared: Prepared, split: Split) -> str:
    return next(
        name for name, dataset in prepared.datasets.items() if dataset.split(split.name) is split
    )


@dataclasses.dataclass(frozen=True)
class _Row:
    """One example of a batch and of its readings, in words."""

    batch: dict[str, np.ndarray]
    readings: dict
    row: int
    tokenizer: Tokenizer
    config: ConfigDict

    def example(self, split: Split, active: list[str], dataset: str, window: int, position: int):
        """Everything about the row; `active` names the objectives that read it."""
        first, last = split.turn_range(window)
        shown = split.turns.image[first : last + 1] != store.NO_IMAGE
        hidden = not self.config.data.include_response_image and not split.standalone
        slots = []
        for slot in range(self.batch["image_mask"].shape[1]):
            why = "no turn" if slot >= len(shown) else "no image"
            if slot < len(shown) and shown[slot]:
                why = "data.use_images is off"
                if hidden and slot == len(shown) - 1:
                    why = "withheld: include_response_image is off"
            slots.append(self._slot(slot, why))
        return Example(
            dataset=dataset,
            window=window,
            position=position,
            response_slot=-1 if split.standalone else len(shown) - 1,
            slots=slots,
            sequence_emotion=int(self.batch["sequence_emotion"][self.row]),
            response_emotion=int(self.batch["response_emotion"][self.row]),
            objectives={name: getattr(self, f"_{name}")() for name in active},
        )

    def _slot(self, slot: int, why: str) -> Slot:
        row = self.row
        if not self.batch["image_mask"][row, slot]:
            return Slot("", why, UNKNOWN, -1)
        turn, emotion = (int(self.batch[f"image_{n}"][row, slot]) for n in ("turn", "emotion"))
        if "features" in self.batch:
            vector = self.batch["features"][row, slot]
            words = f"{len(vector)} numbers, mean {vector.mean():.2f}, spread {vector.std():.2f}"
            return Slot("", words, emotion, turn)
        return Slot(png(self.batch["images"][row, slot]), "", emotion, turn)

    def _tokens(self, ids_L, turn_L=None, kinds_L=None) -> list[Token]:
        """The ids up to the padding."""
        special = self.tokenizer.special
        roles = {special.pad, special.bos, special.eos, special.unk, special.decoder_start}
        tokens = []
        for at in range(int((ids_L != special.pad).sum())):
            token = int(ids_L[at])
            kind = kinds_L[at] if kinds_L is not None else ""
            if token == special.mask:
                kind = "mask"
            elif token in roles:
                kind = "special"
            turn = -1 if turn_L is None else int(turn_L[at])
            tokens.append(Token(self.tokenizer.piece(token), turn, kind))
        return tokens

    def _reading(self, name: str, kinds_L=None) -> Line:
        reading = self.readings[name]
        words = self._tokens(
            reading.words.tokens_BxS[self.row], reading.words.turn_BxS[self.row], kinds_L
        )
        beside = "the images and" if reading.with_images else "no images, and"
        return Line(f"The encoder reads {beside}", words)

    def _decoder(self, target_L: np.ndarray, turn_L=None) -> list[Line]:
        special = self.tokenizer.special
        shifted = np.concatenate([[special.decoder_start], target_L[:-1]])
        shifted = np.where(target_L == special.pad, special.pad, shifted)
        return [
            Line("The decoder is given", self._tokens(shifted)),
            Line("and is to write", self._tokens(target_L, turn_L)),
        ]

    def _of(self, name: str):
        return self.batch[name][self.row]

    def _seen(self) -> tuple[tuple[int, int], ...]:
        shown = np.flatnonzero(self._of("image_mask"))
        turn_N, emotion_N = self._of("image_turn"), self._of("image_emotion")
        return tuple((int(turn_N[i]), int(emotion_N[i])) for i in shown)

    def _image_emotion(self) -> list[Line]:
        words = "The encoder reads the images alone, and is to name each one's emotion"
        return [Line(words, [], self._seen())]

    def _sequence_emotion(self) -> list[Line]:
        emotion = int(self._of("sequence_emotion"))
        if not self._of("image_mask").any():
            emotion = UNKNOWN
        return [Line("The encoder reads the images alone; CLS is to name", [], ((-1, emotion),))]

    def _text_denoising(self) -> list[Line]:
        lines = self._decoder(self._of("context"), self._of("context_turn"))
        return [self._reading("text_denoising"), *lines]

    def _text_emotion(self) -> list[Line]:
        words = self._tokens(self._of("response"))
        emotion = int(self._of("response_emotion")) if words else UNKNOWN
        return [Line("The judge reads", words), Line("and is to name", [], ((-1, emotion),))]

    def _masked_multimodal(self) -> list[Line]:
        reading = self.readings["masked_multimodal"]
        target_S, read_S = self._of("context"), reading.words.tokens_BxS[self.row]
        chosen_S = reading.chosen_BxS[self.row]
        kinds = np.where(chosen_S, np.where(read_S == target_S, "kept", "random"), "")
        settings = self.config.objectives.masked_multimodal
        most = math.ceil(settings.max_fraction * len(target_S))
        place = np.flatnonzero(chosen_S)[:most]
        asked = self._tokens(target_S[place], self._of("context_turn")[place])
        return [
            self._reading("masked_multimodal", kinds),
            Line("and is to fill in", asked),
            Line("and to name each image's emotion", [], self._seen()),
        ]

    def _emotional_response(self) -> list[Line]:
        lines = self._decoder(self._of("response"))
        emotion = int(self._of("response_emotion"))
        felt = Line("in words in which the judge finds", [], ((-1, emotion),))
        return [self._reading("emotional_response"), *lines, felt]

    def _image_text_contrastive(self) -> list[Line]:
        words = self._reading("image_text_contrastive").tokens
        return [Line("Which of the batch's image sequences goes with", words)]


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

"""Calibrates the warning about images that are unlike a model's training images.

    python -m igerg_jax.tools.calibrate_images --checkpoint=RUN

Reads the run's training images and its held-out ones (`data.eval_split`), and writes
image_domain.json beside its tokenizer: into the workdir, or into a weights folder. From then on
`igerg generate` and `igerg label` warn, and `igerg weights export` includes the file.
Exit codes: 0; 2 = a mistake in the command or its files, named in one message.
"""

import functools

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from igerg_jax import environment
from igerg_jax.data import datasets, image_domain, pipeline, store
from igerg_jax.data.order import evenly_spaced
from igerg_jax.errors import UserError
from igerg_jax.evaluation import trained_run
from igerg_jax.run import checkpoint, command_line, weights_folder

_IMAGES = 2000  # read from each split, or all if it has fewer


def calibrate(path: str, false_alarms: float) -> str:
    """Writes the file; returns a description of its content.

    Args:
      path: a checkpoint, as for `igerg_jax.run.checkpoint.find`.
      false_alarms: the share of held-out images to warn about.

    Raises:
      UserError: no checkpoint, no images, or `false_alarms` is not between 0 and 1.
    """
    if not 0 < false_alarms < 1:
        raise UserError("--false_alarms is a share between 0 and 1")
    folder = checkpoint.find(path)
    config = trained_run.stored_config(folder)
    if config.data.feature_dim or not config.data.use_images:
        raise UserError(f"'{path}' was not trained on images")
    config.data.mixtures = ConfigDict()  # evaluation uses only config.data.dataset
    if checkpoint.tokenizer_file(folder).exists():
        tokenizer = str(checkpoint.tokenizer_file(folder))
        config.data.tokenizer.update(path=tokenizer, mixture="")
    prepared = datasets.open_dataset(config)
    if not prepared.split_names:
        raise UserError(f"'{path}' was trained on random batches")
    images = [
        _images(prepared, name, config)
        for name in (config.data.train_split, config.data.eval_split)
    ]
    domain = image_domain.calibrate(*images, false_alarms)
    place = checkpoint.tokenizer_file(folder).parent
    image_domain.write(domain, place)
    if weights_folder.is_weights_folder(folder):
        weights_folder.seal(folder)
    return (
        f"wrote '{place / image_domain.FILE}': {domain.images['training']} training images, "
        f"threshold {domain.threshold:.2f} from {domain.images['held_out']} held-out ones"
    )


def _images(prepared, name: str, config) -> np.ndarray:
    """uint8 [N, H, W, 3]: distinct images of a split, as the model sees them."""
    turns = prepared.split(name).turns
    records = np.unique(turns.image[turns.image != store.NO_IMAGE])
    if len(records) < 50:
        raise UserError(f"split '{name}' has {len(records)} images: too few to calibrate with")
    chosen = records[evenly_spaced(_IMAGES, len(records))]
    return np.stack([pipeline.read_pixels(jpeg, config) for jpeg in turns.read_images(chosen)])


def run(argv: list[str]) -> None:
    """Runs a command line. Raises UserError if it is wrong."""
    values = command_line.parse(argv, _flags)
    command_line.require(values, "checkpoint")
    print(calibrate(values.checkpoint, values.false_alarms))


def _flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    define = functools.partial(flags.DEFINE_string, default="", flag_values=values)
    define("checkpoint", help="A workdir, one of its checkpoints, or a weights folder.")
    help_text = "Share of held-out images to warn about."
    flags.DEFINE_float("false_alarms", 0.01, help_text, flag_values=values)
    return values


main = functools.partial(command_line.main, doc=__doc__, define_flags=_flags, run=run)

if __name__ == "__main__":
    environment.run(main)

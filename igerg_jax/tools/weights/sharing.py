"""`export --format=safetensors`: a run's parameters as a weights folder, to share or to keep."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
from etils import epath

from igerg_jax import storage
from igerg_jax.data import image_domain, tokenizers
from igerg_jax.errors import UserError, check_known
from igerg_jax.run import checkpoint, command_line, compatibility, weights_folder, workdirs
from igerg_jax.tools.weights import card, parameters


def export(path: str, out: str, parts: Sequence[str] = ()) -> str:
    """Writes the weights folder `out` in bfloat16; returns a description of it.

    Args:
      path: a workdir, or one of its checkpoints, whose moving average is written if it has one.
      parts: of the model, as in `config.init_parts`, which is how such a folder is used; () = all.

    Raises:
      UserError: no checkpoint there, no such part in it, or `out` is not empty.
    """
    folder = epath.Path(command_line.new_folder(out))
    source = checkpoint.find(path)
    run, arrays = parameters.read(source)
    known = list(dict.fromkeys(name.partition("/")[0] for name in arrays))
    for part in parts:
        check_known(part, known, f"--parts: '{part}' is not a part of the model")
    arrays = {name: arrays[name] for name in compatibility.of_parts(arrays, parts)}
    run |= {"parts": list(parts)} if parts else {}
    folder.mkdir(parents=True, exist_ok=True)
    weights_folder.write(folder, arrays, run, ml_dtypes.bfloat16)
    kept = checkpoint.tokenizer_file(source)
    if kept.exists() and compatibility.know_words(parts):
        tokenizers.read(kept).save(folder / workdirs.TOKENIZER_FILE)
    if (domain := image_domain.read(checkpoint.tokenizer_file(source).parent)) is not None:
        image_domain.write(domain, folder)
    weights_folder.seal(folder)
    count = sum(array.size for array in arrays.values())
    (folder / weights_folder.CARD_FILE).write_text(_card(source, folder.name, run, count, parts))
    size = (folder / weights_folder.ARRAYS_FILE).stat().length
    return f"wrote '{out}' from '{source}': {count / 1e6:.2f} M parameters, {size / 1e6:.1f} MB"


def _card(
    source: epath.Path, name: str, run: Mapping[str, Any], parameters: int, parts: Sequence[str]
) -> str:
    """The card that a weights folder has already, or one made from the run's summary."""
    if not parts and (source / weights_folder.CARD_FILE).exists():
        return (source / weights_folder.CARD_FILE).read_text()
    workdir = checkpoint.tokenizer_file(source).parent
    try:
        summary = storage.read_json_object(workdir / workdirs.SUMMARY_FILE)
    except UserError:
        summary = {}
    if summary.get("final_step") != run.get("step"):
        summary = {}  # of other weights
    return card.card(name, run, summary, parameters, parts)

"""The tokenizer that a config asks for: an existing one, or one trained on the prepared texts.

A trained tokenizer is kept under its digest, next to a note named by a hash of the settings it was
trained with, so that equal settings find it again.
"""

import hashlib
import json
import pathlib
import sys

import numpy as np
from ml_collections import ConfigDict

from igerg_jax import storage
from igerg_jax.data import folders, store, tokenizers
from igerg_jax.data.order import evenly_spaced
from igerg_jax.errors import UserError, check_known

ALL = "all"  # config.data.tokenizer.mixture: every dataset that the config names


def find(data: ConfigDict) -> tokenizers.Tokenizer | None:
    """The tokenizer at config.data.tokenizer.path, or trained earlier; None if one can be trained.

    Raises UserError for a tokenizer that cannot be read or differs from what was trained, and for a
    kind that is not trained here.
    """
    kind = data.tokenizer.kind
    if data.tokenizer.path:
        return tokenizers.load(kind, storage.local_path(data.tokenizer.path))
    if kind != tokenizers.TRAINABLE:
        raise UserError(f"a '{kind}' tokenizer can't be trained: set config.data.tokenizer.path")
    note = _note(data)
    if not note.exists():
        return None
    digest = note.read_text(errors="replace").strip()
    path = note.parent / f"{digest}.model"
    again = f"remove it and '{note}', and it is trained again"
    try:
        tokenizer = tokenizers.load(kind, path)
    except UserError as error:
        raise UserError(f"{error}; {again}") from error
    if tokenizer.digest != digest:
        raise UserError(f"'{path}' is damaged: {again}")
    return tokenizer


def find_or_train(data: ConfigDict, bases: dict[str, pathlib.Path]) -> tokenizers.Tokenizer:
    """`find`, or a new tokenizer, trained on the turns in `bases`, {dataset: its folder}.

    Raises UserError as `find`, and where there is too little text.
    """
    with folders.locked(folders.of_tokenizers(data)):
        return find(data) or _train(data, bases)


def path_of(data: ConfigDict, tokenizer: tokenizers.Tokenizer) -> pathlib.Path:
    """The file of a tokenizer that `find` returned."""
    trained = folders.of_tokenizers(data) / f"{tokenizer.digest}.model"
    return pathlib.Path(data.tokenizer.path or trained)


def corpus_weights(data: ConfigDict) -> dict[str, float]:
    """{dataset: weight} of the texts that config.data.tokenizer.mixture names."""
    mixture = data.tokenizer.mixture
    if mixture == ALL:
        return dict.fromkeys(folders.dataset_names(data), 1.0)
    if not mixture:
        return {data.dataset: 1.0}
    what = f"config.data.tokenizer.mixture '{mixture}' is not a mixture"
    check_known(mixture, (*data.mixtures, ALL), what)
    return data.mixtures[mixture].datasets.to_dict()


def _note(data: ConfigDict) -> pathlib.Path:
    """The file that holds the digest of the tokenizer trained with these settings."""
    t, root = data.tokenizer, folders.root(data)
    bases = (folders.of_dataset(data, name) for name in corpus_weights(data))
    corpus = [str(base.relative_to(root)) for base in bases]
    settings = [corpus, data.train_split, t.vocab_size, t.byte_fallback, t.max_sentences]
    if t.mixture != ALL and t.mixture:
        settings.append(data.mixtures[t.mixture].datasets.to_dict())
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    return folders.of_tokenizers(data) / f"{t.kind}-{t.model_type}-{t.vocab_size}-{key}.digest"


def _train(data: ConfigDict, bases: dict[str, pathlib.Path]) -> tokenizers.Tokenizer:
    settings = data.tokenizer
    weights = corpus_weights(data)
    share = settings.max_sentences / sum(weights.values())
    texts: list[str] = []
    for name, weight in weights.items():
        texts += _sample(name, bases[name], data.train_split, int(share * weight))
    if not texts:
        raise UserError(
            f"{', '.join(weights)}: no words to train a tokenizer on; set config.data.tokenizer."
            "path to an existing one, or config.data.tokenizer.mixture to datasets with words"
        )
    print(f"training a tokenizer on {len(texts)} texts of {', '.join(weights)}", file=sys.stderr)
    tokenizer = tokenizers.train_sentencepiece(
        texts, settings.model_type, settings.vocab_size, settings.byte_fallback
    )
    with storage.replacing(path_of(data, tokenizer)) as temporary:
        tokenizer.save(temporary)
    storage.write_text(_note(data), tokenizer.digest)
    return tokenizer


def _sample(dataset: str, base: pathlib.Path, split: str, limit: int) -> list[str]:
    """At most `limit` texts of a split, spread evenly over it; empty ones are left out."""
    known = sorted(p.name for p in (base / "turns").iterdir() if p.is_dir())
    folders.check_split(dataset, split, known, base, "train_split")
    turns = store.TurnStore(base / "turns" / split, None)
    chosen = np.flatnonzero(turns.text_bytes() > 0)
    return [turns.text(i) for i in chosen[evenly_spaced(limit, len(chosen))]]

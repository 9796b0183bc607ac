"""A byte-level BPE tokenizer with BART's layout, trained on the spot, so nothing is downloaded.

As in BART, <s> <pad> </s> <unk> have ids 0 to 3, so PAD is not 0, and <mask> has the last id.
"""

import json
import pathlib

import tokenizers

TEXTS = [
    f"the cat {i} sat on the mat, isn't it?\n  so the rat said naïve 😀 things" for i in range(50)
]


def train(folder: pathlib.Path, vocab_size: int = 320, texts=TEXTS) -> pathlib.Path:
    """Writes tokenizer.json and the equivalent vocab.json and merges.txt into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    mask = tokenizers.AddedToken("<mask>", lstrip=True, normalized=False, special=True)
    model.add_special_tokens([mask])
    model.save(str(folder / "tokenizer.json"))
    model.model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary["<mask>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder

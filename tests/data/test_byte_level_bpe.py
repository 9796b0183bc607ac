"""Byte-level BPE: the ids of BART's own tokenizer, whatever files it comes in."""

import json
import random

import byte_pairs
import pytest

from igerg_jax.batch import SpecialIds
from igerg_jax.data import builders, tokenizers
from igerg_jax.errors import UserError

KIND = "byte_level_bpe"
BART_IDS = SpecialIds(pad=1, bos=0, eos=2, unk=3, mask=319, decoder_start=2)
TEXTS = [
    "Plain words, isn't it?",
    "  spaces   at both ends  ",
    "lines\nand\r\n\n tabs\t",
    "Über-naïve café 你好 😀👩‍👩‍👧 \u00a0\u200b",
    "12345 <html> ... 's 'll",
    "",
]
SPELT = "<mask> </s><pad> <s> <unk>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return byte_pairs.train(tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return tokenizers.load(KIND, folder / "tokenizer.json")


def edited(folder, tmp_path, change) -> str:
    """A tokenizer.json that `change` has altered; returns the message that refuses it."""
    whole = json.loads((folder / "tokenizer.json").read_text())
    change(whole)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError) as caught:
        tokenizers.load(KIND, path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_special_ids_are_the_vocabularys_own(tokenizer):
    assert tokenizer.special == BART_IDS
    assert tokenizer.vocab_size == 320


def test_decode_undoes_encode_whatever_the_characters(tokenizer):
    rng = random.Random(0)
    drawn = ["".join(map(chr, rng.choices(range(0xD800), k=rng.randrange(40)))) for _ in range(100)]
    drawn += ["".join(map(chr, rng.choices(range(0xE000, 0x110000), k=9))) for _ in range(50)]
    for text in (*TEXTS, SPELT, *drawn):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_seen_in_training_are_single_pieces(tokenizer):
    assert len(tokenizer.encode("the cat sat on the mat")) < 10
    assert max(tokenizer.encode("the cat sat on the mat")) > 4 + 256


def test_no_text_spells_a_special_token(tokenizer):
    s = tokenizer.special
    assert {s.pad, s.bos, s.eos, s.unk, s.mask}.isdisjoint(tokenizer.encode(SPELT))


def test_pieces_are_the_vocabularys_spelling(tokenizer):
    ids = tokenizer.encode("the cat")
    assert "".join(map(tokenizer.piece, ids)) == "the▁cat"
    s = tokenizer.special
    spelt = [tokenizer.piece(i) for i in (s.bos, s.pad, s.eos, s.unk, s.mask)]
    assert spelt == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def test_decode_drops_special_ids_and_survives_what_is_no_text(tokenizer):
    s, ids = tokenizer.special, tokenizer.encode("naïve 😀")
    assert tokenizer.decode([s.bos, ids[0], s.mask, *ids[1:], s.unk, s.eos, s.pad]) == "naïve 😀"
    assert "\ufffd" in tokenizer.decode(tokenizer.encode("😀")[:-1])


@pytest.mark.parametrize("name", ["", "vocab.json", "merges.txt"])
def test_all_forms_of_its_files_are_one_tokenizer(folder, tokenizer, name, tmp_path):
    path = folder / name
    if not name:  # a folder without a tokenizer.json
        path = tmp_path
        for part in ("vocab.json", "merges.txt"):
            (tmp_path / part).write_bytes((folder / part).read_bytes())
    loaded = tokenizers.load(KIND, path)
    assert loaded.digest == tokenizer.digest
    assert loaded.special == tokenizer.special
    assert loaded.vocab_size == tokenizer.vocab_size
    for text in TEXTS:
        assert loaded.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
def test_what_is_kept_with_a_run_says_what_it_is(folder, name, tmp_path):
    loaded = tokenizers.load(KIND, folder / name)
    loaded.save(tmp_path / "tokenizer.model")
    kept = tokenizers.read(tmp_path / "tokenizer.model")
    assert type(kept) is type(loaded)
    assert kept.digest == loaded.digest
    words = tokenizers.train_sentencepiece(byte_pairs.TEXTS, "unigram", 300)
    words.save(tmp_path / "tokenizer.model")
    assert tokenizers.read(tmp_path / "tokenizer.model").digest == words.digest
    with pytest.raises(UserError, match=r"absent\.model': No such file"):
        tokenizers.read(tmp_path / "absent.model")


def test_the_digest_tells_tokenizers_apart(folder, tokenizer, tmp_path):
    assert len(tokenizer.digest) == 16
    whole = json.loads((folder / "tokenizer.json").read_text())
    whole["pre_tokenizer"]["add_prefix_space"] = True
    spaced = type(tokenizer)(json.dumps(whole).encode())
    assert spaced.encode("the") != tokenizer.encode("the")
    other = tokenizers.load(KIND, byte_pairs.train(tmp_path, 330))
    assert len({tokenizer.digest, spaced.digest, other.digest}) == 3
    whole["pre_tokenizer"]["add_prefix_space"] = False
    whole["truncation"] = {"max_length": 1, "strategy": "LongestFirst", "stride": 0}
    whole["truncation"]["direction"] = "Right"
    cut = type(tokenizer)(json.dumps(whole).encode())  # lengths are the batch's, not the file's
    assert cut.digest == tokenizer.digest
    assert cut.encode("the cat") == tokenizer.encode("the cat")


def test_a_file_that_does_not_fit_is_one_message(folder, tmp_path):
    def without_mask(whole):
        whole["added_tokens"] = [t for t in whole["added_tokens"] if t["content"] != "<mask>"]

    def without_bytes(whole):
        del whole["model"]["vocab"]["Ā"]

    def word(whole):
        whole["added_tokens"].append(whole["added_tokens"][0] | {"content": "hm", "special": False})

    assert "lacks <mask>" in edited(folder, tmp_path, without_mask)
    assert "1 of the 256 bytes" in edited(folder, tmp_path, without_bytes)
    assert "words were added to its vocabulary (hm" in edited(folder, tmp_path, word)
    wordpiece = edited(folder, tmp_path, lambda whole: whole["model"].update(type="WordPiece"))
    assert "its model is WordPiece, not BPE" in wordpiece
    assert "pre_tokenizer" in edited(folder, tmp_path, lambda w: w.update(pre_tokenizer=None))
    assert "not a tokenizer.json" in edited(folder, tmp_path, lambda whole: whole.pop("model"))


def test_a_file_of_another_kind_or_none_is_one_message(folder, tmp_path):
    words = tokenizers.train_sentencepiece(byte_pairs.TEXTS, "unigram", 300)
    words.save(tmp_path / "t.model")
    with pytest.raises(UserError, match=r"t\.model' is not a byte_level_bpe .*not JSON.*senten"):
        tokenizers.load(KIND, tmp_path / "t.model")
    with pytest.raises(UserError, match=r"is not a sentencepiece model.*byte_level_bpe"):
        tokenizers.load("sentencepiece", folder / "tokenizer.json")
    with pytest.raises(UserError, match=r"absent\.json': No such file"):
        tokenizers.load(KIND, tmp_path / "absent.json")
    with pytest.raises(UserError, match=r"cannot read.*: Is a directory"):
        tokenizers.load("sentencepiece", tmp_path)
    (tmp_path / "vocab.json").write_bytes((folder / "vocab.json").read_bytes())
    with pytest.raises(UserError, match=r"merges\.txt': No such file"):
        tokenizers.load(KIND, tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(UserError, match=r"merges\.txt has a line"):
        tokenizers.load(KIND, tmp_path)


@pytest.mark.parity
def test_ids_and_text_are_those_of_transformers(tmp_path):
    """BartTokenizerFast on the same files, and on the file that `save` writes."""
    transformers = pytest.importorskip("transformers")
    texts = [row["text"] for row in conversations(500)]
    folder = byte_pairs.train(tmp_path / "bpe", 1500, texts[:300])
    ours = tokenizers.load(KIND, folder / "vocab.json")
    ours.save(tmp_path / "tokenizer.json")
    there = json.loads((folder / "vocab.json").read_text())
    merges = [tuple(m.split()) for m in (folder / "merges.txt").read_text().splitlines()[1:]]
    theirs = transformers.BartTokenizerFast(vocab=there, merges=merges)
    again = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    s = ours.special
    for text in (*TEXTS, *texts, "\n".join(texts[:9])):
        ids = ours.encode(text)
        assert ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert [s.bos, *ids, s.eos] == again(text)["input_ids"]
        cut = [s.eos, *ids[: len(ids) // 2], s.eos, s.pad]
        decoded = theirs.decode(cut, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(cut) == decoded
    assert (s.pad, s.bos, s.eos) == (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id)
    assert (s.unk, s.mask) == (theirs.unk_token_id, theirs.mask_token_id)


def conversations(count: int) -> list[dict]:
    options = builders.source.Options("", "", "", 0.0)
    turns = builders.splits("chitchat_openmoji/tiny", options)["train"]
    return [turns.row(i) for i in range(min(count, len(turns)))]

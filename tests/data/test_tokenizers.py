"""SentencePiece behind the tokenizer's interface."""

import io
import itertools
import string

import pytest
import sentencepiece

from igerg_jax.batch import SENTENCEPIECE_IDS
from igerg_jax.data import tokenizers
from igerg_jax.errors import UserError

SENTENCES = [
    f"the {a}{b}{a} was {c} and {b}{c} said so"
    for a, b, c in itertools.product(string.ascii_lowercase[:12], repeat=3)
]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train_sentencepiece(SENTENCES, "unigram", 320)


def test_special_ids_are_as_stated_and_no_text_spells_them(tokenizer):
    assert tokenizer.special == SENTENCEPIECE_IDS
    assert tokenizer.vocab_size == 320
    special = {0, 1, 2, 3, 4}
    for text in ("<mask> <pad></s> <s> <unk>", "plain words", "naïve 😀 \u4f60 \x00"):
        assert special.isdisjoint(tokenizer.encode(text))


@pytest.mark.parametrize("text", ["the abc was d", "Über-café 😀!", "<mask> </s>", ""])
def test_decode_undoes_encode_whatever_the_characters(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_decode_drops_special_ids_wherever_they_are(tokenizer):
    ids = tokenizer.encode("the abc was d")
    s = tokenizer.special
    noisy = [s.bos, ids[0], s.mask, *ids[1:3], s.unk, *ids[3:], s.eos, s.pad, s.pad]
    assert tokenizer.decode(noisy) == "the abc was d"


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_training_is_deterministic_and_the_digest_tells_models_apart(model_type):
    one, two = (tokenizers.train_sentencepiece(SENTENCES, model_type, 300) for _ in range(2))
    assert one.digest == two.digest
    assert len(one.digest) == 16
    other = tokenizers.train_sentencepiece(SENTENCES[:-1], model_type, 301)
    assert one.digest != other.digest


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.model")
    loaded = tokenizers.load("sentencepiece", tmp_path / "t.model")
    assert loaded.digest == tokenizer.digest
    assert loaded.encode("the abd") == tokenizer.encode("the abd")


def test_errors_name_the_thing(tmp_path):
    with pytest.raises(UserError, match=r"vocab_size=5000.*value <= "):
        tokenizers.train_sentencepiece(SENTENCES[:200], "unigram", 5000)
    with pytest.raises(UserError, match="model_type='words'"):
        tokenizers.train_sentencepiece(SENTENCES, "words", 300)
    with pytest.raises(UserError, match="kind is 'wordpiece'; available: byte_level_bpe, sent"):
        tokenizers.load("wordpiece", tmp_path / "x")
    with pytest.raises(UserError, match=r"absent\.model': No such file"):
        tokenizers.load("sentencepiece", tmp_path / "absent.model")
    (tmp_path / "junk.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"junk\.model"):
        tokenizers.load("sentencepiece", tmp_path / "junk.model")


def test_an_empty_file_is_refused_without_a_log_of_sentencepiece(tmp_path, capfd):
    (tmp_path / "empty.model").write_bytes(b"")
    for read in (lambda path: tokenizers.load("sentencepiece", path), tokenizers.read):
        with pytest.raises(UserError, match=r"empty\.model' .*: it is empty"):
            read(tmp_path / "empty.model")
    assert capfd.readouterr().err == ""


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=proto, vocab_size=60, minloglevel=2
    )
    (tmp_path / "foreign.model").write_bytes(proto.getvalue())
    with pytest.raises(UserError, match="ids of pad, bos, eos, unk and <mask>"):
        tokenizers.load("sentencepiece", tmp_path / "foreign.model")

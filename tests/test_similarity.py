"""BERTScore: by hand, and against its authors' package."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import parity
import pytest
import small

from igerg_jax import checks, similarity
from igerg_jax.errors import UserError
from igerg_jax.similarity import Embedded

TEXTS = ["the cat sat", "a dog ran to the park", "happy", "", "x " * 90]
REFERENCES = ["a cat sat down", "the dog ran", "sad", "nothing", "x y"]


def embedded(angles, real) -> Embedded:
    """Tokens in the plane."""
    radians = np.radians(angles)
    return Embedded(np.stack([np.cos(radians), np.sin(radians)], 1), np.array(real, bool))


def test_f1_by_hand():
    # Precision: 0 degrees is 60 from the closest, 90 is 30 from it. Recall: 60 is 30 from 90.
    text, reference = embedded([0, 90], [1, 1]), embedded([60], [1])
    precision, recall = (0.5 + np.sqrt(3) / 2) / 2, np.sqrt(3) / 2
    expected = 2 * precision * recall / (precision + recall)
    assert similarity.f1(text, reference) == pytest.approx(expected)
    assert similarity.f1(reference, text) == pytest.approx(expected)
    # A special token does not count, but may be the closest one.
    reference = embedded([60, 0], [1, 0])
    precision = (1 + np.sqrt(3) / 2) / 2
    expected = 2 * precision * recall / (precision + recall)
    assert similarity.f1(text, reference) == pytest.approx(expected)
    assert similarity.f1(embedded([0], [0]), reference) == 0
    assert similarity.f1(text, text) == pytest.approx(1)


def test_what_cannot_be_used_is_refused_before_anything_compiles(tmp_path, monkeypatch):
    config = small.make_config(evaluate__similarity_weights=str(tmp_path), generate__max_tokens=6)
    with pytest.raises(UserError, match=r"no config\.json"):
        checks.check_inference(config)
    (tmp_path / "config.json").write_text(json.dumps({}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else name)
    with pytest.raises(UserError, match=r"needs torch: pip install -r requirements-parity\.txt"):
        similarity.of_config(config)
    assert similarity.of_config(small.make_config()) is None


def put_encoder(folder):
    """A tiny BERT with random weights and a vocabulary of characters."""
    torch, transformers = parity.libraries()
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + x for x in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, hidden_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.BertModel(config)
    parity.spread(torch, model, seed=0, std=0.4)
    model.save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(
        folder
    )


@pytest.mark.parity
def test_it_is_the_authors_score(tmp_path):
    put_encoder(tmp_path)
    found = similarity.Similarity(str(tmp_path))
    each = [found([text], [ref]) for text, ref in zip(TEXTS, REFERENCES, strict=True)]
    assert found(TEXTS, REFERENCES) == pytest.approx(np.mean(each), rel=1e-5)
    assert found(TEXTS[:3], TEXTS[:3]) == pytest.approx(1, abs=1e-5)
    assert each[3] == 0 and min(each[:3]) > 0 and np.isnan(found([], []))
    import bert_score

    kept = slice(0, 3)
    *_, expected = bert_score.score(
        TEXTS[kept], REFERENCES[kept], model_type=str(tmp_path), num_layers=2, idf=False
    )
    np.testing.assert_allclose(each[kept], expected.numpy(), atol=1e-5)

"""Metrics of texts against cases worked out by hand, other implementations, and properties."""

import math

import numpy as np
import pytest

from igerg_jax import metrics, text_metrics

TEXTS = ["the cat sat on the mat", "a dog ran to the park today", "I am so happy for you !"]


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
    assert text_metrics.perplexity(5 * math.log(32), 5) == pytest.approx(32)
    assert text_metrics.perplexity(1e6, 1) == math.inf


def test_unigram_perplexity_by_hand_and_at_its_limits():
    # Smoothed: 3/5, 1/5, 1/5.
    values = text_metrics.unigram_perplexity(np.array([2, 0, 0]), np.array([1, 1, 0]))
    assert values == pytest.approx((3 / 5 * 1 / 5) ** -0.5)
    assert text_metrics.unigram_perplexity(np.zeros(9), np.ones(9)) == pytest.approx(9)
    own = np.array([5000, 3000, 1000, 1000])
    other = own[::-1]
    assert text_metrics.unigram_perplexity(own, own) < text_metrics.unigram_perplexity(other, own)
    assert math.isnan(text_metrics.unigram_perplexity(own, np.zeros(4)))


def bleu(texts, references) -> dict[int, float]:
    return {order: text_metrics.bleu(texts, references, order) for order in range(1, 5)}


def test_bleu_by_hand():
    # "the cat the cat" against "the cat sat down": clipped 1-grams 2/4, 2-grams 1/3, and no 3-gram;
    # equal lengths, so no brevity penalty.
    scores = bleu(["the cat the cat"], ["the cat sat down"])
    assert scores[1] == pytest.approx(100 * 2 / 4)
    assert scores[2] == pytest.approx(100 * math.sqrt(2 / 4 * 1 / 3))
    assert scores[3] == scores[4] == 0


def test_bleu_has_a_brevity_penalty_over_the_corpus():
    # 3 words for 6: exp(1 - 6/3); the precisions are 1.
    scores = bleu(["a b c"], ["a b c d e f"])
    assert scores[1] == scores[2] == pytest.approx(100 * math.exp(-1))
    # A long text beside it makes the corpus long enough: the penalty is not per sentence.
    assert text_metrics.bleu(["a b c", "x y z"], ["a b c", "x y z"], 1) == pytest.approx(100)
    assert text_metrics.bleu(["a b c", "d e f g"], ["a b c d", "e f g"], 1) == pytest.approx(
        100 * 6 / 7
    )


def test_bleu_keeps_case_and_splits_off_punctuation():
    assert text_metrics.bleu(["Hello there"], ["hello there"], 1) == pytest.approx(50)
    assert text_metrics.bleu(["hello there!"], ["hello there ."], 1) == pytest.approx(200 / 3)


def rouge(texts, references) -> dict[str, float]:
    kinds = {"1": "rouge1", "2": "rouge2", "l": "rougeL"}
    return {name: text_metrics.rouge(texts, references, kind) for name, kind in kinds.items()}


def test_rouge_by_hand():
    # 1-grams: 3 of 4 and of 3 -> F = 6/7. 2-grams: 2 of 3 and of 2 -> 4/5. LCS 3.
    scores = rouge(["the cat sat"], ["the cat sat down"])
    assert scores["1"] == scores["l"] == pytest.approx(100 * 6 / 7)
    assert scores["2"] == pytest.approx(100 * 4 / 5)
    # The mean of pairs, not of the pooled corpus; case and punctuation do not count.
    assert rouge(["Yes!", "no no no no"], ["yes", "a b c d"])["1"] == pytest.approx(50)
    # Order matters to ROUGE-L only.
    scores = rouge(["c b a"], ["a b c"])
    assert scores["1"] == pytest.approx(100)
    assert scores["l"] == pytest.approx(100 / 3)
    assert rouge(["running"], ["run"])["1"] == 0  # not stemmed


def test_words_are_those_of_rouge_score_in_ascii_and_of_any_script():
    from rouge_score.tokenize import tokenize

    rng = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(map(chr, rng.integers(9, 127, 40)))
        assert text_metrics.words(text) == tokenize(text, None)
    for text, expected in {
        "Naïve CAFÉ, straße!": "naïve café straße",
        "cafe\N{COMBINING ACUTE ACCENT}": "café",
        "Привет, как дела?": "привет как дела",
        "नमस्ते दुनिया": "नमस्ते दुनिया",  # with vowel signs, which are marks
        "我喜欢 JAX。": "我 喜 欢 jax",
        "これはペンです": "こ れ は ペ ン で す",
        "سلام ۱۲۳": "سلام ۱۲۳",
        "🙂 — …": "",
    }.items():
        assert text_metrics.words(text) == expected.split(), text


@pytest.mark.parametrize("text", ["Привет, как дела?", "今天天气很好吗", "naïve über", "مرحبا بك"])
def test_no_metric_of_words_is_blind_to_a_script(text):
    other = " ".join(reversed(text.split())) + " x"
    values = metrics.of_texts([text, "a b c d"], [text, "e f g h"])
    for name in ("rouge_1", "rouge_l", "meteor"):
        assert values[name] > 45, name
    assert values["cider"] > 2
    assert text_metrics.rouge([text], [other], "rouge1") > 40


def test_moses_bleu_by_hand():
    # Moses splits "can't" before the apostrophe's part, and keeps "e.g." whole; 13a does neither.
    assert text_metrics.moses_tokens("I can't, e.g. now.") == "I can 't , e.g. now ."
    # Tokens "I can 't" and "I can": 2 of 3 are right, and nothing is too short.
    found = text_metrics.bleu(["I can't"], ["I can"], 1, "moses")
    assert found == pytest.approx(100 * 2 / 3)
    assert text_metrics.bleu(["I can't"], ["I can"], 1) == pytest.approx(50)


def test_meteor_by_hand():
    # 3 words of 3 and of 4 match, in one chunk: P = 1, R = 3/4, F = P R / (0.9 P + 0.1 R), and a
    # penalty of 0.5 (1 / 3)^3.
    score = (3 / 4) / (0.9 + 0.1 * 3 / 4) * (1 - 0.5 / 27)
    assert text_metrics.meteor(["the cat sat"], ["The cat sat down."]) == pytest.approx(100 * score)
    # "walks" has the stem of "walking"; "big" and "large" are only synonyms: one match of two.
    score = (1 / 4) / (0.9 * 1 / 2 + 0.1 * 1 / 2) * (1 - 0.5)
    found = text_metrics.meteor(["walks big"], ["walking large"])
    assert found == pytest.approx(100 * score)
    # Two chunks of one word each: the penalty is whole.
    assert text_metrics.meteor(["b a"], ["a b"]) == pytest.approx(50)
    assert text_metrics.meteor(["a", "x"], ["a", "b"]) == pytest.approx(25)
    assert text_metrics.meteor([""], ["a"]) == text_metrics.meteor(["!"], ["?"]) == 0


def test_cider_is_pycocoevalcaps():
    """CiderScorer of pycocoevalcap 1.2 on the same tokens."""
    texts = ["the cat sat on the mat", "a dog ran to a park", "i am happy", "the the the the", "no"]
    references = ["the cat is on a mat", "a dog ran to the park today", "i am so happy for you",
                  "the cat sat down", "no"]  # fmt: skip
    alone = [1.8091532180, 5.1536852023, 2.2577239205, 0.1273897284, 2.5000000000]
    assert text_metrics.cider(texts, references) == pytest.approx(np.mean(alone), abs=1e-9)


def test_cider_by_hand():
    # Of two references, "a" is in both and counts nothing; all else has the weight ln 2. Words:
    # (b, c) against (b, d); pairs: (ab, bc) against (ab, bd). Both cosines are 1/2, lengths equal.
    found = text_metrics.cider(["a b c", "x"], ["a b d", "a"])
    assert found == pytest.approx((10 / 4 * (1 / 2 + 1 / 2) + 0) / 2)
    # Three words too many, of which the pairs have (ab, bc, ca, aa twice): cosine 1 / sqrt(7 * 2).
    found = text_metrics.cider(["a b c a a a", "x"], ["a b d", "a"])
    expected = 10 / 4 * (1 / 2 + 1 / 14**0.5) * math.exp(-(3**2) / (2 * 6**2))
    assert found == pytest.approx(expected / 2)


def test_adjusted_distinct_by_hand_and_does_not_fall_with_length():
    # Three different words of four, of a vocabulary of five.
    found = text_metrics.distinct_adjusted(["a b", "a c"], ["a b c", "d e a"])
    assert found == pytest.approx(3 / (5 * (1 - (4 / 5) ** 4)))
    rng = np.random.default_rng(0)
    vocabulary = [str(word) for word in range(300)]
    draw = lambda words: [" ".join(rng.choice(vocabulary, words)) for _ in range(50)]  # noqa: E731
    for length in (3, 30):
        drawn = draw(length)
        found = text_metrics.distinct_adjusted(drawn, [" ".join(vocabulary)])
        assert found == pytest.approx(1, abs=0.06)
    assert text_metrics.distinct(draw(3), 1) > 3 * text_metrics.distinct(draw(30), 1)


def test_distinct_and_entropy_by_hand():
    texts = ["a b a", "a b"]
    assert text_metrics.distinct(texts, 1) == 2 / 5
    assert text_metrics.distinct(texts, 2) == 2 / 3  # ab, ba, ab: none across the texts' border
    expected = -(3 / 5 * math.log(3 / 5) + 2 / 5 * math.log(2 / 5))
    assert text_metrics.ngram_entropy(texts, 1) == pytest.approx(expected)


@pytest.mark.parametrize("n", range(1, 5))
def test_diversity_properties(n):
    rng = np.random.default_rng(n)
    texts = [" ".join(map(str, rng.integers(0, 6, size=8))) for _ in range(20)]
    count = 20 * (8 - n + 1)
    assert 1 / count <= text_metrics.distinct(texts, n) <= 1
    assert 0 <= text_metrics.ngram_entropy(texts, n) <= math.log(count)
    # Saying everything twice halves Dist-n and leaves the frequencies as they are.
    assert text_metrics.distinct(texts * 2, n) == pytest.approx(text_metrics.distinct(texts, n) / 2)
    assert text_metrics.ngram_entropy(texts * 2, n) == pytest.approx(
        text_metrics.ngram_entropy(texts, n)
    )
    different = [" ".join(f"{i}.{j}" for j in range(8)) for i in range(20)]
    assert text_metrics.distinct(different, n) == 1
    assert text_metrics.ngram_entropy(different, n) == pytest.approx(math.log(count))
    assert text_metrics.ngram_entropy(["a " * n] * 5, n) == 0


def test_bleu_falls_with_order_and_lies_in_percent():
    values = list(bleu(["the cat sat on a mat", "a dog ran", ""], TEXTS).values())
    assert 100 >= values[0] >= values[1] >= values[2] >= values[3] >= 0
    assert values[1] > 0

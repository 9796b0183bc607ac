"""Metrics of texts: functions from strings to a float, and perplexities.

They are defined by the libraries that are named, where there is one for them. "Words" of ROUGE,
METEOR and CIDEr are those of `words`; Dist-n and lengths split at white space, as OpenViDial does.
A metric of no texts is NaN.
"""

import collections
import functools
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

# Writing without spaces: each character stands for a word.
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
CIDER_ORDER = 4  # n-grams of up to this many words
CIDER_SIGMA = 6.0  # words: how different lengths may be


@functools.lru_cache(maxsize=1)
def _word_pattern() -> Any:
    import regex  # has the scripts and categories of Unicode

    marked = rf"[{_SPACELESS}]\p{{M}}*"
    return regex.compile(rf"(?V1){marked}|[[\p{{L}}\p{{M}}\p{{N}}]--[{_SPACELESS}]]+")


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits, of any script, with their marks.

    In ASCII they are rouge-score's own tokens. A character of Chinese, Japanese or another script
    without spaces is a word.
    """
    return _word_pattern().findall(unicodedata.normalize("NFC", text.lower()))


@functools.lru_cache(maxsize=1)
def _moses() -> Any:
    from sacremoses import MosesTokenizer

    return MosesTokenizer(lang="en")


@functools.lru_cache(maxsize=8192)
def moses_tokens(text: str) -> str:
    """The tokens of the Moses tokenizer for English, by sacremoses, with spaces between them."""
    return _moses().tokenize(text, return_str=True, escape=False)


def bleu(texts: Sequence[str], references: Sequence[str], order: int, tokens: str = "13a") -> float:
    """Corpus BLEU-`order` in percent, by sacrebleu, as OpenViDial defines it.

    The geometric mean of the precisions of 1- to `order`-grams (cumulative), times the brevity
    penalty (Papineni et al. 2002); one reference, case-sensitive, no smoothing, so that it is 0
    when no n-gram of the corpus matches.

    Args:
      tokens: "13a", sacrebleu's own, which split off punctuation, or "moses", for `moses_tokens`.
    """
    from sacrebleu.metrics import BLEU  # here, as it delays the start of every command

    if not texts:
        return math.nan
    if tokens == "moses":
        texts, references = ([moses_tokens(text) for text in of] for of in (texts, references))
    scorer = BLEU(
        tokenize="none" if tokens == "moses" else tokens,
        smooth_method="none",
        max_ngram_order=order,
        force=True,
    )
    return float(scorer.corpus_score(list(texts), [list(references)]).score)


class _RougeWords:
    """`words`, as rouge-score asks for them: its own tokens drop all letters but those of ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def rouge(texts: Sequence[str], references: Sequence[str], kind: str) -> float:
    """Mean ROUGE F1 in percent, by rouge-score (Lin 2004).

    Scores of single pairs are averaged. Tokens are `words`, not stemmed; a pair in which either
    side has none scores 0.

    Args:
      kind: "rouge1", "rouge2" or "rougeL".
    """
    from rouge_score.rouge_scorer import RougeScorer  # here: it imports NLTK, which takes seconds

    if not texts:
        return math.nan
    scorer = RougeScorer([kind], tokenizer=_RougeWords())
    pairs = zip(texts, references, strict=True)
    return 100 * float(np.mean([scorer.score(ref, text)[kind].fmeasure for text, ref in pairs]))


class _NoSynonyms:
    """In place of WordNet."""

    def synsets(self, word: str) -> tuple[()]:
        return ()


def meteor(texts: Sequence[str], references: Sequence[str]) -> float:
    """Mean METEOR in percent, by NLTK, with the parameters of Lavie & Agarwal (2007).

    `words` match that are equal or have the same Porter stem. The stage of synonyms is left out: it
    needs WordNet, which no Python package has, so that figures are lower than with it.
    """
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import single_meteor_score

    if not texts:
        return math.nan
    settings = dict(stemmer=PorterStemmer(), wordnet=_NoSynonyms())
    pairs = zip(texts, references, strict=True)
    scores = [single_meteor_score(words(ref), words(text), **settings) for text, ref in pairs]
    return 100 * float(np.mean(scores))


def cider(texts: Sequence[str], references: Sequence[str]) -> float:
    """Mean CIDEr-D (Vedantam et al. 2015), 0..10, of `words`, not stemmed.

    The cosine of n-gram counts, clipped to the reference's and weighted by how few of the
    references have an n-gram, averaged over n = 1 to 4, and less for another length. It agrees with
    pycocoevalcap's `CiderScorer`, whose package is 100 MB of Java.
    """
    if not texts:
        return math.nan
    found_N, wanted_N = ([_ngram_counts(words(text)) for text in of] for of in (texts, references))
    seen_in = collections.Counter(ngram for counts in wanted_N for ngram in counts)

    def weighted(counts: collections.Counter) -> list[dict[tuple[str, ...], float]]:
        by_order: list[dict[tuple[str, ...], float]] = [{} for _ in range(CIDER_ORDER)]
        for ngram, count in counts.items():
            rarity = math.log(len(references)) - math.log(max(1, seen_in[ngram]))
            by_order[len(ngram) - 1][ngram] = count * rarity
        return by_order

    scores = []
    for found, wanted in zip(found_N, wanted_N, strict=True):
        pairs = list(zip(weighted(found), weighted(wanted), strict=True))
        lengths = [sum(n for ngram, n in of.items() if len(ngram) == 1) for of in (found, wanted)]
        penalty = math.exp(-((lengths[0] - lengths[1]) ** 2) / (2 * CIDER_SIGMA**2))
        scores.append(10 * penalty * sum(_clipped_cosine(*pair) for pair in pairs) / CIDER_ORDER)
    return float(np.mean(scores))


def _ngram_counts(tokens: Sequence[str]) -> collections.Counter:
    orders = range(1, CIDER_ORDER + 1)
    return collections.Counter(ngram for n in orders for ngram in _runs(tokens, n))


def _clipped_cosine(found: dict[Any, float], wanted: dict[Any, float]) -> float:
    """0 where either has length 0."""
    shared = sorted(found.keys() & wanted.keys())  # in one order, so that sums round alike
    product = sum(min(found[ngram], wanted[ngram]) * wanted[ngram] for ngram in shared)
    norms = math.hypot(*found.values()) * math.hypot(*wanted.values())
    return product / norms if norms else 0.0


def distinct(texts: Sequence[str], n: int) -> float:
    """Dist-n (Li et al. 2016): distinct n-grams over all n-grams of the corpus; 0..1.

    Words are what white space separates. The n-grams of all texts are counted together, as
    OpenViDial does, so the value falls as the corpus grows: compare only corpora of one size, or
    use `distinct_adjusted`. 0 when texts are too short to have any n-gram; NaN when there are no
    texts.
    """
    counts = collections.Counter(_ngrams(texts, n))
    if not counts:
        return 0.0 if texts else math.nan
    return len(counts) / counts.total()


def distinct_adjusted(texts: Sequence[str], references: Sequence[str]) -> float:
    """Expectation-adjusted Distinct (Liu et al. 2022), of words: it does not fall with length.

    Distinct words over how many are expected of as many draws, each word of the vocabulary as
    likely: N / (V (1 - ((V - 1) / V) ** C)), N distinct words of C, V = the different words of the
    references, the same for every model that answers them. 0 when texts or references have no
    words.
    """
    counts = collections.Counter(_ngrams(texts, 1))
    vocabulary = len(set(_ngrams(references, 1)))
    if not counts or not vocabulary:
        return 0.0 if texts else math.nan
    expected = vocabulary * (1 - ((vocabulary - 1) / vocabulary) ** counts.total())
    return len(counts) / expected


def ngram_entropy(texts: Sequence[str], n: int) -> float:
    """Entropy of the corpus's n-gram frequencies in nats (Ent-n of Zhang et al. 2018).

    Unlike Dist-n, it is lower where a few stock phrases dominate. 0 when texts are too short to
    have any n-gram; NaN when there are no texts.
    """
    counts = np.array(list(collections.Counter(_ngrams(texts, n)).values()), np.float64)
    if not counts.size:
        return 0.0 if texts else math.nan
    shares = counts / counts.sum()
    return max(0.0, -float(shares @ np.log(shares)))  # max: -0.0 reads badly


def perplexity(loss_sum: float, count: float) -> float:
    """exp of the mean negative log-likelihood (nats) of `count` tokens; NaN if there are none."""
    if count <= 0:
        return math.nan
    try:
        return math.exp(loss_sum / count)
    except OverflowError:
        return math.inf


def unigram_perplexity(train_counts_V: np.ndarray, counts_V: np.ndarray) -> float:
    """Perplexity of a text under token frequencies alone: what a language model must beat.

    Args:
      train_counts_V: how often each token id occurs in the training text; integers [V].
      counts_V: the same for the text that is scored; integers [V].

    Returns:
      The perplexity under the training frequencies with one added to each count, so that a
      token absent from the training text keeps some probability. NaN when `counts_V` is all 0.
    """
    smoothed_V = np.asarray(train_counts_V, np.float64) + 1.0
    log_probability_V = np.log(smoothed_V) - np.log(smoothed_V.sum())
    counts_V = np.asarray(counts_V, np.float64)
    return perplexity(-float(counts_V @ log_probability_V), float(counts_V.sum()))


def mean_words(texts: Sequence[str]) -> float:
    """Words per text, separated by white space; NaN when there are no texts."""
    return ratio(sum(len(text.split()) for text in texts), len(texts))


def _ngrams(texts: Iterable[str], n: int) -> Iterator[tuple[str, ...]]:
    """The n-grams of what white space separates."""
    for text in texts:
        yield from _runs(text.split(), n)


def _runs(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[i:] for i in range(n)), strict=False)


def ratio(numerator: float, denominator: float) -> float:
    """NaN where the denominator is 0."""
    return float(numerator) / float(denominator) if denominator else math.nan

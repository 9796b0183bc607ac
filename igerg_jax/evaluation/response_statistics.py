"""How responses carry an emotion: by what they say, or by piling up cue words.

A model that is rewarded for an emotion in its words can learn the judge's cues instead ("hate hate
hate"). These statistics show it, by the emotion shown and beside people's responses.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from igerg_jax import lexicon
from igerg_jax.batch import EMOTIONS, NUM_EMOTIONS
from igerg_jax.data.order import evenly_spaced
from igerg_jax.data.windows import Split

FILE = "answers.json"  # in a workdir
ALL = "all"
TOP_WORDS = 6
REPEATED_WORDS = 2  # a response repeats itself if so many words in a row occur twice
MOSTLY = 0.5  # a response is mostly cues where more than this share of its words belongs to one
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_EMOTICON_LAST = re.compile(f"(?:{'|'.join(lexicon.EMOTICONS.values())})$")
_CLOSERS = "\"'”’)]*"  # of quotations, asides and actions
# Words that say little by themselves. Contractions are listed by what precedes the apostrophe.
_FUNCTION_WORDS = frozenset(
    """
    a about after again all also am an and any anything are aren as at be because been before being
    but by can could couldn d did didn do does doesn doing don done down dont even ever every for
    from get gets getting go going gonna got had has hasn have haven he her here hers him his how i
    i'm if im in into is isn it its just know ll lot m make may maybe me might more most much must
    my myself no nor not now of off oh ok okay on one only or other our out over own re really s
    said same say she should shouldn so some something such t than that thats the their them then
    there these they thing things think this those through to too two up us ve very wanna want was
    wasn way we well were weren what when where which who why will with won would wouldn yeah yes
    you your yours yourself
    """.split()
)


def by_emotion(
    texts: Sequence[str], emotion_N: np.ndarray, cut_N: np.ndarray | None
) -> dict[str, dict[str, Any]]:
    """{emotion, or `ALL`: `statistics` of its responses}; an emotion without any is left out.

    Args:
      emotion_N: the emotion that each response was to carry.
      cut_N: bool, whether each was cut at the maximum length; None where none can be.
    """
    groups = {EMOTIONS[e]: np.flatnonzero(emotion_N == e) for e in range(NUM_EMOTIONS)}
    groups[ALL] = np.arange(len(texts))
    return {
        name: statistics([texts[i] for i in at], None if cut_N is None else cut_N[at])
        for name, at in groups.items()
        if len(at)
    }


def statistics(texts: Sequence[str], cut_N: np.ndarray | None) -> dict[str, Any]:
    """Statistics of some responses (at least one).

    Returns:
      "answers", "distinct": how many, and how many different ones.
      "with_cue", "mean_cues": the share in which the lexicon finds a cue, and cues per response.
      "repeats": the share in which `REPEATED_WORDS` words in a row occur twice.
      "mostly_cues": the share in which more than `MOSTLY` of the words belong to a cue.
      "unfinished": the share that is not `finished`.
      "broken_off": the share that is unfinished and was cut, None without `cut_N`. A response that
        ends with EOS is not broken off, even without punctuation.
      "frequent_words": [word, share of responses with it], function words left out.
    """
    cues = [sum(lexicon.count_cues(text).values()) for text in texts]
    unfinished = np.array([not finished(text) for text in texts])
    return {
        "answers": len(texts),
        "distinct": len(set(texts)),
        "with_cue": float(np.mean([count > 0 for count in cues])),
        "mean_cues": float(np.mean(cues)),
        "repeats": float(np.mean([repeats(text) for text in texts])),
        "mostly_cues": float(np.mean([lexicon.cue_words_share(text) > MOSTLY for text in texts])),
        "unfinished": float(unfinished.mean()),
        "broken_off": None if cut_N is None else float((unfinished & cut_N).mean()),
        "frequent_words": frequent_words(texts),
    }


def finished(text: str) -> bool:
    """Whether a text ends with an emoticon, or with a mark that announces nothing (not , : -)."""
    text = text.rstrip()
    last = text.rstrip(_CLOSERS)[-1:]
    return bool(_EMOTICON_LAST.search(text)) or not (last.isalnum() or last in ",;:-–—(['")


def repeats(text: str) -> bool:
    """Whether `REPEATED_WORDS` words in a row occur twice; they may overlap: "so so so"."""
    words = list(_words(text))
    runs = list(zip(*(words[i:] for i in range(REPEATED_WORDS)), strict=False))
    return len(set(runs)) < len(runs)


def frequent_words(texts: Sequence[str]) -> list[list[Any]]:
    """The `TOP_WORDS` commonest [content word, share of texts with it]; ties by the alphabet."""
    counts = collections.Counter(word for text in texts for word in {*_content_words(text)})
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [[word, count / len(texts)] for word, count in ranked[:TOP_WORDS]]


def people(split: Split, count: int) -> dict[str, dict[str, Any]]:
    """`by_emotion` of people's own responses in a split: at most `count` of each labelled emotion,
    spread evenly over the split, so that a model's `count` responses to each can be compared."""
    turns = split.response_turn
    chosen = []
    for emotion in range(NUM_EMOTIONS):
        of_emotion = turns[split.turns.emotion[turns] == emotion]
        chosen.append(of_emotion[evenly_spaced(count, len(of_emotion))])
    numbers = np.concatenate(chosen)
    texts = [split.turns.text(int(turn)) for turn in numbers]
    return by_emotion(texts, split.turns.emotion[numbers], None)


def compared(
    texts: Sequence[str], emotion_N: np.ndarray, cut_N: np.ndarray, split: Split, count: int
) -> Mapping[str, dict[str, dict[str, Any]]]:
    """A split's entry of `FILE`: {"model": `by_emotion` of its responses, "people": of theirs}."""
    return {"model": by_emotion(texts, emotion_N, cut_N), "people": people(split, count)}


def _words(text: str) -> Iterator[str]:
    for match in _WORD.finditer(text.lower()):
        yield match[0].replace("’", "'")


def _content_words(text: str) -> Iterator[str]:
    for word in _words(text):
        if word not in _FUNCTION_WORDS and word.partition("'")[0] not in _FUNCTION_WORDS:
            yield word

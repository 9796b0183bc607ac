"""How windows fill a batch's arrays, as a slow and plain description has it."""

import hypothesis
import numpy as np
import properties
from hypothesis import strategies as st
from ml_collections import ConfigDict

from igerg_jax import batch as batch_lib
from igerg_jax.batch import NEUTRAL, NUM_EMOTIONS, SENTENCEPIECE_IDS, UNKNOWN
from igerg_jax.data import store, windows

PAD, EOS = SENTENCEPIECE_IDS.pad, SENTENCEPIECE_IDS.eos
MAX_CONTEXT_TURNS = 4
# A turn: ids, emotion, whether it has an image.
TURNS = st.tuples(
    st.lists(st.integers(5, 40), max_size=6), st.integers(UNKNOWN, NUM_EMOTIONS - 1), st.booleans()
)
SETTINGS = st.fixed_dictionaries(
    {
        "context_turns": st.integers(1, MAX_CONTEXT_TURNS),
        "context_tokens": st.integers(1, 20),
        "response_tokens": st.integers(1, 9),
        "use_images": st.booleans(),
        "include_response_image": st.booleans(),
        "reverse": st.booleans(),
    }
)
# Of a row: its turns, of which more than the context holds are dropped; one alone stands for
# itself, and none is padding.
ROWS = st.lists(st.lists(TURNS, max_size=MAX_CONTEXT_TURNS + 1), min_size=1, max_size=4)


def described(turns, row, settings):
    """{array: its row}, one slot and one token at a time; of images the keys, as pack returns."""
    slots = range(settings["context_turns"] + 1)
    shown = {
        slot
        for slot, (_, _, has_image) in enumerate(turns)
        if has_image and settings["use_images"]
        # The response's image may be withheld; a turn alone is no response.
        if settings["include_response_image"] or len(turns) == 1 or slot < len(turns) - 1
    }
    emotions = [turns[slot][1] if slot in shown else UNKNOWN for slot in slots]
    spoken = turns if len(turns) == 1 else turns[:-1]
    history = [(i, slot) for slot, (ids, *_) in enumerate(spoken) for i in [*ids, EOS]]
    response = list(turns[-1][0]) if turns else []
    if not turns or (len(turns) == 1 and not response):
        history, response = [], None  # padding, or an image without words
    sizes = {"context": settings["context_tokens"], "response": settings["response_tokens"]}
    first, last = ("response", "context") if settings["reverse"] else ("context", "response")
    while len(history) > sizes[first]:
        history.pop(0)
    if response is not None:
        while len(response) > sizes[last] - 1:
            response.pop()
        response.append(EOS)
    words = {first: [i for i, _ in history], last: response or []}
    numbers = [] if settings["reverse"] else [slot for _, slot in history]
    return {
        "image_mask": [slot in shown for slot in slots],
        "image_turn": [slot if slot in shown else 0 for slot in slots],
        "image_emotion": emotions,
        "sequence_emotion": prevailing(emotions),
        "context": words["context"] + [PAD] * (sizes["context"] - len(words["context"])),
        "context_turn": numbers + [0] * (sizes["context"] - len(numbers)),
        "response": words["response"] + [PAD] * (sizes["response"] - len(words["response"])),
        "response_emotion": turns[-1][1] if turns else UNKNOWN,
        "keys": [key(row, slot) if slot in shown else store.NO_IMAGE for slot in slots],
    }


def prevailing(emotions):
    """The most frequent emotion but neutral, and of several the one that is seen last."""
    known = [e for e in emotions if e != UNKNOWN]
    expressed = [e for e in known if e != NEUTRAL]
    if not expressed:
        return NEUTRAL if known else UNKNOWN
    most = max(expressed.count(e) for e in expressed)
    return [e for e in expressed if expressed.count(e) == most][-1]


def key(row, slot):
    return 100 * row + slot


def example_of(turns, row):
    if not turns:
        return None
    return windows.Example(
        tokens=[np.array(ids, np.int32) for ids, *_ in turns],
        emotions=[emotion for _, emotion, _ in turns],
        images=[
            key(row, slot) if has_image else store.NO_IMAGE
            for slot, (*_, has_image) in enumerate(turns)
        ],
        standalone=len(turns) == 1,
    )


@properties.examples(300)
@hypothesis.given(rows=ROWS, settings=SETTINGS)
def test_windows_are_packed_as_described(rows, settings):
    rows = [turns[-settings["context_turns"] - 1 :] for turns in rows]
    config = ConfigDict({"data": {**settings, "image_size": 8, "feature_dim": 0, "mixtures": {}}})
    examples = [example_of(turns, row) for row, turns in enumerate(rows)]
    batch, keys_BxN = windows.pack(examples, config, SENTENCEPIECE_IDS)
    found = batch | {"keys": keys_BxN}
    expected = [described(turns, row, settings) for row, turns in enumerate(rows)]
    assert found.keys() == expected[0].keys()
    for name, array in found.items():
        assert array.tolist() == [row[name] for row in expected], name
    spec = batch_lib.BatchSpec.of(config.data, len(rows))
    shape, dtype = spec.shapes()["images"]
    batch_lib.check(batch | {"images": np.zeros(shape, dtype)}, spec)

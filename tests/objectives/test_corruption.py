"""Corruption of token arrays: what is chosen, what replaces it, and by which row's key."""

import collections
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest
from hypothesis import strategies as st

from igerg_jax.batch import SENTENCEPIECE_IDS as SPECIAL
from igerg_jax.objectives import corruption

VOCAB_SIZE = 1000
S = 24
FIRST_WORD = 5
FRACTION, MEAN_SPAN = 0.3, 2.0


def make_rows(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random turns: words, each turn ended by EOS, PAD on the right; and each token's turn.

    The first row is empty.
    """
    rng = np.random.default_rng(seed)
    tokens = np.full((rows, S), SPECIAL.pad, np.int32)
    turns = np.zeros((rows, S), np.int32)
    for row in range(1, rows):
        at = 0
        for turn in range(rng.integers(1, 7)):
            length = min(int(rng.integers(1, 8)), S - at)
            if not length:
                break
            tokens[row, at : at + length] = rng.integers(FIRST_WORD, VOCAB_SIZE, size=length)
            tokens[row, at + length - 1] = SPECIAL.eos
            turns[row, at : at + length] = turn
            at += length
    return tokens, turns


def keys_of(rows: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), rows)


@jax.jit
def mask_tokens(keys, tokens):
    return corruption.mask_tokens(keys, tokens, FRACTION, SPECIAL, VOCAB_SIZE)


@jax.jit
def infill(keys, tokens, turns):
    return corruption.infill(keys, tokens, turns, FRACTION, MEAN_SPAN, SPECIAL)


@jax.jit
def shuffle(keys, tokens, turns):
    return corruption.shuffle_turns(keys, tokens, turns, SPECIAL)


ROWS = 1024  # everywhere, so that each function compiles once
TOKENS, TURNS = make_rows(ROWS)
WORDS = ~np.isin(TOKENS, (SPECIAL.pad, SPECIAL.eos))


def near(count: int, total: int, fraction: float) -> bool:
    """Within five standard deviations of a binomial."""
    return abs(count - total * fraction) < 5 * math.sqrt(total * fraction * (1 - fraction))


def test_masking_chooses_words_alone_and_as_many_as_said():
    _, chosen = map(np.asarray, mask_tokens(keys_of(ROWS), TOKENS))
    assert not chosen[~WORDS].any(), "EOS or PAD was chosen"
    assert near(chosen.sum(), WORDS.sum(), FRACTION)


def test_masking_changes_what_is_chosen_alone_80_10_10():
    new, chosen = map(np.asarray, mask_tokens(keys_of(ROWS), TOKENS))
    np.testing.assert_array_equal(new[~chosen], TOKENS[~chosen])
    masked, kept = new[chosen] == SPECIAL.mask, new[chosen] == TOKENS[chosen]
    assert near(masked.sum(), chosen.sum(), 0.8)
    assert near(kept.sum(), chosen.sum(), 0.1)
    random = new[chosen][~masked & ~kept]
    assert abs(random.mean() / VOCAB_SIZE - 0.5) < 0.1


def poisson(u: np.ndarray, mean: float) -> np.ndarray:
    """The inverse of the distribution function, term by term."""
    out = np.zeros(u.shape, int)
    for index, value in np.ndenumerate(u):
        k, below = 0, math.exp(-mean)
        while value > below:
            k += 1
            below += math.exp(-mean) * mean**k / math.factorial(k)
        out[index] = k
    return out


def slow_infill(tokens, turns, starts, spans, room):
    """One row, token by token, as the description says; with `room` for so many insertions.

    Returns its tokens, their turns, and the insertions that it asked for.
    """
    out, left, asked = [], 0, 0
    hidden_before = False
    for token, turn, start, span in zip(tokens, turns, starts, spans, strict=True):
        word = token not in (SPECIAL.pad, SPECIAL.eos)
        if word and start:
            left = max(left, span)
        hidden = word and left > 0
        if token == SPECIAL.pad:
            pass
        elif hidden and not hidden_before:
            out.append((SPECIAL.mask, turn))
        elif not hidden:
            if word and start and span == 0:
                asked += 1
                if asked <= room:
                    out.append((SPECIAL.mask, turn))
            out.append((token, turn))
        hidden_before = hidden
        left = max(left - 1, 0)
    out += [(SPECIAL.pad, 0)] * (S - len(out))
    return [token for token, _ in out], [turn for _, turn in out], asked


def test_infill_is_its_slow_description():
    keys = keys_of(ROWS, seed=1)
    new, new_turns = map(np.asarray, infill(keys, TOKENS, TURNS))
    # The draws are the code's own; what is made of them is not.
    starts, uniform = map(np.asarray, draws(keys))
    spans = poisson(uniform[:300], MEAN_SPAN)
    inserted = dropped = 0
    for row in range(300):
        given = TOKENS[row], TURNS[row], starts[row], spans[row]
        shorter, *_ = slow_infill(*given, 0)
        room = (TOKENS[row] != SPECIAL.pad).sum() - (np.array(shorter) != SPECIAL.pad).sum()
        tokens, turns, asked = slow_infill(*given, room)
        np.testing.assert_array_equal(new[row], tokens, err_msg=f"row {row}")
        np.testing.assert_array_equal(new_turns[row], turns, err_msg=f"row {row}")
        inserted += min(asked, room)
        dropped += asked > room
    assert inserted and dropped, "the rows never show an insertion, or one without room"


@jax.jit
@jax.vmap
def draws(key):
    start_key, length_key = jax.random.split(key)
    starts = jax.random.uniform(start_key, (S,)) < FRACTION / MEAN_SPAN
    return starts, jax.random.uniform(length_key, (S,))


def test_infill_hides_about_the_fraction_it_says():
    """Counts every word that no longer stands; overlaps and turn ends make it a little less."""
    words = np.tile(np.arange(FIRST_WORD, FIRST_WORD + S, dtype=np.int32), (ROWS, 1))
    new, _ = infill(keys_of(ROWS, seed=3), words, np.zeros_like(words))
    # Each of the S words occurs once, so that what still stands can be counted. Spans end where the
    # row ends, and none begin before it does: its middle has none of that.
    middle = np.arange(FIRST_WORD + 8, FIRST_WORD + 16)
    hidden = 1 - np.mean([np.isin(middle, row).mean() for row in np.asarray(new)])
    assert 0.8 * FRACTION < hidden < FRACTION


def test_infill_keeps_what_ends_turns():
    new, new_turns = map(np.asarray, infill(keys_of(ROWS, seed=2), TOKENS, TURNS))
    for row in range(ROWS):
        before = TURNS[row][TOKENS[row] == SPECIAL.eos]
        np.testing.assert_array_equal(new_turns[row][new[row] == SPECIAL.eos], before)
        assert (np.diff(new_turns[row][new[row] != SPECIAL.pad]) >= 0).all()


def split_turns(tokens, turns) -> list[tuple[int, ...]]:
    """A row's turns in order, each as its tokens; fails where a turn's tokens are apart."""
    real = tokens != SPECIAL.pad
    assert (np.diff(real.astype(int)) <= 0).all(), "PAD is not on the right"
    groups: dict[int, list[int]] = {}
    for token, turn in zip(tokens[real], turns[real], strict=True):
        assert turn not in groups or turn == list(groups)[-1], "a turn's tokens are apart"
        groups.setdefault(int(turn), []).append(int(token))
    assert list(groups) == list(range(len(groups))), "turns are not numbered from 0 on"
    return [tuple(tokens) for tokens in groups.values()]


def test_shuffle_moves_whole_turns_and_numbers_them_anew():
    new, new_turns = map(np.asarray, shuffle(keys_of(ROWS), TOKENS, TURNS))
    moved = 0
    for row in range(ROWS):
        before = split_turns(TOKENS[row], TURNS[row])
        after = split_turns(new[row], new_turns[row])
        assert collections.Counter(before) == collections.Counter(after)
        moved += before != after
    assert moved > ROWS / 4


def test_shuffle_takes_every_order_equally_often():
    row = np.array([10, 2, 11, 12, 2, 13, 2] + [SPECIAL.pad] * (S - 7), np.int32)
    turn = np.array([0, 0, 1, 1, 1, 2, 2] + [0] * (S - 7), np.int32)
    new, _ = shuffle(keys_of(ROWS), np.tile(row, (ROWS, 1)), np.tile(turn, (ROWS, 1)))
    orders = collections.Counter(map(tuple, np.asarray(new)))
    assert len(orders) == 6
    assert all(near(count, ROWS, 1 / 6) for count in orders.values())


@pytest.mark.parametrize("corrupt", [mask_tokens, infill, shuffle])
def test_a_row_depends_on_its_own_key_alone(corrupt):
    inputs = (TOKENS,) if corrupt is mask_tokens else (TOKENS, TURNS)
    keys = keys_of(ROWS)
    whole = corrupt(keys, *inputs)
    # Other places, other neighbours; some rows twice, others not at all.
    order = np.random.default_rng(0).integers(0, ROWS, size=ROWS)
    part = corrupt(keys[jnp.asarray(order)], *(x[order] for x in inputs))
    for first, second in zip(whole, part, strict=True):
        np.testing.assert_array_equal(np.asarray(first)[order], second)


@pytest.mark.parametrize("corrupt", [mask_tokens, infill, shuffle])
def test_a_row_does_not_depend_on_how_far_it_is_padded(corrupt):
    inputs = (TOKENS,) if corrupt is mask_tokens else (TOKENS, TURNS)
    assert SPECIAL.pad == 0  # as a turn is at PAD, and False
    wider = [np.pad(x, ((0, 0), (0, 17))) for x in inputs]
    results = corrupt(keys_of(ROWS), *inputs), corrupt(keys_of(ROWS), *wider)
    for narrow, wide in zip(*results, strict=True):
        np.testing.assert_array_equal(np.pad(narrow, ((0, 0), (0, 17))), wide)


@pytest.mark.parametrize("corrupt", [infill, shuffle])
def test_an_empty_row_stays_empty(corrupt):
    tokens, turns = corrupt(keys_of(ROWS), TOKENS, TURNS)
    assert (np.asarray(tokens)[0] == SPECIAL.pad).all() and not np.asarray(turns)[0].any()


WORD = st.integers(0, VOCAB_SIZE - 1).filter(lambda token: token != SPECIAL.pad)  # EOS, too
LENGTHS = st.lists(st.lists(WORD, min_size=1, max_size=9), max_size=8)  # of turns


@properties.examples(20)
@hypothesis.given(turns=LENGTHS, seed=st.integers(0, 2**31))
def test_a_row_of_any_tokens_keeps_its_order_turns_and_padding(turns, seed):
    """However its turns end, whatever special tokens it holds; with 1,024 keys each time."""
    tokens = [token for words in turns for token in words][:S]
    numbers = [number for number, words in enumerate(turns) for _ in words][:S]
    padding = [0] * (S - len(tokens))
    row = np.array(tokens + [SPECIAL.pad for _ in padding], np.int32)
    turn = np.array(numbers + padding, np.int32)
    rows, keys = (np.tile(x, (ROWS, 1)) for x in (row, turn)), keys_of(ROWS, seed)
    rows, row_turns = rows
    masked, chosen = map(np.asarray, mask_tokens(keys, rows))
    assert (masked == rows)[~chosen].all()
    assert not chosen[np.isin(rows, (SPECIAL.pad, SPECIAL.eos))].any()
    moved, moved_turns = map(np.asarray, shuffle(keys, rows, row_turns))
    assert (np.sort(moved) == np.sort(rows)).all()
    filled, filled_turns = map(np.asarray, infill(keys, rows, row_turns))
    for new, new_turns in ((moved, moved_turns), (filled, filled_turns)):
        real = new != SPECIAL.pad
        assert (np.diff(real.astype(int)) <= 0).all() and not new_turns[~real].any()
        assert (np.diff(new_turns)[real[:, 1:]] >= 0).all()
    for new in np.unique(filled[:64], axis=0):  # what still stands is in its old order
        left = iter(tokens)
        assert all(t in left for t in new if t not in (SPECIAL.mask, SPECIAL.pad))

"""BART out of transformers and into our model: the same numbers, and the same sentences."""

import functools

import jax
import numpy as np
import parity
import pytest

from igerg_jax.decoding import search, stream
from igerg_jax.decoding.limits import Limits
from igerg_jax.decoding.strategies import Beam, Greedy

pytestmark = pytest.mark.parity

TINY = dict(vocabulary=60, width=16, layers=2, heads=2, mlp_width=32, positions=32)
BASE = dict(vocabulary=50265, width=768, layers=6, heads=12, mlp_width=3072, positions=1024)
ROWS, LENGTH, MAX_TOKENS = 50, 12, 14


@pytest.mark.parametrize(("sizes", "std"), [(TINY, 0.3), (BASE, 0.03)], ids=["tiny", "base"])
def test_encoder_output_and_logits(tmp_path, sizes, std):
    torch, _ = parity.libraries()
    theirs = parity.bart(tmp_path / "bart", std=std, **sizes)
    model, params = parity.imported(
        parity.config_of_bart(**sizes), tmp_path / "out", text=str(tmp_path / "bart")
    )
    tokens, mask = parity.inputs(sizes["vocabulary"], 3, LENGTH)
    decoder, _ = parity.inputs(sizes["vocabulary"], 3, 7, seed=1)
    with torch.no_grad():
        found = theirs(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
            decoder_input_ids=torch.tensor(decoder).long(),
        )
    hidden, logits = parity.text_logits(model, params, tokens, mask, decoder)
    reference = found.encoder_last_hidden_state.numpy()
    assert np.abs(reference).max() > 1, "a model that says nothing shows nothing"
    np.testing.assert_allclose(np.asarray(hidden)[mask], reference[mask], atol=1e-4)
    np.testing.assert_allclose(logits, found.logits.numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(theirs, our model, our parameters); what they say is far from a tie."""
    folder = tmp_path_factory.mktemp("tiny")
    theirs = parity.bart(folder / "bart", std=0.3, eos=4.0, **TINY)
    ours = parity.imported(parity.config_of_bart(**TINY), folder / "out", text=str(folder / "bart"))
    return theirs, *ours


def their_answers(theirs, tokens, mask, **settings) -> np.ndarray:
    """int [B, MAX_TOKENS] of `generate`, the start token left out.

    As ours: no PAD, BOS, UNK or MASK; at the last place EOS, at its own log-probability
    (transformers' own forced_eos_token_id gives it probability 1).
    """
    torch, library = parity.libraries()
    ids = parity.BART_IDS

    class LastIsEos(library.LogitsProcessor):
        def __call__(self, input_ids, scores):
            if input_ids.shape[1] < MAX_TOKENS:
                return scores
            kept = torch.full_like(scores, -torch.inf)
            kept[:, ids.eos] = scores[:, ids.eos]
            return kept

    theirs.generation_config.forced_eos_token_id = None
    with torch.no_grad():
        found = theirs.generate(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
            max_length=MAX_TOKENS + 1,
            suppress_tokens=[ids.pad, ids.bos, ids.unk, ids.mask],
            logits_processor=library.LogitsProcessorList([LastIsEos()]),
            do_sample=False,
            **settings,
        )
    answers = found[:, 1:].numpy()
    room = MAX_TOKENS - answers.shape[1]
    return np.pad(answers, ((0, 0), (0, room)), constant_values=ids.pad)


def our_answers(model, params, tokens, mask, strategy, no_repeat_ngram=0) -> np.ndarray:
    limits = Limits(MAX_TOKENS, no_repeat_ngram)

    @jax.jit
    def answer(params, tokens, mask):
        encoded = model.apply({"params": params}, tokens, mask, method=parity.encode_words)
        started = stream.start(model, params, stream.Source(encoded), MAX_TOKENS)
        if isinstance(strategy, Beam):
            found = search.beam_search(started, model.special, strategy, limits)
            return found.tokens_BxKxT[:, 0]
        keys = jax.random.split(jax.random.key(0), len(tokens))
        return search.decode_rows(
            started, model.special, keys[:, None], strategy, limits
        ).tokens_BxT

    return np.asarray(answer(params, tokens, mask))


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        (Greedy(), dict(num_beams=1)),
        (Beam(5, 1.0), dict(num_beams=5, length_penalty=1.0)),
        (Beam(5, 2.0), dict(num_beams=5, length_penalty=2.0)),
        (Beam(5, 0.5), dict(num_beams=5, length_penalty=0.5)),
    ],
    ids=["greedy", "beam", "beam-long", "beam-short"],
)
def test_answers_are_the_same_token_for_token(tiny, strategy, settings):
    tokens, mask = parity.inputs(TINY["vocabulary"], ROWS, LENGTH)
    settings |= {} if settings["num_beams"] == 1 else dict(early_stopping=False)
    theirs = their_answers(tiny[0], tokens, mask, **settings)
    ours = our_answers(*tiny[1:], tokens, mask, strategy)
    ends = (theirs == parity.BART_IDS.eos).argmax(1)
    assert len(np.unique(theirs, axis=0)) > 10, "one answer for all would show little"
    itself = (ends < MAX_TOKENS - 1).sum()
    print(f"{itself} of {ROWS} ended of themselves")
    assert itself > 5, "hardly any ended of itself"
    np.testing.assert_array_equal(ours, theirs)


def test_no_ngram_comes_twice_there_either(tiny):
    tokens, mask = parity.inputs(TINY["vocabulary"], ROWS, LENGTH)
    run = functools.partial(their_answers, tiny[0], tokens, mask, num_beams=5)
    theirs = run(no_repeat_ngram_size=2, length_penalty=1.0, early_stopping=False)
    ours = our_answers(*tiny[1:], tokens, mask, Beam(5, 1.0), no_repeat_ngram=2)
    np.testing.assert_array_equal(ours, theirs)

"""Special ids are the tokenizer's: nothing assumes that PAD is 0, or any other number.

Renumbering the vocabulary, and the embeddings' rows with it, must change no loss and no
response but for the numbers; and the whole of a run works with BART's ids.
"""

import dataclasses
import pathlib

import batches_of
import byte_pairs
import jax
import numpy as np
import pytest
import small
from etils import epath

from configs import pretrain
from igerg_jax import batch as batch_lib
from igerg_jax import storage
from igerg_jax.batch import SpecialIds
from igerg_jax.cli import main, modes
from igerg_jax.data import pipeline
from igerg_jax.data.prepare import prepare
from igerg_jax.decoding import search, strategies
from igerg_jax.decoding.limits import Limits
from igerg_jax.errors import UserError
from igerg_jax.evaluation import trained_run
from igerg_jax.objectives import combination
from igerg_jax.run import checkpoint
from igerg_jax.setup import build_model
from igerg_jax.training import train_loop, train_state

# The last id is MASK's, as in BART.
BART = SpecialIds(pad=1, bos=0, eos=2, unk=3, mask=small.VOCAB_SIZE - 1, decoder_start=2)
# No id is what it is in BART or in our SentencePiece models.
OTHER = SpecialIds(pad=17, bos=30, eos=5, unk=0, mask=2, decoder_start=5)


def renumber(special: SpecialIds) -> np.ndarray:
    """int32[V]: the new id of each of `small`'s ids, words in their order."""
    old, new = (dataclasses.astuple(s) for s in (small.SPECIAL, special))
    ids = np.arange(small.VOCAB_SIZE)
    to = np.zeros(small.VOCAB_SIZE, np.int32)
    to[np.setdiff1d(ids, old)] = np.setdiff1d(ids, new)
    to[list(old)] = new
    return to


def losses_and_response(config, special, params, batch):
    model = build_model(config, small.VOCAB_SIZE, special)

    @jax.jit
    def run(params, batch):
        key = jax.random.key(0)
        terms, _ = combination.sums(config, model, params, batch, key, 0)
        rules = strategies.Greedy(), Limits(6, 2)
        answers = search.generate(model, params, batch, key, *rules)
        return {"/".join(name): term[:2] for name, term in terms.items()}, answers.tokens_BxT

    return jax.device_get(run(params, batch))


@pytest.mark.slow
def test_numbering_the_vocabulary_anew_changes_nothing():
    # Without masked_multimodal's random words, which are drawn by number.
    config = small.make_config()
    names = set(config.objectives) - {"masked_multimodal"}
    config = small.only(config, *names)
    model, batch = small.make_model(config), small.make_batch(config)
    params = small.make_params(model, batch)
    losses, tokens = losses_and_response(config, small.SPECIAL, params, batch)

    to = renumber(OTHER)
    assert sorted(to) == list(range(small.VOCAB_SIZE))
    rows = np.argsort(to)
    moved = dict(params, token_embedding=params["token_embedding"][rows])
    judge = dict(params["judge_network"], embedding=params["judge_network"]["embedding"][rows])
    moved["judge_network"] = judge
    words = {name: to[batch[name]] for name in ("context", "response")}
    other_losses, other_tokens = losses_and_response(config, OTHER, moved, batch | words)

    assert len(losses) == 7
    for name, found in losses.items():
        np.testing.assert_allclose(other_losses[name], found, rtol=2e-5, err_msg=name)
    assert (tokens == small.SPECIAL.pad).any(), "responses of several lengths show more"
    np.testing.assert_array_equal(other_tokens, to[tokens])


@pytest.mark.parametrize("special", [BART, OTHER])
def test_synthetic_words_are_none_of_the_special_ids(special):
    spec = batch_lib.BatchSpec.of(small.make_config().data, 64)
    batch = batch_lib.synthetic(spec, special, small.VOCAB_SIZE, seed=0)
    for name in ("context", "response"):
        used = set(batch[name].ravel().tolist())
        assert {special.pad, special.eos} < used
        assert used.isdisjoint({special.bos, special.unk, special.mask} - {special.eos})
        ends = (batch[name] != special.pad).sum(1) - 1
        assert (np.take_along_axis(batch[name], ends[:, None], 1) == special.eos).all()
        assert len(used) > 30


def test_the_paper_preset_takes_barts_vocabulary():
    config = pretrain.get_config("paper")
    config.train.batch_size = 8
    bart = SpecialIds(pad=1, bos=0, eos=2, unk=3, mask=50264, decoder_start=2)
    params = train_state.set_up_training(config, 50265, bart).abstract_state.params
    assert params["token_embedding"].shape == (50265, 768)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir):
    """(config, workdir) of two steps with a byte-level BPE tokenizer that then goes away."""
    folder = byte_pairs.train(tmp_path_factory.mktemp("bpe"))
    workdir = tmp_path_factory.mktemp("run") / "run"
    config = small.only(small.with_pixels(small.make_config()), "emotional_response")
    config.data.update(dataset="chitchat_peeps/tiny", data_dir=str(data_dir))
    config.data.update(context_tokens=24, response_tokens=12)
    config.data.tokenizer.update(kind="byte_level_bpe", path=str(folder / "vocab.json"))
    config.model.text.max_positions = 24
    config.optim.warmup_steps = 1
    config.train.update(steps=2, log_every_steps=1, evaluate_every_steps=2)
    config.train.checkpoint_every_steps = 2
    config.evaluate.update(batch_size=8, examples=8)
    config.generate.update(strategy="greedy", max_tokens=8, examples=2)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train_loop, "Evaluator", lambda *_: None)  # compiles long
        train_loop.run(config, epath.Path(workdir))
    return config, workdir


@pytest.mark.slow
def test_a_run_with_barts_ids_trains(run):
    workdir = run[1]
    lines = storage.read_json_lines(workdir / "metrics.jsonl").objects
    lost = [line["loss/total"] for line in lines if "loss/total" in line]
    assert len(lost) == 2 and np.isfinite(lost).all()


@pytest.mark.slow
def test_its_batches_are_padded_with_the_tokenizers_pad(run):
    config = run[0].copy_and_resolve_references()
    config.data.update(context_tokens=300, response_tokens=200)  # near a token a letter
    config.model.text.max_positions = 300
    prepared = prepare(config)
    special = prepared.tokenizer.special
    assert special.pad == 1
    batch, _ = next(batches_of.first_windows(prepared, "valid", config, np.arange(8)))
    short = next(pipeline.window_batches(prepared, "valid", np.arange(3), config, np.arange(8)))[0]
    assert (short["context"][3:] == 1).all() and (short["response"][3:] == 1).all()
    for name in ("context", "response"):
        assert (batch[name] == special.pad).any()
        assert special.bos not in batch[name]  # 0, which an empty array would hold
        used = (batch[name] != special.pad).sum(1)
        assert (np.take_along_axis(batch[name], used[:, None] - 1, 1) == special.eos).all()
    for i, row in enumerate(batch["response"]):
        assert prepared.tokenizer.decode(row) == prepared.split("valid").window(i).response_text


@pytest.mark.slow
def test_generate_finds_the_tokenizer_that_the_run_kept(run, capsys):
    """Whatever the config says of the tokenizer by then."""
    config, workdir = run
    config = config.copy_and_resolve_references()
    config.data.tokenizer.update(kind="sentencepiece", path="", vocab_size=512)
    modes.generate_once(config, workdir, [("Hi! 😀", None)], None, None)
    out = capsys.readouterr().out
    assert out.startswith("Hi! 😀\n") and "response: " in out
    kept = trained_run.tokenizer_of(config, checkpoint.find(workdir))
    assert kept.special.pad == 1


@pytest.mark.slow
def test_another_tokenizer_of_the_same_size_is_refused(run, tmp_path):
    config, workdir = run
    config = config.copy_and_resolve_references()
    texts = [text.upper() for text in byte_pairs.TEXTS]
    other = byte_pairs.train(tmp_path / "other", 320, texts)
    config.data.tokenizer.path = str(other)
    with pytest.raises(UserError, match="tokenizer does not match"):
        modes.evaluate(config, workdir, None)


def test_a_missing_tokenizer_is_one_message(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(pathlib.Path(main.__file__).parent)
    command = ["main.py", "--config=configs/pretrain.py", f"--workdir={tmp_path / 'run'}"]
    command += ["--config.data.dataset=chitchat_peeps/tiny"]
    command += [f"--config.data.data_dir={tmp_path}"]
    command += ["--config.data.tokenizer.kind=byte_level_bpe"]
    assert main.main([*command, "--config.data.tokenizer.path=nowhere/vocab.json"]) == 2
    err = capsys.readouterr().err
    assert "cannot read the tokenizer 'nowhere/vocab.json': No such file" in err
    assert main.main(command) == 2
    assert "a 'byte_level_bpe' tokenizer can't be trained" in capsys.readouterr().err

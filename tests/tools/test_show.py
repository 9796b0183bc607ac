"""The page of what the objectives receive is what training receives; the counts are true."""

import base64
import dataclasses
import io
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from igerg_jax import objectives
from igerg_jax.batch import EMOTIONS, BatchSpec, group_of
from igerg_jax.data import lengths, pipeline, prepare, windows
from igerg_jax.models.igerg import Igerg
from igerg_jax.objectives import combination
from igerg_jax.objectives.display import Line, Token
from igerg_jax.setup import build_model
from igerg_jax.tools.show import __main__ as show
from igerg_jax.tools.show import counts
from igerg_jax.tools.show import page as show_page
from igerg_jax.training import train_state, train_step

STEP, COUNT = 5, 3


@pytest.fixture
def prepared(tiny_config):
    return prepare.prepare(tiny_config)


def page_of(prepared, config):
    groups = show.collect(prepared, config, STEP, COUNT)
    return groups, show_page.render(groups, prepared, config, STEP)


def batch_of(prepared, config):
    rows = np.arange(config.train.batch_size)
    return next(pipeline.train_batches(prepared, config, STEP, rows))


def pieces(tokenizer, ids):
    return [tokenizer.piece(int(i)) for i in ids if i != tokenizer.special.pad]


def shown(lines, number):
    return [token.piece for token in lines[number].tokens]


class Caught(Exception):
    """Ends a step once its encoder inputs are made."""


def encoder_inputs_in_training(prepared, config, monkeypatch):
    """The encoder inputs of training step STEP, caught inside it."""
    caught = {}

    def catch(contexts, params, key):
        inputs = {name: context.encoder_input for name, context in contexts.items()}
        caught.update({name: given for name, given in inputs.items() if given is not None})
        raise Caught

    monkeypatch.setattr(combination, "with_encodings", catch)
    monkeypatch.setattr(Igerg, "apply", lambda *_, **__: np.zeros((8, 4, 1, 32)))
    monkeypatch.setattr(train_step.optim, "schedule", lambda *_: None)
    setup = types.SimpleNamespace(
        config=config,
        model=build_model(config, prepared.tokenizer.vocab_size, prepared.tokenizer.special),
        optimizer=None,
        mesh=None,
        state_shardings=None,
        describe=str,
    )
    monkeypatch.setattr(train_step.sharding, "batch_sharding", lambda mesh: None)
    monkeypatch.setattr(train_step.sharding, "replicated", lambda mesh: None)
    state = train_state.TrainState(jnp.int32(STEP), {}, None, None, jnp.int32(0), jnp.int32(0))
    with jax.disable_jit(), pytest.raises(Caught):
        train_step.make_step(setup)(state, batch_of(prepared, config))
    return caught


def test_what_is_shown_is_what_the_training_step_encodes(prepared, tiny_config, monkeypatch):
    tiny_config.objectives.emotional_response.face_dropout = 0.3
    groups = show.collect(prepared, tiny_config, STEP, COUNT)
    (group,) = groups
    tokenizer = prepared.tokenizer
    batch = batch_of(prepared, tiny_config)
    inputs = encoder_inputs_in_training(prepared, tiny_config, monkeypatch)
    assert len(inputs) == 4
    for row, example in enumerate(group.examples):
        assert list(example.objectives) == objectives.active(tiny_config)
        for name, given in inputs.items():
            text = jax.tree.map(lambda x, row=row: np.asarray(x)[row], given.text)
            line = example.objectives[name][0]
            assert [t.piece for t in line.tokens] == pieces(tokenizer, text.tokens_BxS), name
            assert [t.turn for t in line.tokens] == text.turn_BxS[: len(line.tokens)].tolist()
        masked = np.asarray(inputs["masked_multimodal"].drawn)[row]
        asked = pieces(tokenizer, batch["context"][row][masked])
        fraction = tiny_config.objectives.masked_multimodal.max_fraction
        limit = int(np.ceil(fraction * len(masked)))
        assert shown(example.objectives["masked_multimodal"], 1) == asked[:limit]
        response = pieces(tokenizer, batch["response"][row])
        given, written = (shown(example.objectives["emotional_response"], i) for i in (1, 2))
        assert written == response and given == ["</s>", *response[:-1]]
        conditioned = example.objectives["emotional_response"][3]
        withheld = bool(np.asarray(inputs["emotional_response"].drawn)[row])
        assert conditioned.emotions == (() if withheld else ((-1, example.response_emotion),))
        assert ("withheld" in conditioned.caption) == withheld
    captions = [e.objectives["emotional_response"][3].caption for e in group.examples]
    assert len(set(captions)) == 2, "one is given an emotion, from another it is withheld"
    # Another step masks other words.
    other = show.collect(prepared, tiny_config, STEP + 100, COUNT)[0].examples
    assert [e.objectives for e in other] != [e.objectives for e in group.examples]


def test_the_page_holds_the_very_pixels_and_nothing_from_outside(prepared, tiny_config):
    _, page = page_of(prepared, tiny_config)
    batch = batch_of(prepared, tiny_config)
    encoded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(e)))) for e in encoded]
    expected = batch["images"][:COUNT][batch["image_mask"][:COUNT]]
    np.testing.assert_array_equal(images, expected)
    assert not re.search(r'(src|href)="(?!data:|#)|https?:|url\(', page)
    assert "default-src 'none'" in page and "script-src" not in page
    for name in objectives.active(tiny_config):
        assert page.count(f"<h3>{name.replace('_', '_<wbr>')}</h3>") == COUNT


def test_a_withheld_image_says_so(prepared, tiny_config):
    tiny_config.data.include_response_image = False
    (group,), page = page_of(prepared, tiny_config)
    assert page.count("withheld: include_response_image is off") == COUNT
    for example in group.examples:
        assert "withheld" in example.slots[example.response_slot].note
        assert example.slots[example.response_slot].turn == -1


def test_each_mixture_shows_its_own_batch(tiny_config):
    mixed = {"objectives": ("text_emotion",), "datasets": {"chitchat_openmoji/tiny": 1.0}}
    tiny_config.data.mixtures = ConfigDict({"talk": mixed})
    prepared = prepare.prepare(tiny_config)
    (main, talk), page = page_of(prepared, tiny_config)
    assert talk.objectives == ["text_emotion"] and "text_emotion" not in main.objectives
    talk_batch = group_of(batch_of(prepared, tiny_config), "talk")
    for row, example in enumerate(talk.examples):
        words = pieces(prepared.tokenizer, talk_batch["response"][row])
        assert shown(example.objectives["text_emotion"], 0) == words
    assert "Mixture talk" in page


@pytest.mark.parametrize("change", [{}, {"include_response_image": False}, {"use_images": False}])
def test_counts_are_those_of_the_batches(prepared, tiny_config, change):
    tiny_config.data.update(change)
    split, special = prepared.split("valid"), prepared.tokenizer.special
    counted = counts.count(split, tiny_config)
    examples = [windows.read(split, i) for i in range(split.num_windows)]
    batch, _ = windows.pack(examples, tiny_config, special)
    spec = BatchSpec.of(tiny_config.data, 1)
    np.testing.assert_array_equal(counted.images, batch["image_mask"].sum(1))
    for name, limit in (("context", spec.context_tokens), ("response", spec.response_tokens)):
        used = (batch[name] != special.pad).sum(1)
        np.testing.assert_array_equal(np.minimum(getattr(counted, name), limit), used)
    padding = 1 - batch["image_mask"].mean()
    room = f"room for {spec.images} images, {padding:.1%} of it padding"
    said = room if batch["image_mask"].any() else "images: no images"
    assert said in counts.describe(prepared, tiny_config)


def test_the_labels_of_a_split_are_counted(prepared, tiny_config):
    split = prepared.split("valid")
    emotions = split.turns.emotion[split.response_turn]
    described = counts.describe(prepared, tiny_config).partition("\nvalid: ")[2]
    of_responses = described.partition("labels of responses")[2].partition("labels of images")[0]
    for number, name in enumerate(EMOTIONS):
        count = int((emotions == number).sum())
        share = count / len(emotions)
        assert (f"{count:,} ({share:.1%})" in of_responses) == (count > 0)
        assert (name in of_responses) == (count > 0)
    assert counts.labels(np.array([-1, 3, 3]))[-1].split() == [
        *("no", "label", "█" * 12, "1", "(33.3%)")
    ]


def test_words_that_had_no_room_are_said(prepared, tiny_config):
    (group,), _ = page_of(prepared, tiny_config)
    windows_cut = [example.cut for example in group.examples]
    tiny_config.data.response_tokens = 3
    (group,), cut = page_of(prepared, tiny_config)
    for example, before in zip(group.examples, windows_cut, strict=True):
        split = prepared.split("train")
        length = len(split.turns.tokens(int(split.response_turn[example.window]))) + 1
        assert example.cut.get("response", 0) == max(0, length - 3)
        assert example.cut.get("context") == before.get("context")
    shortened = sum("response" in example.cut for example in group.examples)
    assert cut.count("response: last") == shortened > 0


def test_a_histogram_counts_everything_once():
    values = np.array([1] * 50 + [2] * 30 + [3] * 19 + [1000])
    lines = counts.histogram(values)
    assert [line.split()[0] for line in lines] == ["1", "2", "3+"]
    assert [line.split()[-1] for line in lines] == ["50.0%", "30.0%", "20.0%"]
    assert len(counts.histogram(np.arange(1000))) <= 8


def test_markup_in_words_and_names_is_inert_and_an_empty_line_says_so(prepared, tiny_config):
    attack = """"><script>alert('▁')</script><img src=x onerror=alert(1)>"""
    (group,) = show.collect(prepared, tiny_config, STEP, 1)
    (example,) = group.examples
    lines = [Line(attack, [Token(attack, 0, "random")]), Line("The judge is given", [])]
    slots = [show_page.Slot("", attack, -1, -1), *example.slots]
    example = dataclasses.replace(
        example, dataset=attack, slots=slots, objectives={"text_emotion": lines}
    )
    tiny_config.name = attack
    group = show_page.Group(attack, [attack], [example])
    page = show_page.render([group], prepared, tiny_config, STEP)
    assert "<script" not in page and "<img src=x" not in page
    assert page.count("&lt;script&gt;alert(") == 9  # twice each: the title, the mixture's name
    assert "&#39;<s>▁</s>&#39;" in page
    assert page.count('<em class="quiet">nothing</em>') == 1


def test_turns_follow_each_other_in_the_order_of_their_tokens():
    tokens = [Token(piece, turn, "") for piece, turn in (("a", 1), ("b", 1), ("c", 0), ("d", 1))]
    assert show_page.runs(tokens) == [(1, tokens[:2]), (0, tokens[2:3]), (1, tokens[3:])]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--out"),
        (["--out=page.html", "--examples=99"], "1 to 16"),
        (["--out=page.html", "--step=-1"], "from 0"),
        (["--out=absent/page.html"], "no folder 'absent'"),
        (["--out=."], "--out=. is not a file"),
        (["--stats", "--config.data.dataset=synthetic"], "synthetic"),
        (["--stats", "--config.data.datset=x"], "data.dataset"),
        (["--stats", "--config.data.preprocessing=none"], "augment, imagenet"),
        (["--stats", "--config.objectives.emotional_response.face_dropout=2"], "face_dropout=2"),
    ],
)
def test_errors_are_one_message_and_exit_code_2(arguments, message, capsys):
    assert show.main(["show", "--config=configs/pretrain.py", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_the_command_writes_the_page(tiny_config, tmp_path, capsys):
    values = types.SimpleNamespace(
        config=tiny_config, out=str(tmp_path / "page.html"), stats=True, step=0, examples=1
    )
    show.run(values)
    printed = capsys.readouterr().out
    assert "training: chitchat_peeps/tiny, split 'train'" in printed and "percentiles" in printed
    assert (tmp_path / "page.html").read_text("utf-8").startswith("<!doctype html>")


def test_the_share_that_is_cut_is_said(prepared, tiny_config):
    split = prepared.split("valid")
    longest = counts.count(split, tiny_config)
    for name, plural in (("context", "contexts"), ("response", "responses")):
        limit = int(np.median(getattr(longest, name)))
        tiny_config.data[f"{name}_tokens"] = limit
        share = (getattr(longest, name) > limit).mean()
        assert 0 < share < 1
        found = lengths.cut_shares(split, tiny_config)
        assert found[plural] == pytest.approx(share) and found[f"{name}_tokens"] == limit
        said = f"{share:.1%} of the {plural} are cut at {limit} tokens"
        assert said in counts.describe(prepared, tiny_config)

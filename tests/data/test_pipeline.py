"""Batches: the contract, the order on any hosts, resuming, augmentation, evaluation."""

import dataclasses
import io
import itertools

import batches_of
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from igerg_jax import batch as batch_lib
from igerg_jax.batch import EMOTION_ID, NEUTRAL, UNKNOWN
from igerg_jax.data import (
    augment,
    config_checks,
    input_graph,
    input_parts,
    lengths,
    mixtures,
    pipeline,
    prepare,
    store,
    windows,
)
from igerg_jax.data.images import imagenet_crop
from igerg_jax.errors import UserError

PIXELS = {"images"}


@pytest.fixture
def prepared(tiny_config):
    return prepare.prepare(tiny_config)


def rows_of(config, host=0, hosts=1):
    """A host's rows of a batch, if hosts held them one after another."""
    return batches_of.host_rows(config.train.batch_size, host, hosts)


def take(prepared, config, steps, start=0, host=0, hosts=1):
    batches = pipeline.train_batches(prepared, config, start, rows_of(config, host, hosts))
    return list(itertools.islice(batches, steps))


def example_ids(prepared, config, step, rows_b):
    """(windows, positions) of a step where there is one dataset."""
    stream = mixtures.streams(prepared, config)[mixtures.MAIN]
    sources, ids, positions = pipeline.example_ids(stream, config, step, rows_b)
    assert not sources.any()
    return ids, positions


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_batches_obey_the_contract(prepared, tiny_config):
    spec = batch_lib.BatchSpec.of(tiny_config.data, tiny_config.train.batch_size)
    for batch in take(prepared, tiny_config, 3):
        batch_lib.check(batch, spec)


def test_the_rows_are_the_windows_that_the_order_names(prepared, tiny_config):
    split, special = prepared.split("train"), prepared.tokenizer.special
    for step, batch in enumerate(take(prepared, tiny_config, 3)):
        ids, _ = example_ids(prepared, tiny_config, step, rows_of(tiny_config))
        for row, i in enumerate(ids):
            window = split.window(int(i))
            shown = [*window.turn_emotions, window.response_emotion]
            mask = batch["image_mask"][row]
            assert mask.sum() == len(shown)
            assert batch["image_emotion"][row, mask].tolist() == shown
            assert batch["image_turn"][row, mask].tolist() == list(range(len(shown)))
            assert batch["response_emotion"][row] == window.response_emotion
            ids_T = batch["response"][row]
            words = prepared.tokenizer.encode(window.response_text)
            end = min(len(words), len(ids_T) - 1)
            assert ids_T.tolist() == [
                *words[:end], special.eos, *[special.pad] * (len(ids_T) - end - 1)
            ]  # fmt: skip


def test_context_ends_every_turn_with_eos_and_loses_its_oldest_tokens(prepared, tiny_config):
    special = prepared.tokenizer.special
    cut = 0
    for batch in take(prepared, tiny_config, 4):
        for row in range(len(batch["context"])):
            ids, turns = batch["context"][row], batch["context_turn"][row]
            used = int((ids != special.pad).sum())
            assert (ids[used:] == special.pad).all() and (turns[used:] == 0).all()
            assert ids[used - 1] == special.eos
            steps = np.diff(turns[:used])
            assert (ids[: used - 1][steps == 1] == special.eos).all()
            assert set(steps) <= {0, 1}
            # The last word's turn is the one before the response's, which the last image shows.
            assert turns[used - 1] == batch["image_mask"][row].sum() - 2
            cut += turns[0] > 0
    assert cut > 0  # some row was long enough to lose a whole turn


def test_reversed_context_and_response_change_places(prepared, tiny_config):
    """So a backward model learns to write the very tokens that the other one reads."""
    data = tiny_config.data
    data.use_images = False
    plain = take(prepared, tiny_config, 2)
    lengths_of = lengths.cut_shares(prepared.split("train"), tiny_config)
    data.reverse = True
    data.context_tokens, data.response_tokens = data.response_tokens, data.context_tokens
    for there, back in zip(plain, take(prepared, tiny_config, 2), strict=True):
        assert_equal(
            back,
            there
            | {"context": there["response"], "response": there["context"]}
            | {"context_turn": np.zeros_like(there["response"])},
        )
    cut = lengths.cut_shares(prepared.split("train"), tiny_config)
    assert cut["contexts"] == lengths_of["responses"] and cut["responses"] == lengths_of["contexts"]
    data.use_images = True
    with pytest.raises(UserError, match=r"data\.use_images=False"):
        config_checks.check(data)


def test_join_context_by_hand():
    turns = [np.array([11, 12]), np.array([13]), np.array([], np.int32)]
    ids, slots = windows.join_context(turns, 10, eos=2)
    assert ids.tolist() == [11, 12, 2, 13, 2, 2]
    assert slots.tolist() == [0, 0, 0, 1, 1, 2]
    ids, slots = windows.join_context(turns, 4, eos=2)
    assert ids.tolist() == [2, 13, 2, 2]
    assert slots.tolist() == [0, 1, 1, 2]


def test_the_global_batch_is_the_same_on_any_number_of_hosts(prepared, tiny_config):
    whole = take(prepared, tiny_config, 3)
    for hosts in (2, 4):
        parts = [take(prepared, tiny_config, 3, host=h, hosts=hosts) for h in range(hosts)]
        for step, batch in enumerate(whole):
            joined = {n: np.concatenate([p[step][n] for p in parts]) for n in batch}
            assert_equal(batch, joined)


def test_ids_of_many_steps_agree_over_hosts_and_a_restart(prepared, tiny_config):
    total = prepared.split("train").num_windows

    def ids(steps, hosts):
        rows = [rows_of(tiny_config, h, hosts) for h in range(hosts)]
        return [
            np.concatenate([example_ids(prepared, tiny_config, s, r)[0] for r in rows])
            for s in steps
        ]

    uninterrupted = ids(range(200), 1)  # more than an epoch: 1,600 of about 1,150 windows
    resumed = ids(range(90), 4) + ids(range(90, 150), 2) + ids(range(150, 200), 1)
    np.testing.assert_array_equal(uninterrupted, resumed)
    assert sorted(np.concatenate(uninterrupted)[:total]) == list(range(total))


def test_resuming_gives_the_uninterrupted_batches_bit_by_bit(prepared, tiny_config):
    uninterrupted = take(prepared, tiny_config, 6)
    for batch, again in zip(
        uninterrupted[4:], take(prepared, tiny_config, 2, start=4), strict=True
    ):
        assert_equal(batch, again)


def test_threads_do_not_change_the_batches(prepared, tiny_config):
    one = take(prepared, tiny_config, 4)
    tiny_config.data.update(read_threads=1, prefetch_batches=1)
    for batch, other in zip(one, take(prepared, tiny_config, 4), strict=True):
        assert_equal(batch, other)


def test_an_example_looks_different_in_the_next_epoch(prepared, tiny_config):
    total = prepared.split("train").num_windows
    tiny_config.train.batch_size = 64
    steps = range(total // 64 + 2)
    first = {}
    for step in steps:
        ids, positions = example_ids(prepared, tiny_config, step, rows_of(tiny_config))
        for row, (i, position) in enumerate(zip(ids, positions, strict=True)):
            if position < total:
                first[int(i)] = (step, row)
            elif first[int(i)][0] == 0:
                twice = first[int(i)], (step, row)
    (step_1, row_1), (step_2, row_2) = twice
    (one,), (two,) = (take(prepared, tiny_config, 1, start=s) for s in (step_1, step_2))
    for name in one.keys() - PIXELS:
        np.testing.assert_array_equal(one[name][row_1], two[name][row_2])
    shown = one["image_mask"][row_1]
    pairs = zip(one["images"][row_1][shown], two["images"][row_2][shown], strict=True)
    assert all((a != b).any() for a, b in pairs)


def test_pixels_without_augmentation_are_those_of_the_stored_image(prepared, tiny_config):
    tiny_config.data.augment.update(crop_min_area=1.0, flip=False, colour_jitter=0.0)
    split = prepared.split("train")
    (batch,) = take(prepared, tiny_config, 1)
    ids, _ = example_ids(prepared, tiny_config, 0, rows_of(tiny_config))
    side = tiny_config.data.image_size
    for row, i in enumerate(ids):
        window = split.window(int(i))
        for slot, jpeg in enumerate([*window.turn_images, window.response_image]):
            image = Image.open(io.BytesIO(jpeg))
            image.draft("RGB", (36, 36))  # the decoder's own halving
            expected = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), int)
            assert np.abs(batch["images"][row, slot] - expected).mean() < 4


@pytest.mark.parametrize(("width", "height"), [(300, 200), (61, 90), (32, 32)])
def test_imagenet_preprocessing_is_resize_256_and_centre_crop_224(width, height):
    """torchvision's Resize(256), CenterCrop(224) at a seventh of the size, in Pillow's words."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    image = Image.open(io.BytesIO(out.getvalue()))
    scale = 37 / min(width, height)  # 37 : 32 as 256 : 224
    image = image.resize((int(width * scale + 1e-9), int(height * scale + 1e-9)), Image.BILINEAR)
    left, top = round((image.width - 32) / 2), round((image.height - 32) / 2)
    expected = np.asarray(image)[top : top + 32, left : left + 32]
    np.testing.assert_array_equal(imagenet_crop(out.getvalue(), 32), expected)


def test_imagenet_preprocessing_is_what_training_and_evaluation_see(prepared, tiny_config):
    tiny_config.data.preprocessing = "imagenet"
    split = prepared.split("train")
    batch = take(prepared, tiny_config, 1)[0]
    ids, _ = example_ids(prepared, tiny_config, 0, rows_of(tiny_config))
    rows_b = np.arange(tiny_config.evaluate.batch_size)
    evaluated, _ = next(pipeline.window_batches(prepared, "train", ids, tiny_config, rows_b))
    np.testing.assert_array_equal(batch["images"], evaluated["images"])
    _, images_BxN = windows.pack(
        [windows.read(split, int(i)) for i in ids], tiny_config, prepared.tokenizer.special
    )
    row, slot = np.argwhere(images_BxN != store.NO_IMAGE)[0]
    jpeg = split.turns.read_images(images_BxN[row, slot][None])[0]
    expected = imagenet_crop(jpeg, tiny_config.data.image_size)
    np.testing.assert_array_equal(batch["images"][row, slot], expected)


def test_masked_slots_are_empty(prepared, tiny_config):
    (batch,) = take(prepared, tiny_config, 1)
    hidden = ~batch["image_mask"]
    assert hidden.any()
    assert not batch["images"][hidden].any()
    assert (batch["image_emotion"][hidden] == UNKNOWN).all()
    assert (batch["image_turn"][hidden] == 0).all()
    assert batch["images"][batch["image_mask"]].any(axis=(1, 2, 3)).all()


def test_the_response_image_can_be_withheld(prepared, tiny_config):
    (whole,) = take(prepared, tiny_config, 1)
    tiny_config.data.include_response_image = False
    (withheld,) = take(prepared, tiny_config, 1)
    rows = np.arange(len(whole["image_mask"]))
    last = whole["image_mask"].sum(axis=1) - 1
    expected = whole["image_mask"].copy()
    expected[rows, last] = False
    np.testing.assert_array_equal(withheld["image_mask"], expected)
    for name in ("images", "image_emotion", "image_turn"):
        np.testing.assert_array_equal(withheld[name][expected], whole[name][expected])
    for name in ("context", "context_turn", "response", "response_emotion"):
        np.testing.assert_array_equal(withheld[name], whole[name])


def test_without_images_the_words_stay(prepared, tiny_config):
    (whole,) = take(prepared, tiny_config, 1)
    tiny_config.data.use_images = False
    (words,) = take(prepared, tiny_config, 1)
    assert not words["image_mask"].any() and not words["images"].any()
    assert (words["sequence_emotion"] == UNKNOWN).all()
    for name in ("context", "context_turn", "response", "response_emotion"):
        np.testing.assert_array_equal(words[name], whole[name])


@pytest.mark.parametrize(
    "seen, expected",
    [
        ("joy neutral joy fear", "joy"),
        ("neutral neutral neutral fear", "fear"),
        ("joy fear fear joy", "joy"),  # the latest wins a tie
        ("anger joy neutral", "joy"),
        ("neutral neutral", "neutral"),
    ],
)
def test_sequence_emotion(seen, expected):
    ids = np.array([EMOTION_ID[name] for name in seen.split()] + [UNKNOWN])
    assert windows.sequence_emotion(ids) == EMOTION_ID[expected]
    assert windows.sequence_emotion(ids[-1:]) == UNKNOWN
    assert windows.sequence_emotion(np.array([UNKNOWN, NEUTRAL])) == NEUTRAL


def test_evaluation_is_the_split_in_order_and_padding_adds_nothing(prepared, tiny_config):
    split, special = prepared.split("valid"), prepared.tokenizer.special
    tiny_config.evaluate.update(batch_size=8, examples=19)
    found = list(batches_of.first_windows(prepared, "valid", tiny_config, rows_of(tiny_config)))
    assert [real for _, real in found] == [8, 8, 3]
    for number, (batch, real) in enumerate(found):
        batch_lib.check(batch, batch_lib.BatchSpec.of(tiny_config.data, 8))
        for row in range(real):
            window = split.window(8 * number + row)
            words = prepared.tokenizer.encode(window.response_text)[:15]
            assert batch["response"][row, : len(words)].tolist() == words
        for name in ("context", "response"):
            assert (batch[name][real:] == special.pad).all()
        for name in ("image_emotion", "sequence_emotion", "response_emotion"):
            assert (batch[name][real:] == UNKNOWN).all()
        assert not batch["image_mask"][real:].any()
    again = list(batches_of.first_windows(prepared, "valid", tiny_config, rows_of(tiny_config)))
    for (one, _), (other, _) in zip(found, again, strict=True):
        assert_equal(one, other)


def test_evaluation_on_several_hosts_is_the_same_and_as_long(prepared, tiny_config):
    tiny_config.evaluate.update(batch_size=8, examples=19)
    whole = list(batches_of.first_windows(prepared, "valid", tiny_config, rows_of(tiny_config)))
    parts = [
        list(batches_of.first_windows(prepared, "valid", tiny_config, rows_of(tiny_config, h, 4)))
        for h in range(4)
    ]
    assert {len(part) for part in parts} == {3}
    for step, (batch, real) in enumerate(whole):
        joined = {n: np.concatenate([part[step][0][n] for part in parts]) for n in batch}
        assert_equal(batch, joined)
        assert sum(part[step][1] for part in parts) == real
    tiny_config.evaluate.examples = 0
    everything = batches_of.first_windows(prepared, "valid", tiny_config, rows_of(tiny_config))
    assert sum(real for _, real in everything) == prepared.split("valid").num_windows


def test_any_windows_can_be_asked_for_in_any_order(prepared, tiny_config):
    split, ids = prepared.split("valid"), np.array([40, 3, 3, 17, 0, 2, 1, 5, 30])
    found = list(pipeline.window_batches(prepared, "valid", ids, tiny_config, rows_of(tiny_config)))
    assert [real for _, real in found] == [8, 1]
    responses = np.concatenate([batch["response"][:real] for batch, real in found])
    for i, tokens in zip(ids, responses, strict=True):
        words = prepared.tokenizer.encode(split.window(int(i)).response_text)[:15]
        assert tokens[: len(words)].tolist() == words


def test_a_typed_conversation_is_packed_like_a_stored_one(prepared, tiny_config, tmp_path):
    split = prepared.split("valid")
    (stored, _), *_ = batches_of.first_windows(prepared, "valid", tiny_config, rows_of(tiny_config))
    for row in range(4):
        window = split.window(row)
        files = []
        for slot, jpeg in enumerate([*window.turn_images, window.response_image]):
            files.append(tmp_path / f"{row}-{slot}.jpg")
            files[-1].write_bytes(jpeg)
        turns = list(zip(window.turn_texts, files[:-1], strict=True))
        typed = pipeline.single_example(prepared.tokenizer, tiny_config, turns, files[-1])
        batch_lib.check(typed, batch_lib.BatchSpec.of(tiny_config.data, 1))
        for name in ("images", "image_mask", "image_turn", "context", "context_turn"):
            np.testing.assert_array_equal(typed[name][0], stored[name][row], err_msg=name)
        assert not typed["response"].any() and (typed["image_emotion"] == UNKNOWN).all()


def test_a_typed_conversation_may_lack_images_and_be_long(prepared, tiny_config, tmp_path):
    Image.new("RGBA", (50, 200), (255, 0, 0, 255)).save(tmp_path / "red.png")
    turns = [("one", None), ("two", None), ("three", tmp_path / "red.png"), ("four", None)]
    batch = pipeline.single_example(prepared.tokenizer, tiny_config, turns, None)
    assert batch["image_mask"].tolist() == [[False, True, False, False]]  # "one" is cut off
    np.testing.assert_allclose(batch["images"][0, 1].mean(axis=(0, 1)), [254, 0, 0], atol=3)
    words = batch["context"][0][batch["context"][0] != prepared.tokenizer.special.pad]
    assert prepared.tokenizer.decode(words).replace(" ", "") == "twothreefour"


def test_typed_words_are_repaired_like_stored_ones(prepared, tiny_config):
    def typed(text):
        return pipeline.single_example(prepared.tokenizer, tiny_config, [(text, None)], None)

    assert_equal(typed("don\x92t \x93go\x94\x85"), typed("don’t “go”…"))


def test_errors_name_the_thing(prepared, tiny_config, tmp_path):
    single = pipeline.single_example
    for turns in ([], [("hi", None), ("  ", None)]):
        with pytest.raises(UserError, match="the context is empty"):
            single(prepared.tokenizer, tiny_config, turns, None)
    with pytest.raises(UserError, match=r"absent\.jpg' does not exist"):
        single(prepared.tokenizer, tiny_config, [("hi", tmp_path / "absent.jpg")], None)
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(prepared.split("valid").window(0).response_image[:900])
    for name in ("text.jpg", "cut.jpg"):
        with pytest.raises(UserError, match=f"cannot read image '.*{name}'"):
            single(prepared.tokenizer, tiny_config, [("hi", None)], tmp_path / name)
    with pytest.raises(UserError, match="no split 'dev'"):
        batches_of.first_windows(prepared, "dev", tiny_config, rows_of(tiny_config))


def test_an_image_shown_by_no_slot_is_never_read(prepared, tiny_config, monkeypatch):
    """Text-only training costs no image reads."""
    asked = []
    read = store.TurnStore.read_images

    def spy(self, records):
        asked.extend(records)
        return read(self, records)

    monkeypatch.setattr(store.TurnStore, "read_images", spy)
    tiny_config.data.use_images = False
    take(prepared, tiny_config, 2)
    assert asked == []


def test_pixels_are_what_the_recipe_says(tiny_config):
    """Colours are colour @ RGB + offset, mirrored where flip; slots without an image are zero."""
    rng = np.random.default_rng(0)
    soft = Image.fromarray(rng.integers(60, 190, (4, 4, 3), np.uint8)).resize((32, 32))
    out = io.BytesIO()
    soft.save(out, "JPEG", quality=95)
    spec = batch_lib.BatchSpec.of(tiny_config.data, 2)
    spec = dataclasses.replace(spec, images=2)
    whole = np.array([[0, 0, 32, 32]] * 3, np.int32)
    plain = augment.plain_recipe(np.array([[32, 32]] * 3), spec.image_size)
    colour = np.float32([[0.5, 0.2, 0.1], [0.0, 1.1, 0.0], [0.3, 0.0, 0.6]])
    recipe = dataclasses.replace(
        plain,
        flip=np.array([False, True, False]),
        colour=np.stack([*plain.colour[:2], colour]),
        offset=np.float32([0, 0, 20]),
        erase=np.int32([[3, 5, 8, 16], [0, 0, 0, 0], [0, 0, 0, 0]]),
    )
    np.testing.assert_array_equal(plain.crop, whole)
    jpegs = np.array([out.getvalue()] * 3, object)
    parts = input_parts.parts(jpegs, recipe, np.array([[True, False], [True, True]]))
    made = (
        input_graph.images(spec, input_parts.AUGMENT, *map(tf.constant, parts))
        .numpy()
        .reshape(4, 32, 32, 3)
    )
    expected = np.asarray(Image.open(io.BytesIO(out.getvalue())), np.float64)
    erased = np.zeros((32, 32), bool)
    erased[3:11, 5:21] = True
    assert (made[0][erased] == 127).all()
    kept = ~erased
    assert np.abs(made[0] - expected)[kept].mean() < 2  # the decoders' cosine transforms differ
    upright = made[2][:, ::-1]
    np.testing.assert_array_equal(upright[kept], made[0][kept])
    coloured = np.clip(upright @ colour.T.astype(np.float64) + 20, 0, 255)
    assert np.abs(made[3] - coloured).max() <= 1
    assert not made[1].any()

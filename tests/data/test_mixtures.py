"""Mixtures: exact shares, any step at once, and datasets that lack what an objective needs."""

import itertools
import types

import batches_of
import numpy as np
import pytest
import raw_data
from ml_collections import ConfigDict

from igerg_jax import batch as batch_lib
from igerg_jax import checks
from igerg_jax.batch import UNKNOWN
from igerg_jax.data import emotion_balance, mixtures, order, patterns, pipeline, prepare
from igerg_jax.errors import UserError
from igerg_jax.evaluation import trained_run
from igerg_jax.tools.show import counts


@pytest.mark.parametrize(
    "weights, length",
    [((1,), 1), ((1, 1), 2), ((3, 1), 4), ((0.5, 0.3, 0.2), 10), ((2.5, 0.5, 1, 1), 10)],
)
def test_a_pattern_holds_its_shares_everywhere(weights, length):
    found = patterns.pattern(weights)
    assert len(found) == length
    share = np.array(weights) / sum(weights)
    np.testing.assert_allclose(np.bincount(found, minlength=len(share)), share * length)
    endless = np.tile(found, 100)
    for start, size in itertools.product(range(length), (1, 7, 64, 3 * length)):
        counts = np.bincount(endless[start : start + size], minlength=len(share))
        assert np.abs(counts - size * share).max() < 2


class Numbered:
    """All that a stream asks of a split."""

    def __init__(self, num_windows):
        self.num_windows = num_windows


def random_mixtures():
    rng = np.random.default_rng(0)
    yield (1,) * 6 + (2,) * 5 + (3,) * 12 + (23, 160, 194, 195)  # the greedy choice fails here
    for _ in range(12):
        yield rng.integers(1, 60, rng.integers(2, 9)).tolist()
        yield np.concatenate([rng.integers(1, 4, 12), rng.integers(50, 200, 3)]).tolist()


@pytest.mark.parametrize(
    "weights", list(random_mixtures()), ids=lambda w: "-".join(map(str, w))[:40]
)
def test_any_window_of_the_order_holds_exact_proportions(weights):
    """Whatever its start and length, and exactly where it is as long as the pattern."""
    splits = [Numbered(7 * w + 5) for w in weights]
    orders = [emotion_balance.order_of(split, seed, 0.0) for seed, split in enumerate(splits)]
    stream = mixtures.Stream(splits, orders, patterns.pattern(weights))
    length, share = len(stream.pattern), np.array(weights) / sum(weights)
    start = 3 * length + 12_345
    source, ids = stream.at(start + np.arange(3 * length))
    taken = np.cumsum(source[:, None] == np.arange(len(weights)), axis=0)
    lead = np.pad(taken - np.arange(1, 3 * length + 1)[:, None] * share, ((1, 0), (0, 0)))
    # The counts of every window there is are differences of two rows.
    assert (lead.max(axis=0) - lead.min(axis=0)).max() < 2
    np.testing.assert_allclose(lead[length:], lead[:-length], atol=1e-9)
    fair = 1 - 1 / (2 * len(weights) - 2)
    early = stream.at(np.arange(length))[0][:, None] == np.arange(len(weights))
    lag = np.cumsum(early, axis=0) - np.arange(1, length + 1)[:, None] * share
    assert np.abs(lag).max() <= fair + 1e-9
    for s, split in enumerate(splits):
        assert ids[source == s].max(initial=0) < split.num_windows


@pytest.mark.parametrize(
    "weights",
    [(), (1, 0), (1, -2), (1, float("nan")), (1, "2"), (1, 1e-7), (1e-7, 1e-7), (1, 9999.7)],
)
def test_weights_that_make_no_pattern(weights):
    with pytest.raises(ValueError, match=r"positive|at least|needs [1-9]"):
        patterns.pattern(weights)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Made once, so that what is prepared of it is too."""
    folder = tmp_path_factory.mktemp("raw")
    return raw_data.fer_zip(raw_data.meld(folder, dialogues=40), raw_data.fer_names(8))


@pytest.fixture
def mixed(tiny_config, raw):
    """chitchat for most objectives, faces for two, and two sources of words for one."""
    tiny_config.data.manual_dir = str(raw)
    tiny_config.data.mixtures = ConfigDict(
        {
            "faces": {
                "objectives": ("image_emotion", "sequence_emotion"),
                "datasets": {"fer2013": 1.0},
            },
            "felt": {
                "objectives": ("text_emotion",),
                "datasets": {"meld": 3.0, "chitchat_openmoji/tiny": 1.0},
            },
        }
    )
    return tiny_config


def take(prepared, config, steps, start=0, host=0, hosts=1):
    rows_b = batches_of.host_rows(config.train.batch_size, host, hosts)
    batches = pipeline.train_batches(prepared, config, start, rows_b)
    return list(itertools.islice(batches, steps))


def test_each_objective_gets_its_mixture(mixed):
    prepared = prepare.prepare(mixed)
    mixtures.check(prepared, mixed)
    digests = {opened.tokenizer.digest for opened in prepared.datasets.values()}
    assert len(digests) == 1
    spec = batch_lib.BatchSpec.of(mixed.data, mixed.train.batch_size)
    streams = mixtures.streams(prepared, mixed)
    assert list(streams) == ["", "faces", "felt"]
    for step, batch in enumerate(take(prepared, mixed, 4)):
        batch_lib.check(batch, spec)
        faces, felt = (batch_lib.group_of(batch, g) for g in ("faces", "felt"))
        # A face without words, which a response's or context's loss would otherwise count.
        assert not faces["context"].any() and not faces["response"].any()
        np.testing.assert_array_equal(faces["image_mask"].sum(axis=1), 1)
        assert faces["images"][faces["image_mask"]].any(axis=(1, 2, 3)).all()
        np.testing.assert_array_equal(faces["image_emotion"][:, 0], faces["sequence_emotion"])
        assert batch["image_mask"].sum() > 8
        source, ids, _ = pipeline.example_ids(streams["felt"], mixed, step, np.arange(8))
        of_meld = streams["felt"].splits.index(prepared.datasets["meld"].split("train"))
        assert (source == of_meld).sum() == 6  # 3 : 1 of 8
        for row in range(8):
            split = streams["felt"].splits[source[row]]
            assert felt["response_emotion"][row] == split.window(int(ids[row])).response_emotion


def test_every_dataset_of_a_mixture_is_named(mixed):
    main = mixed.data.dataset
    mixed.data.mixtures.faces.datasets[main] = 1.0  # used twice, and counted once
    prepared = prepare.prepare(mixed)
    windows = {name: each.split("train").num_windows for name, each in prepared.datasets.items()}
    said, counted = prepared.describe(mixed), counts.describe(prepared, mixed)
    assert f"{main}, {windows[main]:,} training windows" in said
    assert f"; fer2013, {windows['fer2013']}" in said and f"; meld, {windows['meld']}" in said
    assert f"training, mixture faces: fer2013, split 'train', {windows['fer2013']} turns" in counted
    assert f"training, mixture faces: {main}, split 'train': as above" in counted
    of_faces = counted.partition("fer2013, split")[2].partition("split")[0]
    assert "context: no tokens" in of_faces and "labels of images" in of_faces


def test_a_mixture_is_the_same_on_any_hosts_and_from_any_step(mixed):
    prepared = prepare.prepare(mixed)
    whole = take(prepared, mixed, 4)
    for hosts, start in ((2, 1), (1, 2)):  # tests/data/test_resume.py has more of them
        parts = [take(prepared, mixed, 2, start, h, hosts) for h in range(hosts)]
        for step in range(2):
            for name, array in whole[start + step].items():
                joined = np.concatenate([part[step][name] for part in parts])
                np.testing.assert_array_equal(array, joined, err_msg=name)


def test_every_window_of_a_dataset_is_shown_once_an_epoch(mixed):
    prepared = prepare.prepare(mixed)
    stream = mixtures.streams(prepared, mixed)["felt"]
    sizes = [split.num_windows for split in stream.splits]
    source, ids = stream.at(np.arange(4 * sizes[0]))
    for s, size in enumerate(sizes):
        assert sorted(ids[source == s][:size]) == list(range(size))
    later = np.arange(10**12, 10**12 + 50)
    one_by_one = [np.concatenate(stream.at(later[i : i + 1])) for i in range(50)]
    np.testing.assert_array_equal(np.stack(stream.at(later)), np.stack(one_by_one, axis=1))


class Labelled(Numbered):
    """A split with emotions."""

    def __init__(self, emotions):
        super().__init__(len(emotions))
        self.turns = types.SimpleNamespace(emotion=np.array(emotions))
        self.response_turn = np.arange(len(emotions))


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_balanced_emotions_have_their_shares_and_lose_no_window(balance):
    """Whatever the start; labelled windows alone are balanced, and each is shown in its turn."""
    emotions = np.repeat([6, 3, 2, UNKNOWN], [600, 300, 60, 40])
    emotions = np.random.default_rng(0).permutation(emotions)
    order_of_places = emotion_balance.order_of(Labelled(emotions), 5, balance)
    ids = order_of_places(np.arange(20_000))
    found = {e: (emotions[ids[3_000:8_000]] == e).mean() for e in (6, 3, 2, UNKNOWN)}
    powers = {e: c ** (1 - balance) for e, c in ((6, 600), (3, 300), (2, 60))}
    for emotion, power in powers.items():
        assert abs(found[emotion] - 0.96 * power / sum(powers.values())) < 2e-3
    assert abs(found[UNKNOWN] - 0.04) < 2e-3
    for emotion in (6, 3, 2, UNKNOWN):
        windows = np.flatnonzero(emotions == emotion)
        shown = ids[emotions[ids] == emotion]
        epochs = shown[: len(shown) // len(windows) * len(windows)].reshape(-1, len(windows))
        assert len(epochs) >= 10 and (np.sort(epochs, axis=1) == windows).all()
        assert (epochs[0] != epochs[1]).any()
    later = np.arange(10**12, 10**12 + 50)
    one_by_one = np.concatenate([order_of_places(later[i : i + 1]) for i in range(50)])
    np.testing.assert_array_equal(order_of_places(later), one_by_one)


def test_emotions_are_balanced_in_training_batches(mixed):
    prepared = prepare.prepare(mixed)
    rows_b = np.arange(mixed.train.batch_size)

    def drawn(balance):
        mixed.data.balance_emotions = balance
        stream = mixtures.streams(prepared, mixed)["felt"]
        split = prepared.datasets["meld"].split("train")
        at = stream.splits.index(split)
        pairs = [pipeline.example_ids(stream, mixed, step, rows_b)[:2] for step in range(100)]
        ids = np.concatenate([ids_b[source_b == at] for source_b, ids_b in pairs])
        return np.bincount(split.turns.emotion[split.response_turn[ids]], minlength=7)

    natural, even = drawn(0.0), drawn(1.0)
    assert np.ptp(even[even > 0]) <= 2 < np.ptp(natural[even > 0])


def test_without_a_context_there_is_nothing_to_respond_to(mixed):
    mixed.data.context_turns = 0
    with pytest.raises(UserError, match=r"context_turns=0 leaves .*'emotional_response' no turn"):
        mixtures.check_start(mixed)
    for name, objective in mixed.objectives.items():
        objective.weight = float(name == "image_emotion")
    mixtures.check_start(mixed)
    mixed.data.dataset = "fer2013"
    mixed.data.tokenizer.mixture = "felt"  # faces have no words
    for batch in take(prepare.prepare(mixed), mixed, 2):
        assert batch["images"].shape[1] == 1 and batch["image_mask"].all()


def test_a_mixture_without_objectives_serves_the_rest(mixed):
    mixed.data.mixtures["rest"] = ConfigDict(
        {"objectives": (), "datasets": {"meld": 1.0, "chitchat_openmoji/tiny": 1.0}}
    )
    prepared = prepare.prepare(mixed)
    stream = mixtures.streams(prepared, mixed)[mixtures.MAIN]
    assert len(stream.splits) == 2
    with pytest.raises(UserError, match=r"' needs images.*'meld' has none"):
        mixtures.check(prepared, mixed)


def test_a_dataset_that_lacks_what_an_objective_needs(mixed):
    prepared = prepare.prepare(mixed)
    for objective, dataset, lacking in (
        ("emotional_response", "fer2013", "words"),
        ("image_emotion", "meld", "images"),
        ("image_text_contrastive", "fer2013", "words"),
    ):
        config = mixed.copy_and_resolve_references()
        del config.data.mixtures.felt, config.data.mixtures.faces
        config.data.mixtures.mine = ConfigDict(
            {"objectives": (objective,), "datasets": {dataset: 1.0}}
        )
        with pytest.raises(UserError, match=f"'{objective}' needs {lacking}.*'{dataset}' has none"):
            mixtures.check(prepared, config)
        config.objectives[objective].weight = 0.0
        mixtures.check(prepared, config)


def test_what_can_be_told_before_preparing_is(tiny_config):
    """No file of MELD is anywhere, and none is looked for."""
    mixtures.check_start(tiny_config)
    mine = {"objectives": ("image_emotion",), "datasets": {"meld": 1.0}}
    tiny_config.data.mixtures = ConfigDict({"mine": mine})
    with pytest.raises(UserError, match=r"'image_emotion' needs images.*'meld' has none"):
        mixtures.check_start(tiny_config)
    for having in ("meld/frames", "paired/meld+fer2013", "openvidial/v1_features"):
        tiny_config.data.mixtures.mine.datasets = ConfigDict({having: 1.0})
        mixtures.check_start(tiny_config)
    tiny_config.data.mixtures.mine.datasets = ConfigDict({"melt": 1.0})
    with pytest.raises(UserError, match="unknown dataset 'melt'"):
        mixtures.check_start(tiny_config)


@pytest.mark.parametrize("key", ["eval_split", "test_split"])
def test_a_split_that_will_be_evaluated_is_missed_at_the_start(tiny_config, key):
    prepared = prepare.prepare(tiny_config)
    tiny_config.data[key] = "dev"
    with pytest.raises(UserError, match=rf"no split 'dev' \(config\.data\.{key}\)"):
        mixtures.check(prepared, tiny_config)


def test_a_missing_extra_test_split_is_refused_before_training(tiny_config):
    prepared = prepare.prepare(tiny_config)
    tiny_config.data.extra_test_splits = ("test_style", "dev")
    expected = r"no split 'dev' \(config\.data\.extra_test_splits\).*train, valid, test, test_style"
    with pytest.raises(UserError, match=expected):
        checks.check_data(prepared, tiny_config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(train_split="dev"), r"no split 'dev' \(config\.data\.train_split\)"),
        (dict(test_split="dev"), r"no split 'dev' \(config\.data\.test_split\)"),
        (dict(extra_test_splits=("dev",)), r"no split 'dev' \(config\.data\.extra_test_splits\)"),
        (dict(test_split="test_style", extra_test_splits=("test",)), "names 'test', under which"),
    ],
)
def test_evaluation_refuses_splits_before_a_checkpoint_is_read(
    tiny_config, monkeypatch, changes, message
):
    tiny_config.data.update(changes)
    monkeypatch.setattr(trained_run.checkpoint, "find", lambda path: path)
    monkeypatch.setattr(trained_run.checkpoint, "read_run", lambda folder: {})
    monkeypatch.setattr(trained_run, "set_up", lambda *_: pytest.fail("a model was set up"))
    with pytest.raises(UserError, match=message):
        trained_run.open_run("run", tiny_config, mixtures.SPLIT_KEYS)


@pytest.mark.parametrize("of_mixture", [False, True])
def test_data_of_another_width_are_refused_before_anything_compiles(mixed, of_mixture):
    """The main dataset's, and those of a mixture that alone is trained on."""
    prepared = prepare.prepare(mixed)
    checks.check_data(prepared, mixed)
    if of_mixture:
        turns = prepared.datasets["fer2013"].split("train").turns
        turns.feature_dim = 16
        message = r"set config\.data\.feature_dim=16"
    else:
        mixed.data.feature_dim = 16
        message = r"feature_dim=16, but split 'train' .* images, not precomputed features"
    with pytest.raises(UserError, match=message):
        checks.check_data(prepared, mixed)


def test_a_split_without_an_example_is_refused(tiny_config):
    prepared = prepare.prepare(tiny_config)
    empty = types.SimpleNamespace(num_windows=0)
    real = prepared.split
    prepared.split = lambda name: empty if name == "test" else real(name)
    with pytest.raises(UserError, match="'test' of 'chitchat_peeps/tiny' has no response turns"):
        checks.check_evaluation_data(prepared, tiny_config)
    checks.check_evaluation_data(prepared, tiny_config, ["eval_split"])


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"a": {"objectives": ("image_emotions",), "datasets": {"meld": 1}}},
            "is not an objective",
        ),
        ({"a": {"objectives": (), "datasets": {}}}, "needs 'objectives' and 'datasets'"),
        ({"a": {"datasets": {"meld": 1}}}, "needs 'objectives' and 'datasets'"),
        (
            {n: {"objectives": ("text_emotion",), "datasets": {"meld": 1}} for n in "ab"},
            "both 'a' and 'b' serve objective 'text_emotion'",
        ),
        (
            {n: {"objectives": (), "datasets": {"meld": 1}} for n in "ab"},
            "both 'a' and 'b' serve those that no mixture names",
        ),
        ({"a": {"objectives": (), "datasets": {"meld": -1}}}, "mixtures.a: weights must be posit"),
    ],
)
def test_mixtures_that_contradict_themselves(tiny_config, changes, message):
    tiny_config.data.mixtures = ConfigDict(changes)
    with pytest.raises(UserError, match=message):
        mixtures.check_names(tiny_config)


def test_a_tokenizer_is_trained_on_the_mixture_that_is_named(mixed):
    def digest(name, **changes):
        config = mixed.copy_and_resolve_references()
        config.data.tokenizer.update(mixture=name, **changes)
        return prepare.prepare(config).tokenizer.digest

    digests = [digest(""), digest("felt"), digest("all", model_type="bpe")]
    assert len(set(digests)) == 3
    with pytest.raises(UserError, match=r"mixture 'talk' is not a mixture; available: faces, felt"):
        digest("talk")


def test_order_is_independent_between_datasets(mixed):
    """Two mixtures of one dataset do not show it in the same order."""
    mixed.data.mixtures["more"] = ConfigDict(
        {"objectives": ("text_denoising",), "datasets": {"chitchat_openmoji/tiny": 1.0}}
    )
    prepared = prepare.prepare(mixed)
    streams = mixtures.streams(prepared, mixed)
    ids = [streams[g].at(order.positions(0, 64))[1] for g in ("", "more")]
    assert np.mean(ids[0] == ids[1]) < 0.2

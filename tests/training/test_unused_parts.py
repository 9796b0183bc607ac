"""Parts of the model that nothing trains: where they are kept, and that they change nothing else.

The reference is what every run had before: all parts, with an optimizer state each.
"""

import operator

import jax
import numpy as np
import pytest
import small

from igerg_jax import objectives
from igerg_jax.batch import synthetic
from igerg_jax.models.igerg import EMOTION_PARTS, OPTIONAL_PARTS
from igerg_jax.parallel import sharding
from igerg_jax.run.checkpoint import Checkpoints
from igerg_jax.training import train_state, train_step

STEPS, SAVED = 3, 2
DIGEST = "0123456789abcdef"
HEADS = ("emotion_head", "sequence_emotion_head", "masked_token_head")
CONTRASTIVE = OPTIONAL_PARTS[4:]


def make_config(**changes):
    """Two objectives without parts of their own, and a checkpoint that evaluations' parts are of.

    Dropout and weight decay are on.
    """
    config = small.make_config(
        optim__ema_decay=0.9,
        model__text__dropout_rate=0.1,
        objectives__emotional_response__consistency_weight=0.0,
        init_from="a run with all parts",
        **changes,
    )
    return small.only(config, "text_denoising", "emotional_response")


class Run:
    """The first steps of a run, on one device."""

    def __init__(self):
        config = make_config()
        self.setup = train_state.set_up_training(
            config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:1]
        )
        self.step = train_step.lower_step(self.setup).compile()
        state = train_state.init_state(self.setup)
        self.states, self.metrics = [jax.device_get(state)], []
        for number in range(STEPS):
            state, metrics = self.train(state, number)
            self.states.append(jax.device_get(state))
            self.metrics.append(metrics)

    def train(self, state, number):
        batch = synthetic(self.setup.spec, small.SPECIAL, small.VOCAB_SIZE, seed=number)
        placed = sharding.batch_sharding(self.setup.mesh)
        state, metrics = self.step(state, sharding.to_devices(batch, placed))
        return state, jax.device_get(metrics)


@pytest.fixture(scope="module")
def run():
    return Run()


@pytest.fixture(scope="module")
def reference():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "parts", lambda config: OPTIONAL_PARTS)
        patch.setattr(objectives, "trained", lambda config, tree: dict(tree))
        return Run()


def parts_in(tree) -> set[str]:
    """The optional parts that some leaf of a tree belongs to."""
    keys = {
        str(getattr(key, "key", ""))
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
        for key in path
    }
    return keys & {*OPTIONAL_PARTS}


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({}, ()),
        ({"sequence_emotion.weight": 0}, HEADS[1:2]),
        ({"image_text_contrastive.weight": 0}, CONTRASTIVE),
        ({"masked_multimodal.weight": 0}, HEADS[2:]),
        ({"image_emotion.weight": 0}, ()),  # masked_multimodal trains the same head
        ({"image_emotion.weight": 0, "masked_multimodal.weight": 0}, (HEADS[0], HEADS[2])),
        ({"text_emotion.weight": 0}, ()),  # L_emotion reads the judge
        (
            {"text_emotion.weight": 0, "emotional_response.consistency_weight": 0},
            ("judge_network",),
        ),
    ],
)
def test_a_run_has_the_parts_that_its_objectives_use(changes, gone):
    config = small.make_config()
    config.objectives.update_from_flattened_dict(changes)
    assert {*OPTIONAL_PARTS} - {*objectives.parts(config)} == {*gone}


def test_a_weight_of_0_leaves_no_leaf_of_the_objectives_parts():
    config = small.make_config(
        optim__ema_decay=0.9,
        objectives__emotional_response__consistency_weight=0.0,
        objectives__emotional_response__preference_weight=1.0,
    )
    config = small.only(config, "image_emotion", "emotional_response")
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:1])
    for name in ("params", "opt_state", "ema_params", "reference_params"):
        assert parts_in(getattr(setup.abstract_state, name)) == {"emotion_head"}, name


def test_evaluations_keep_the_parts_of_the_checkpoint_that_a_run_starts_from():
    assert {*objectives.parts(make_config())} == {*EMOTION_PARTS.values()}
    chosen = make_config(init_parts=("vision_tower", "judge_network"))
    assert objectives.parts(chosen) == ("judge_network",)
    fresh = make_config()
    fresh.init_from = ""
    assert not objectives.parts(fresh)


def test_what_nothing_trains_changes_no_loss(run, reference):
    for ours, theirs in zip(run.metrics, reference.metrics, strict=True):
        small.assert_trees_equal(ours, theirs)
    assert len({float(metrics["loss/total"]) for metrics in run.metrics}) == STEPS


@pytest.mark.parametrize("number", [0, STEPS])
@pytest.mark.parametrize("name", ["params", "ema_params"])
def test_what_nothing_trains_changes_no_other_parameter(run, reference, name, number):
    ours, theirs = (getattr(each.states[number], name) for each in (run, reference))
    shared = {part: theirs[part] for part in ours if number == 0 or part not in OPTIONAL_PARTS}
    small.assert_trees_equal({part: ours[part] for part in shared}, shared)
    assert len(shared) > 5


def test_a_part_that_is_only_evaluated_stays_as_it_came(run, reference):
    first, last = run.states[0], run.states[-1]
    kept = {*EMOTION_PARTS.values()}
    assert parts_in(last.params) == parts_in(last.ema_params) == kept
    assert not parts_in(last.opt_state)
    decayed = reference.states[-1].params
    for part in kept:
        small.assert_trees_equal(last.params[part], first.params[part])
        small.assert_trees_equal(last.ema_params[part], first.params[part])
        moved = jax.tree.map(np.subtract, decayed[part], first.params[part])
        assert small.largest(moved) > 0, "the reference shows no weight decay"


@pytest.fixture
def older(reference, tmp_path):
    """A workdir with a checkpoint of all parts."""
    checkpoints = Checkpoints(tmp_path, reference.setup.config, DIGEST)
    shardings = reference.setup.state_shardings
    checkpoints.save(jax.device_put(reference.states[SAVED], shardings))
    checkpoints.close()
    return tmp_path


def test_a_state_of_all_parts_resumes_with_the_same_losses(older, run, reference, capsys):
    checkpoints = Checkpoints(older, run.setup.config, DIGEST)
    state = checkpoints.restore(run.setup.abstract_state)
    assert jax.tree.structure(state) == jax.tree.structure(run.setup.abstract_state)
    small.assert_trees_equal(state.opt_state, run.states[SAVED].opt_state)
    _, metrics = run.train(state, SAVED)
    small.assert_trees_equal(metrics, reference.metrics[SAVED])
    leaves = [len(jax.tree.leaves(each.states[SAVED])) for each in (reference, run)]
    message = capsys.readouterr().err
    assert f"{operator.sub(*leaves)} arrays of '{older}" in message
    assert all(part in message for part in OPTIONAL_PARTS)

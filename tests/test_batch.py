"""The batch contract, and synthetic batches that obey it."""

import dataclasses

import numpy as np
import pytest

from igerg_jax import batch as batch_lib

SPEC = batch_lib.BatchSpec(
    batch_size=32, images=3, context_tokens=10, response_tokens=6, image_size=8, feature_dim=0
)
FEATURES = dataclasses.replace(SPEC, image_size=0, feature_dim=5)
SPECIAL = batch_lib.SENTENCEPIECE_IDS


def make(spec=SPEC, seed=0):
    return batch_lib.synthetic(spec, SPECIAL, vocab_size=50, seed=seed)


def test_emotion_ids_are_the_original_label_files():
    order = "surprise fear disgust joy sadness anger neutral".split()
    assert [batch_lib.EMOTION_ID[name] for name in order] == list(range(7))


@pytest.mark.parametrize("spec", [SPEC, FEATURES], ids=["images", "features"])
def test_synthetic_obeys_the_contract(spec):
    batch = make(spec)
    batch_lib.check(batch, spec)
    assert ("images" in batch) != ("features" in batch)


def test_synthetic_is_a_function_of_its_arguments():
    first, again, other = make(), make(), make(seed=1)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert any((first[name] != other[name]).any() for name in first)


@pytest.mark.parametrize("name", ["context", "response"])
def test_synthetic_text_ends_with_eos_then_pad(name):
    tokens = make()[name]
    for row in tokens:
        used = int((row != SPECIAL.pad).sum())
        assert (row[used:] == SPECIAL.pad).all()
        assert row[used - 1] == SPECIAL.eos
        assert (row[: used - 1] > max(dataclasses.astuple(SPECIAL))).all()
    assert (tokens == SPECIAL.pad).any(), "a batch without padding shows too little"


def test_synthetic_images_are_consistent_with_turns_and_labels():
    batch = make()
    mask = batch["image_mask"]
    assert mask.any(1).all() and not mask.all()
    assert (batch["image_emotion"][~mask] == batch_lib.UNKNOWN).all()
    assert (batch["image_emotion"][mask] >= 0).all()
    # Every turn that has words here has an image too.
    assert (batch["context_turn"] < mask.sum(1)[:, None]).all()
    assert (batch["context_turn"][batch["context"] == SPECIAL.pad] == 0).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b.pop("context"), "'context' is missing"),
        (lambda b: b.update(extra=b["response"]), "'extra' is not part"),
        (lambda b: b.update(image_mask=b["image_mask"].astype(np.int32)), "'image_mask' is"),
        (lambda b: b.update(response=b["response"][:, :-1]), "'response' is"),
        (lambda b: b.update(images=b["images"].astype(np.float32)), "'images' is"),
    ],
    ids=["missing", "extra", "dtype", "shape", "scaled"],
)
def test_check_names_the_array_that_is_wrong(change, says):
    batch = make()
    change(batch)
    with pytest.raises(ValueError, match=says):
        batch_lib.check(batch, SPEC)

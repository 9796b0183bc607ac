"""Model FLOPs: what they leave out, and what a frozen tower and mixtures add.

`tests/tools/test_compile_report.py` compares the count with XLA's programs.
"""

import flax.linen as nn
import jax
import small
from ml_collections import ConfigDict

from igerg_jax import kept_traces
from igerg_jax.training import model_flops, train_state


def setup_of(**changes):
    config = small.only(small.make_config(**changes), "emotional_response")
    return train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:1])


def test_model_flops_leave_rematerialisation_out_and_take_layers_in():
    plain = model_flops.model_flops(setup_of())
    full = dict(model__text__remat="full", model__vision__remat="full")
    assert model_flops.model_flops(setup_of(**full)) == plain
    unrolled = dict(model__text__scan_layers=False)
    assert model_flops.model_flops(setup_of(**unrolled)) == plain
    deeper = model_flops.model_flops(setup_of(model__text__encoder_layers=2))
    deepest = model_flops.model_flops(setup_of(model__text__encoder_layers=3))
    assert deepest - deeper == deeper - plain > 0
    assert model_flops.model_flops(setup_of(train__batch_size=16)) > 1.9 * plain


def flops_with_pixels(frozen: bool, **mixtures: tuple[str, ...]) -> int:
    """Model FLOPs with a ViT and `mixtures` {name: its objectives} beside the main batch."""
    config = small.with_pixels(small.make_config(model__vision__frozen=frozen))
    config = small.only(config, "emotional_response", *sum(mixtures.values(), ()))
    config.data.mixtures = ConfigDict(
        {name: dict(objectives=names, datasets={"any": 1.0}) for name, names in mixtures.items()}
    )
    devices = jax.devices()[:1]
    setup = train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL, devices)
    return model_flops.model_flops(setup)


def test_model_flops_of_a_frozen_tower_have_no_backward_pass():
    config = small.with_pixels(small.make_config())
    model, batch = small.make_model(config), small.make_batch(config)
    params = jax.eval_shape(lambda: nn.meta.unbox(model.init(jax.random.key(0), batch)["params"]))
    images = batch["images"].reshape(-1, *batch["images"].shape[2:])

    def tower(params, images):
        method = lambda model, images: model.vision_tower(images)  # noqa: E731
        return model.apply({"params": params}, images, method=method)

    tower_flops = model_flops.forward_flops(tower, params, images)
    saved = flops_with_pixels(frozen=False) - flops_with_pixels(frozen=True)
    assert saved == 2 * tower_flops > 0
    faces = dict(faces=("image_emotion",))  # a second batch through the same tower
    saved = flops_with_pixels(frozen=False, **faces) - flops_with_pixels(frozen=True, **faces)
    assert saved == 4 * tower_flops


def test_model_flops_of_a_mixture_are_those_of_the_objectives_it_names():
    """The judge reads words alone: no image of its mixture is encoded."""
    together = flops_with_pixels(False, words=("text_emotion",))
    config = small.with_pixels(small.make_config())
    config = small.only(config, "emotional_response", "text_emotion")
    alone = train_state.set_up_training(config, small.VOCAB_SIZE, small.SPECIAL, jax.devices()[:1])
    assert together == model_flops.model_flops(alone) > flops_with_pixels(False)


def test_they_are_counted_once_where_traces_are_kept(tmp_path, monkeypatch):
    kept_traces.keep_in(tmp_path)
    first, larger = (model_flops.model_flops(setup_of(train__batch_size=n)) for n in (8, 16))
    assert larger > 1.9 * first
    monkeypatch.delattr(model_flops, "forward_flops")
    assert model_flops.model_flops(setup_of(train__batch_size=8)) == first

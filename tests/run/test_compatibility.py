"""Checkpoints whose weights would compute something else, though names and shapes are the same."""

import pathlib

import pytest
import small

from igerg_jax.errors import UserError
from igerg_jax.run import compatibility, workdirs


def test_a_resnet_with_another_norm_is_another_function():
    config = small.with_pixels(small.make_config())
    config.model.vision.update(
        kind="resnet", depths=(1,), widths=(16,), channel_norm="group", tokens_per_image=1
    )

    def names():
        model = small.make_model(config)
        params = small.make_params(model, small.make_batch(config))
        return compatibility.shapes(params)

    run, stored = {"config": workdirs.as_json(config)}, names()
    compatibility.check_same_function(run, config, tuple(stored), pathlib.Path("run"))
    config.model.vision.channel_norm = "layer"
    assert names() == stored, "nothing but the config can tell"
    with pytest.raises(UserError, match=r"channel_norm \(there group, here layer\)"):
        compatibility.check_same_function(run, config, tuple(stored), pathlib.Path("run"))

"""Which runs may share a workdir."""

import pytest
import small
from etils import epath

from configs import pretrain
from configs.ablations import no_images
from configs.baselines import text_only
from igerg_jax.errors import UserError
from igerg_jax.run import workdirs


def test_another_number_of_slices_is_another_loss_where_negatives_are_a_slices(tmp_path):
    folder, key = epath.Path(tmp_path), "objectives__image_text_contrastive__"
    changes = {f"{key}negatives": "slice"}

    def given(dcn, **others):
        return small.make_config(mesh__dcn=dcn, **changes, **others)

    (folder / "config.json").write_text(given(2).to_json_best_effort())
    workdirs.check(folder, given(2, mesh__fsdp=4))  # the rest of the mesh may change
    workdirs.check(folder, given(1), training=False)
    with pytest.raises(UserError, match=r"mesh\.dcn \(there 2, here 1\)"):
        workdirs.check(folder, given(1))
    changes = {f"{key}negatives": "batch"}
    (folder / "config.json").write_text(given(2).to_json_best_effort())
    workdirs.check(folder, given(1))


def test_a_model_may_be_used_otherwise_than_it_was_trained_where_its_function_stays(tmp_path):
    folder = epath.Path(tmp_path)
    (folder / "config.json").write_text(small.make_config().to_json_best_effort())
    other = small.make_config(model__compute_dtype="bfloat16", model__text__dropout_rate=0.5)
    workdirs.check(folder, other, training=False)
    with pytest.raises(UserError, match=r"model\.compute_dtype \(there 'float32'"):
        workdirs.check(folder, other)
    wider = small.make_config(model__text__width=32)
    with pytest.raises(UserError, match=r"model\.text\.width \(there 16, here 32\)"):
        workdirs.check(folder, wider, training=False)


@pytest.mark.parametrize("module", [no_images, text_only])
def test_a_checkpoint_of_another_config_is_refused_and_other_inputs_are_named(module):
    full, other = (workdirs.as_json(m.get_config()) for m in (pretrain, module))
    here = ["model.emotion_embedding (there 'both', here 'none')"]
    assert workdirs.model_differences(full, other) == here
    assert workdirs.input_differences(full, other) == ["data.use_images (there True, here False)"]
    assert workdirs.input_differences(full, full) == workdirs.model_differences(full, full) == []


def test_a_folder_among_a_runs_checkpoints_is_no_workdir(tmp_path):
    run = epath.Path(tmp_path / "run")
    (run / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "link").symlink_to(run / "checkpoints")
    config = small.make_config()
    workdirs.check(run / "checkpoints" / "new", config)  # there is no run
    (run / "config.json").write_text(config.to_json_best_effort())
    for inside in ("run/checkpoints", "run/checkpoints/3", "run/checkpoints/new/deep", "link/new"):
        for training in (True, False):
            with pytest.raises(UserError, match=f"of the run '{run}': give --workdir={run}, or a"):
                workdirs.check(epath.Path(tmp_path / inside), config, training)
    for fine in (run, run / "second", epath.Path(tmp_path / "checkpoints")):
        workdirs.check(fine, config)

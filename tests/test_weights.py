"""Pre-trained weights in: what is taken, what is refused, and that nothing is executed."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import small
import weight_files as files

from igerg_jax import checkpoint, step
from igerg_jax.errors import UserError
from igerg_jax.tools.weights import __main__ as program
from igerg_jax.tools.weights import importing


@pytest.fixture
def bart(tmp_path):
    arrays = files.draw(files.bart_shapes())
    return files.write(tmp_path / "bart", files.BART_CONFIG, arrays), arrays


def load(config, path):
    """(parameters by name, what was taken) of a run that starts from `path`."""
    setup = step.set_up(config, small.VOCAB_SIZE, small.SPECIAL)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), setup.abstract_state.params)
    params, found = checkpoint.load_params(path, setup, zeros, "a run's tokenizer")
    names = checkpoint.shapes(params)
    return dict(zip(names, map(np.asarray, jax.tree.leaves(params)), strict=True)), found


@pytest.mark.parametrize("scan", [False, True])
def test_a_run_starts_from_an_imported_bart(bart, tmp_path, scan):
    folder, arrays = bart
    config = files.text_config(model__text__scan_layers=scan)
    said = importing.run(config, str(folder), "", str(tmp_path / "out"), False)
    params, found = load(config, tmp_path / "out")
    assert not found.left
    np.testing.assert_array_equal(params["token_embedding"], arrays["model.shared.weight"])
    np.testing.assert_array_equal(
        params["decoder_position_embedding"],
        arrays["model.decoder.embed_positions.weight"][2:],
    )
    for layer in range(2):
        at = f"model.encoder.layers.{layer}"
        query = params["encoder/layers/self_attention/query/kernel"][layer]
        np.testing.assert_array_equal(
            query.reshape(16, 16), arrays[f"{at}.self_attn.q_proj.weight"].T
        )
        np.testing.assert_array_equal(
            params["encoder/layers/mlp/in/kernel"][layer], arrays[f"{at}.fc1.weight"].T
        )
    assert not params["type_embedding"].any() and "type_embedding" in said
    assert "final_logits_bias" in said


def run_main(capsys, *arguments: str) -> tuple[int, str]:
    code = program.main(["weights", *arguments])
    return code, capsys.readouterr().err


def test_errors_are_one_message_and_exit_code_2(capsys, tmp_path):
    config = "--config=configs/pretrain.py"
    for arguments, says in (
        ((), "import or export"),
        (("import", config), "--out is missing"),
        (("import", config, "--out=x"), "nothing to import"),
        (("import", config, "--out=x", f"--text={tmp_path}/bart"), "facebook/bart-base"),
        (("import", config, "--out=x", "--config.model.txt=1"), "unknown config key"),
        (("export", "--format=onnx"), "hf"),
        (("export",), "--checkpoint is missing"),
    ):
        code, message = run_main(capsys, *arguments)
        assert code == 2 and says in message and message.count("\n") == 1, message


def test_nothing_is_written_where_something_does_not_fit(bart, tmp_path):
    folder, _ = bart
    with pytest.raises(UserError, match="vocabulary"):
        config = files.text_config(data__tokenizer__vocab_size=small.VOCAB_SIZE + 1)
        importing.run(config, str(folder), "", str(tmp_path / "out"), False)
    assert not (tmp_path / "out").exists()

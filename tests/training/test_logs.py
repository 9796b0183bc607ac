"""What a run logs: its lines of metrics, and its speed."""

import types

import pytest
from etils import epath

from igerg_jax import storage
from igerg_jax.training import logs

SPEED = {
    "step_seconds",
    "examples_per_second",
    "examples_per_second_per_device",
    "model_tflops_per_second_per_device",
}


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    return epath.Path(tmp_path)


def test_lines_of_a_lost_future_are_cut(folder):
    path = folder / "metrics.jsonl"
    path.write_text('{"step": 2, "a": 1.0}\n{"step": 4, "a": 2.0}\n{"step": 6, "a"')
    writer = logs.JsonlWriter(path, resumed_step=3)
    writer.write_scalars(4, {"a": float("nan")})
    writer.close()
    expected = [{"step": 2, "a": 1.0}, {"step": 4, "a": None}]
    assert storage.read_json_lines(path) == (expected, 0)


@pytest.mark.parametrize("half", ['{"step": 4, "a"', '{"step": 2, "a": 2.0}', "\x00\x00", "7\n"])
def test_a_half_written_line_does_not_swallow_the_next_one(folder, half, capsys):
    path = folder / "metrics.jsonl"
    path.write_text('{"step": 2, "a": 1.0}\n' + half)  # with no end of line
    writer = logs.JsonlWriter(path, resumed_step=3)
    writer.write_scalars(4, {"a": 3.0})
    writer.close()
    is_said = f"skipped 1 unreadable line of '{path}'\n" in capsys.readouterr().err
    assert is_said == (half != '{"step": 2, "a": 2.0}')
    lines, bad_lines = storage.read_json_lines(path)
    assert bad_lines == 0
    assert lines[0] == {"step": 2, "a": 1.0} and lines[-1] == {"step": 4, "a": 3.0}


def test_speed_is_that_of_the_devices():
    """Steps of 24 examples and 6e12 FLOPs in 0.5 s on two devices of 197e12 FLOP/s."""
    chips = [types.SimpleNamespace(device_kind="TPU v5 lite", num_cores=1)] * 2
    rates = logs.Throughput(24, chips).rates(steps=4, seconds=2.0, model_flops=24e12)
    assert rates == pytest.approx(
        {
            "step_seconds": 0.5,
            "examples_per_second": 48,
            "examples_per_second_per_device": 24,
            "model_tflops_per_second_per_device": 6,
            "mfu": 6 / 197,
        }
    )
    unknown = [types.SimpleNamespace(device_kind="cpu")]
    assert set(logs.Throughput(24, unknown).rates(4, 2.0, 24e12)) == SPEED
    v4 = types.SimpleNamespace(device_kind="TPU v4", num_cores=2)  # both cores as one device
    assert logs.Throughput(1, [v4]).rates(1, 1.0, 275e12)["mfu"] == pytest.approx(1.0)

"""samples.jsonl and progress.jsonl: what is written, and what a resumed run leaves."""

import made_up_run
import pytest
from etils import epath

from igerg_jax import storage
from igerg_jax.evaluation import samples


def test_either_all_samples_are_written_or_none(tmp_path):
    samples.write([{"index": 0}], tmp_path)
    with pytest.raises(TypeError):
        samples.write([{"index": 1}, {"index": object()}], tmp_path)
    assert (tmp_path / "samples.jsonl").read_text() == '{"index": 0}\n'


def test_progress_has_the_same_conversations_at_each_step(tmp_path):
    """What a run wrote after the step that it resumes from is trained, and written, again."""
    rows = made_up_run.make_samples(2)
    for step in (10, 20, 30, 20):
        samples.add_progress(step, rows, epath.Path(tmp_path))
    lines = storage.read_json_lines(tmp_path / "progress.jsonl").objects
    assert [(line["step"], line["index"]) for line in lines] == [
        (step, row["index"]) for step in (10, 20) for row in rows
    ]
    assert lines[0]["turn"] == rows[0]["context"][-1]["text"] and lines[0]["face"] is None
    assert lines[1]["face"] == rows[1]["response_image"]["image"]
    assert lines[1]["generated"] == rows[1]["generated"] and "context" not in lines[1]


@pytest.mark.parametrize("step", ["x", None, [1], {}, float("nan")])
def test_a_damaged_line_of_progress_is_left_out(tmp_path, step):
    good = {"step": 10, "index": 3}
    made_up_run.write_lines(tmp_path / "progress.jsonl", [{"step": step, "index": 3}, good])
    rows = made_up_run.make_samples(1)
    samples.add_progress(20, rows, epath.Path(tmp_path))
    lines = storage.read_json_lines(tmp_path / "progress.jsonl").objects
    assert lines[0] == good and [line["step"] for line in lines] == [10, 20]


def test_progress_of_images_without_words(tmp_path):
    row = made_up_run.make_samples(1)[0] | {"context": []}
    samples.add_progress(1, [row], epath.Path(tmp_path))
    assert storage.read_json_lines(tmp_path / "progress.jsonl").objects[0]["turn"] == ""

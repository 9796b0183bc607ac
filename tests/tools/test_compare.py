"""Comparisons of made-up rows: nothing here was measured."""

import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import re

import numpy as np
import pytest

from igerg_jax.errors import UserError
from igerg_jax.tools.compare import __main__ as compare
from igerg_jax.tools.compare import drawing, page, rows, statistics, table, text
from igerg_jax.tools.compare.rows import FAILED, Row

W, FOLLOWED = 64, 12  # windows with a likelihood, windows answered for seven faces


def windows(seed: int = 0, harder: float = 0.0, right: float = 0.5, count: int = W) -> dict:
    """Windows as windows.json has them: the same tokens whatever the seed, `harder` nats a token
    more, and `right` of the faces followed."""
    tokens = np.random.default_rng(9).integers(2, 20, count)
    rng = np.random.default_rng(seed)
    nll = tokens * (4 + harder + 0.02 * rng.standard_normal(count))
    follows = rng.random((FOLLOWED, 7)) < right
    said = np.where(follows, np.arange(7), (np.arange(7) + 1) % 7)
    return {
        "response": {"nll": nll.tolist(), "tokens": tokens.tolist()},
        "following": {"index": list(range(FOLLOWED)), "said": said.tolist()},
    }


def make_row(name: str = "full", seed: int = 0, of: dict | None = None, **fields) -> Row:
    of = windows(seed) if of is None else of
    values = {"bleu_1": 7.5, "dist_2": 0.2}
    if of.get("response", {}).get("nll"):
        values["response_perplexity"] = math.exp(
            sum(of["response"]["nll"]) / sum(of["response"]["tokens"])
        )
    matrix = None
    if "following" in of:
        said = np.array(of["following"]["said"])
        values["emotion_following"] = float((said == np.arange(7)).mean())
        matrix = [np.bincount(said[:, e], minlength=7).tolist() for e in range(7)]
    config = {"full": "pretrain"}.get(name, f"ablations/{name}")
    kept = dict(
        name=name,
        config=config,
        preset="local",
        seed=seed,
        digest=f"digest of {name}",
        evaluation={"test": values},
        following_matrix=matrix,
        windows=of,
        wall_seconds=100.0,
        steps=700,
        examples=11200,
        parameters=1_650_000,
    )
    return Row(**(kept | fields))


def write_rows(folder, *kept: Row):
    for row in kept:
        rows.write(row, folder / rows.FOLDER / f"{row.name}-seed{row.seed}.json")
    return folder


def line_of(found: table.Table, name: str) -> table.Line:
    (line,) = [line for line in found.lines if line.name == name]
    return line


# The table.


def test_windows_of_one_conversation_are_drawn_together():
    """Ten windows each that all differ alike are no more evidence than one."""
    conversation_W = np.repeat(np.arange(12), 10)
    differs_W = np.repeat(np.random.default_rng(3).standard_normal(12), 10)
    of = {"response": {"nll": [0.0] * 120, "tokens": [2] * 120}}
    other = {"response": {"nll": (differs_W + 0.5).tolist(), "tokens": [2] * 120}}

    def interval(with_record: bool):
        for windows in (of, other):
            windows["response"]["conversation"] = conversation_W.tolist() if with_record else []
        found = table.build([make_row(of=of), make_row("no_images", of=other)], None)
        effect = line_of(found, "no_images").effects["response_perplexity"]
        return np.log([effect.low, effect.high])

    together, apart = interval(True), interval(False)
    ten_K = statistics.paired_bootstrap(differs_W[::10] + 0.5, np.full(12, 2.0))
    np.testing.assert_allclose(together, [ten_K.low, ten_K.high], rtol=1e-9)
    assert np.ptp(together) > 2.5 * np.ptp(apart)


def test_an_interval_has_no_ends_where_hardly_any_window_differs():
    difference = np.zeros(40)
    difference[3] = 1 / 7
    found = statistics.paired_bootstrap(difference, np.ones(40), resamples=999)
    assert (found.low, found.high) == (-np.inf, np.inf) and found.p > 0.2
    effect = table.Effect(1.5, 0.0, math.inf, 0.3, 0.6)
    assert text.effect(effect, "response_perplexity") == "×1.500, p = 0.600"


def test_a_line_is_the_mean_over_seeds():
    rights = (0.2, 0.5, 0.8)
    kept = [make_row(seed=k, of=windows(k, right=r)) for k, r in enumerate(rights)]
    (line,) = table.build(kept[::-1], None).lines
    values = [row.evaluation["test"]["emotion_following"] for row in kept]
    cell = line.cells["emotion_following"]
    assert cell.mean == pytest.approx(sum(values) / 3) and cell.count == 3
    spread = sum((value - cell.mean) ** 2 for value in values) / 2
    assert cell.deviation == pytest.approx(math.sqrt(spread))
    assert [row.seed for row in line.rows] == [0, 1, 2] and line.compute["steps"] == 700
    (alone,) = table.build(kept[:1], None).lines
    assert math.isnan(alone.cells["bleu_1"].deviation)
    assert text.cell(alone.cells["bleu_1"], "{:.2f}") == "7.50"
    assert text.cell(line.cells["bleu_1"], "{:.2f}") == "7.50 ± 0.00"


def test_a_difference_is_tested_on_the_same_windows():
    base = make_row()
    worse = make_row("no_images", of=windows(1, harder=0.1, right=0.05))
    same = make_row("no_image_emotion", of=windows(0))
    found = table.build([worse, same, base], None)
    assert found.baseline == "full" and found.lines[0].name == "full"
    assert not found.lines[0].effects
    effect = line_of(found, "no_images").effects["response_perplexity"]
    of = [row.evaluation["test"]["response_perplexity"] for row in (worse, base)]
    assert effect.estimate == pytest.approx(of[0] / of[1])
    assert 1 < effect.low < effect.estimate < effect.high and effect.corrected < 0.01
    assert effect.corrected == pytest.approx(2 * effect.p)  # of two that were compared
    followed = line_of(found, "no_images").effects["emotion_following"]
    of = [row.evaluation["test"]["emotion_following"] for row in (worse, base)]
    assert followed.estimate == pytest.approx(100 * (of[0] - of[1])) and followed.high < 0
    unchanged = line_of(found, "no_image_emotion").effects
    assert unchanged["response_perplexity"][:3] == (1, 1, 1)
    assert unchanged["emotion_following"].corrected == 1


def test_figures_have_what_they_are_to_be_held_against_beside_them(tmp_path):
    kept = [make_row(), make_row("no_images")]
    for row in kept:
        row.evaluation["test"].update(image_emotion_accuracy=0.5, image_emotion_majority_rate=0.25)
    note = "Face emotion accuracy: majority class 25.0%"
    assert note in text.markdown(table.build(kept, None))
    assert note in page.render(table.build(kept, None), [], tmp_path)
    kept[1].evaluation["test"]["image_emotion_majority_rate"] = 0.375  # of another split
    assert f"{note} to 37.5%" in text.markdown(table.build(kept, None))
    del kept[1].evaluation["test"]["image_emotion_majority_rate"]
    assert "Face emotion accuracy:" not in text.markdown(table.build(kept, None))


def test_rows_of_several_commits_are_named():
    kept = [make_row(), make_row("no_images")]
    same = [dataclasses.replace(row, commit="a" * 40) for row in kept]
    assert "several commits" not in text.markdown(table.build(same, None))
    mixed = [same[0], dataclasses.replace(kept[1], commit="b" * 40)]
    assert "aaaaaaaaaaaa (1), bbbbbbbbbbbb (1)" in text.markdown(table.build(mixed, None))


def test_following_is_tested_by_every_labeller_and_their_own_figures_are_shown(tmp_path):
    held_out = {"second": {"kind": {"meld": {"valid": {"accuracy": 0.5, "macro_f1": 0.375}}}}}
    one, other = windows(0, right=0.5), windows(1, right=0.5)
    one["following"]["said_second"] = [[0] * 7] * FOLLOWED
    other["following"]["said_second"] = [list(range(7))] * (FOLLOWED - 1) + [[0] * 7]
    kept = [make_row(of=one), make_row("no_images", of=other)]
    for row in kept:
        row.evaluation["test"]["emotion_following_second"] = 0.5
    kept = [dataclasses.replace(row, text_labeller=held_out) for row in kept]
    found = table.build(kept, None)
    effect = line_of(found, "no_images").effects["emotion_following_second"]
    assert effect.estimate == pytest.approx(100 * (6 / 7) * (FOLLOWED - 1) / FOLLOWED)
    assert "accuracy 0.500, macro-F1 0.375" in text.markdown(found)
    assert "accuracy 0.500, macro-F1 0.375" in page.render(found, [], tmp_path)
    elsewhere = json.loads(json.dumps(held_out).replace("0.375", "0.3751"))  # trained again there
    table.build([kept[0], dataclasses.replace(kept[1], text_labeller=elsewhere)], None)
    other_file = dataclasses.replace(kept[1], text_labeller={"second": {"kind": {}}})
    with pytest.raises(UserError, match=r"different files of evaluate\.text_labeller"):
        table.build([kept[0], other_file], None)
    better = json.loads(json.dumps(held_out).replace("0.375", "0.377"))
    other_file = dataclasses.replace(kept[1], text_labeller=better)
    with pytest.raises(UserError, match=r"different files of evaluate\.text_labeller"):
        table.build([kept[0], other_file], None)


@pytest.mark.parametrize(
    "of",
    [
        {},
        windows(count=statistics.MIN_CLUSTERS - 1),  # too few, and others
        {"response": {"nll": [1.0] * W, "tokens": [3] * W}},
        windows() | {"response": {"nll": [1.0] * W, "tokens": [3] * W}},
        {
            "response": {"nll": [], "tokens": windows()["response"]["tokens"]},
            "following": {"index": list(range(1, FOLLOWED + 1)), "said": [[0] * 7] * FOLLOWED},
        },
    ],
)
def test_other_windows_are_not_compared(of):
    found = table.build([make_row(), make_row("no_images", of=of)], None)
    assert not line_of(found, "no_images").effects


def test_seeds_with_other_windows_are_not_averaged():
    seeds = [make_row("no_images", seed=k, of=windows(count=W - k)) for k in range(2)]
    assert not line_of(table.build([make_row(), *seeds], None), "no_images").effects
    assert len(line_of(table.build([make_row(), seeds[0]], None), "no_images").effects) == 2


def test_one_config_with_other_overrides_is_another_line():
    one, other = (make_row("no_images", digest=d, overrides=(d,)) for d in ("aaaa", "bbbb"))
    names = {line.name for line in table.build([one, other, make_row()], None).lines}
    assert names == {"full", "no_images:local:aaaa", "no_images:local:bbbb"}
    large = make_row("no_images", digest="cccc", preset="large")
    names = {line.name for line in table.build([one, large], None).lines}
    assert names == {"no_images:local", "no_images:large"}


def test_runs_of_one_config_are_named_by_their_folders_and_compared_with_the_first():
    one = make_row(digest="aaaa", workdir="runs/pretrain-local")
    other = make_row(digest="bbbb", workdir="runs/low-rate", of=windows(1))
    found = table.build([one, other, make_row("no_images")], None)
    assert [line.name for line in found.lines] == ["pretrain-local", "low-rate", "no_images"]
    assert found.baseline == "pretrain-local" and found.lines[1].effects
    assert table.build([one, other], "low-rate").baseline == "low-rate"
    again = dataclasses.replace(other, seed=1, workdir="runs/low-rate-1")  # two folders, one line
    names = [line.name for line in table.build([one, other, again], None).lines]
    assert names == ["pretrain-local", "full:local:bbbb"]


# Rows.


def test_a_workdir_and_its_row_say_the_same(tmp_path):
    kept = make_row(of=windows(3))
    config = {"name": "pretrain", "preset": "local", "seed": 0, "train": {"batch_size": 16}}
    summary = {
        "final_step": 700,
        "wall_seconds": 100.0,
        "parameters": {"total": 1_650_000},
        "devices": "1 x cpu",
        "evaluation": kept.evaluation,
        "following_matrix": {"test": kept.following_matrix},
    }
    run = tmp_path / "run"
    run.mkdir()
    for name, content in {
        "config": config,
        "summary": summary,
        "windows": {"test": kept.windows},
    }.items():
        (run / f"{name}.json").write_text(json.dumps(content))
    ends = dict(
        first_step=0, last_step=700, seconds=100.0, training_seconds=90.0, stopped="finished"
    )
    start = {**ends, "command": "igerg train --run=a '--config.name=a b'", "commit": "abc"}
    (run / "history.json").write_text(json.dumps([{**start, "commit": "older"}, start]))
    (found,) = rows.read([str(run)])
    expected = dict(
        digest=rows.digest(config),
        hardware={"devices": "1 x cpu"},
        workdir=str(run.resolve()),
        overrides=["--config.name=a b"],
        commit="abc",
    )
    assert found == dataclasses.replace(kept, **expected)
    (tmp_path / "unfinished").mkdir()
    assert rows.read([str(tmp_path)]) == [found], "of the finished runs in a folder"
    path = tmp_path / "rows" / "full-seed0.json"
    rows.write(dataclasses.replace(found, workdir="../run"), path)
    assert rows.of_file(path) == found
    elsewhere = tmp_path / "a" / "b" / "full-seed0.json"  # kept without its run
    elsewhere.parent.mkdir(parents=True)
    path.rename(elsewhere)
    assert rows.of_file(elsewhere).workdir == ""


def test_a_digest_is_of_what_changes_a_figure():
    config = {"seed": 0, "data": {"data_dir": "a", "dataset": "x"}, "profile": {"steps": 0}}
    same = {"seed": 1, "data": {"data_dir": "b", "dataset": "x"}, "profile": {"steps": 3}}
    other = {"seed": 0, "data": {"data_dir": "a", "dataset": "y"}, "profile": {"steps": 0}}
    assert rows.digest(config) == rows.digest(same) != rows.digest(other)


# The page, Markdown and CSV.

ATTACK = """"><script>alert('x')</script><img src=x onerror=alert(1)>|*a*"""


def made_up(tmp_path) -> table.Table:
    """Seeds, a missing metric, a failure, markup in every text, and a workdir with curves."""
    run = tmp_path / "a run" / "full-seed0"
    run.mkdir(parents=True)
    lines = [{"step": k, "loss/emotional_response": 9.0 - k, "odd": "text"} for k in range(1, 9)]
    torn = '{"step": 9, "loss/emo'
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + torn)
    (run / "report.html").write_text("")
    kept = [make_row(seed=k, of=windows(k)) for k in range(2)]
    kept[0] = dataclasses.replace(kept[0], workdir=str(run))
    no_faces = make_row("text_only", of={"response": windows(5)["response"]})
    failed = make_row(
        ATTACK, status=FAILED, message=ATTACK, overrides=(ATTACK,), commit=ATTACK,
        hardware={"cpu": ATTACK}, preset=ATTACK, evaluation={}, of={}, wall_seconds=None,
    )  # fmt: skip
    late = make_row("text_only", seed=1, status=FAILED, message="out of memory", evaluation={})
    return table.build([*kept, no_faces, failed, late], None)


def test_the_page_shows_what_there_is_and_is_whole(tmp_path):
    found = made_up(tmp_path)
    html = page.render(found, page.CURVES, tmp_path)
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
    addresses = re.findall(r'(?:src|href)="(?!#)([^"]*)"', html)
    assert addresses == ["a%20run/full-seed0/report.html"]
    assert not re.search(r"https?:|url\(", html) and "default-src 'none'" in html
    assert html.count('<path class="curve first"') == 1  # only the baseline has a folder
    assert html.count("No run&#39;s folder has this") + html.count("No run's folder has this") == 3
    assert html.count('<circle class="point"') == 1  # only it has both figures
    assert "seed 1 failed: out of memory" in html
    assert "nan" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL).lower()
    shares = page.following(line_of(found, "full"))
    cell = line_of(found, "full").cells["emotion_following"]
    assert np.mean([share for _, share, _, _ in shares]) == pytest.approx(cell.mean)
    assert page.following(line_of(found, "text_only")) is None


def test_a_page_of_failures_alone():
    found = table.build([make_row(status=FAILED, message="no", evaluation={}, of={})], None)
    html = page.render(found, page.CURVES, pathlib.Path())
    assert "without a baseline" in html and "seed 0 failed: no" in html
    assert text.markdown(found).count("\n") == 3


def test_csv_and_markdown_have_the_figures(tmp_path):
    found = made_up(tmp_path)
    lines = list(csv.DictReader(io.StringIO(text.comma_separated(found))))
    assert [line["config"] for line in lines] == [line.name for line in found.lines]
    full, other = lines[0], next(line for line in lines if line["config"] == "text_only")
    cell = line_of(found, "full").cells["emotion_following"]
    assert float(full["emotion_following"]) == cell.mean
    assert float(full["emotion_following_deviation"]) == cell.deviation
    assert other["emotion_following"] == "" and other["failed"] == "1"
    assert other["response_perplexity_deviation"] == ""  # one seed
    effect = line_of(found, "text_only").effects["response_perplexity"]
    assert float(other["response_perplexity_p_holm"]) == effect.corrected
    printed = text.markdown(found)
    first, *_ = printed.split("\n\n")
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in first.splitlines()}
    assert len(columns) == 1, "every line has as many cells"
    assert f"{100 * cell.mean:.1f}% ± {100 * cell.deviation:.1f}%" in printed
    assert "<script" not in printed.replace("\\<script", "")


def test_the_scatter_keeps_order_and_bars():
    low, high = table.Cell(50.0, 5.0, 3), table.Cell(100.0, math.nan, 1)
    plot = drawing.scatter({0: (low, low), 1: (high, high)}, {0: "one", 1: "other"})
    one, other = plot.points
    assert one.x < other.x and one.y > other.y  # y grows downward
    assert one.x_bar[0] < one.x < one.x_bar[1] and other.x_bar == (other.x, other.x)
    box = plot.box
    assert all(box.left <= x <= box.right for point in plot.points for x in point.x_bar)
    assert drawing.scatter({}, {}) is None


def test_names_of_many_configs_beside_each_other_can_be_read():
    """35 points, most of them in one corner, as of an ablation table with one weak baseline."""
    draw = np.random.default_rng(0).normal
    points = [(600.0, 300.0), *((draw(110, 15), draw(80, 20)) for _ in range(34))]
    names = ["no_consistency_no_contrast"[: 8 + i % 18] for i in range(35)]
    places = drawing.place_names(points, names, drawing.SCATTER)
    for i, (place, (x, y)) in enumerate(zip(places, points, strict=True)):
        others = [*places[:i], *places[i + 1 :]]
        assert not any(place.overlaps(other) for other in others)
        assert place.left >= drawing.SCATTER.left and place.right <= drawing.SCATTER.right
        assert place.top >= drawing.SCATTER.top and place.bottom <= drawing.SCATTER.bottom
        assert not (place.left <= x <= place.right and place.top <= y <= place.bottom)


def test_a_name_that_is_wider_than_the_plot_is_written_somewhere():
    (place,) = drawing.place_names([(300.0, 100.0)], ["x" * 200], drawing.SCATTER)
    assert place.right - place.left == pytest.approx(200 * drawing.LETTER_WIDTH)


def test_curves_are_means_at_shared_steps():
    runs = [[(1, 2.0), (2, 4.0), (3, math.nan)], [(1, 4.0), (2, 8.0), (3, 1.0)], []]
    assert drawing.mean_curve(runs) == [(1, 3.0), (2, 6.0)]
    assert drawing.overlay({0: []}) is None
    plot = drawing.overlay({0: [(k, 9.0 - k) for k in range(9)], 1: [(0, 1.0)]})
    ys = [y for _, y in plot.curves[0]]
    assert ys == sorted(ys) and len(plot.curves[1]) == 1


# The command.


def test_the_command_writes_and_prints(tmp_path, capsys, monkeypatch):
    folder = write_rows(tmp_path / "out", make_row(), make_row("no_images", of=windows(1)))
    monkeypatch.chdir(tmp_path)
    assert compare.main(["compare", "out", "--markdown", "--csv=table.csv"]) == 0
    assert capsys.readouterr().out.startswith("| config | seeds | Response perplexity ↓ |")
    assert (tmp_path / "compare.html").read_text("utf-8").startswith("<!doctype html>")
    assert (tmp_path / "table.csv").read_text().startswith("config,seeds,")
    (tmp_path / "compare.html").unlink()
    files = [str(path) for path in sorted((folder / "rows").iterdir())]
    assert compare.main(["compare", *files, "--out=", "--csv", "--baseline=no_images"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("no_images,")
    assert not (tmp_path / "compare.html").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "name the runs"),
        (["absent"], "'absent' is not a workdir"),
        (["out", "out"], "are both full with seed 0"),
        (["out", "--baseline=other"], "--baseline=other is not among the finished configs: full"),
        (["out", "--out=nowhere/page.html"], "no folder 'nowhere'"),
        (["broken.json", "--out=out"], "--out=out is not a file"),
        (["broken.json", "--csv=nowhere/x.csv"], "--csv=nowhere/x.csv: there is no folder"),
        (["broken.json", "--markdown=out"], "--markdown=out is not a file"),
        (["broken.json"], "is not JSON"),
        (["other.json"], "is not a row of a comparison: it has no name"),
        (["running"], "the run is not finished"),
        (["out", "--bsaeline=x"], "bsaeline"),
    ],
)
def test_errors_are_one_message_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    write_rows(tmp_path / "out", make_row())
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert compare.main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_run_whose_name_is_no_text_is_linked(tmp_path):
    run = tmp_path / os.fsdecode(b"caf\xe9")
    run.mkdir()
    (run / "report.html").write_text("")
    assert page.report(make_row(workdir=str(run)), tmp_path) == "caf%E9/report.html"

"""The report's tables of answers and of guidance; the figures are made up."""

from __future__ import annotations

import html
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from igerg_jax.batch import EMOTIONS
from igerg_jax.report import charts, write_report

ATTACK = '"><script>alert(1)</script>'


def statistics(**changes) -> dict:
    found = dict(answers=48, distinct=31, with_cue=0.9375, mean_cues=1.5, repeats=0.25)
    found |= dict(mostly_cues=0.125, unfinished=0.5, broken_off=0.375)
    return found | {"frequent_words": [["hate", 0.8125], ["worst", 0.5]]} | changes


def make_answers(**changes) -> dict:
    model = {name: statistics() for name in (*EMOTIONS, "all")} | changes
    people = {name: statistics(broken_off=None, with_cue=0.4375) for name in model}
    return {"test": {"model": model, "people": people}}


def make_guidance(**changes) -> dict:
    points = [
        {"guidance": g, "emotion_following": 0.3 + g / 10, "emotion_following_second": 0.25,
         "generated_perplexity": 10 + 5 * g, "response_perplexity": 90 + g, "dist_2": 0.5 - g / 10}
        for g in (0.0, 0.5, 2.0)
    ]  # fmt: skip
    figures = {"test": {"accuracy": 0.55, "weighted_f1": 0.5, "macro_f1": 0.37, "examples": 9}}
    held_out = {"second": {"kind": {"meld": figures}}}
    found = dict(split="test", windows=64, following_windows=48, text_labeller=held_out)
    return found | {"points": points, "people": {"dist_2": 0.858}} | changes


def page_of(folder, answers=None, guidance=None, summary=None) -> str:
    for name, found in (("answers", answers), ("guidance", guidance), ("summary", summary)):
        if found:
            (folder / f"{name}.json").write_text(json.dumps(found))
    return write_report(folder).read_text(encoding="utf-8")


def rows_of(page: str) -> list[list[str]]:
    """The cells of the rows of the tables of statistics, without markup."""
    tables = re.findall(r'<table class="statistics">.*?</table>', page, re.DOTALL)
    rows = [row for table in tables for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[" ".join(re.sub("<[^>]*>", "", c).split()) for c in row] for row in cells]


def test_every_emotion_has_a_row_for_the_model_and_one_for_people(tmp_path):
    _, *rows = rows_of(page_of(tmp_path, make_answers()))
    assert len(rows) == 2 * (len(EMOTIONS) + 1)
    assert [row[0] for row in rows[::2]] == [*EMOTIONS, "all"]
    expected = ["this model", "48", "31", "94%", "1.50", "12%", "25%", "50%", "38%"]
    assert rows[0][1:] == [*expected, "hate 81%, worst 50%"]
    assert rows[1] == ["people", "48", "31", "44%", *expected[4:8], "–", "hate 81%, worst 50%"]


def test_guidance_is_drawn_and_tabled(tmp_path):
    page = page_of(tmp_path, guidance=make_guidance())
    charts_of = re.findall(r'<svg class="chart" viewBox="0 0 360 190".*?</svg>', page, re.DOTALL)
    assert len(charts_of) == 3
    for text in charts_of:
        svg = ElementTree.fromstring(text)
        assert "following of the face against" in svg.get("aria-label")
        assert len(svg.findall("circle")) == 2 * 3 and len(svg.findall("path[@class]")) >= 2
        labels = [node.text for node in svg.findall("text")]
        assert labels == ["0", "0.5", "2"] * 2
    head, *rows = rows_of(page)
    assert head[:2] == ["guidance", "follow the face"] and "broken off" not in head
    assert [row[0] for row in rows] == ["0", "0.5", "2", "people"]
    assert rows[1][1:] == ["35.0%", "25.0%", "12.5", "90.5", "0.450"]
    assert rows[3][1:] == ["–", "–", "–", "–", "0.858"]
    assert "meld, test: accuracy 0.550, macro-F1 0.370, weighted F1 0.500" in page


def test_without_a_second_labeller_it_has_no_line_and_no_column(tmp_path):
    found = make_guidance(text_labeller=None)
    for point in found["points"]:
        del point["emotion_following_second"]
    page = page_of(tmp_path, guidance=found)
    assert "second labeller" not in page and page.count('class="dot series0"') == 3 * 3


def test_a_labellers_own_figures_are_beside_what_it_finds(tmp_path):
    held_out = make_guidance()["text_labeller"]
    held_out["third"] = {"other kind": {"meld": {"valid": {"accuracy": 0.25, "macro_f1": 0.125}}}}
    evaluation = {"test": {"emotion_following": 0.6, "emotion_following_second": 0.4}}
    evaluation["test"]["response_emotion_macro_f1_third"] = 0.2
    summary = {"evaluation": evaluation, "text_labeller": held_out}
    page = page_of(tmp_path, summary=summary)
    row = r'<tr><th scope="row">{}.*?</tr>'
    (second,) = re.findall(row.format("Emotion following, second labeller"), page, re.DOTALL)
    assert "accuracy 0.550, macro-F1 0.370" in second and "40.0%" in second
    (third,) = re.findall(row.format("Its macro-F1, third labeller"), page, re.DOTALL)
    assert "accuracy 0.250, macro-F1 0.125" in third and "0.370" not in third
    (first,) = re.findall(row.format("Emotion following <"), page, re.DOTALL) or [""]
    assert "held out" not in first
    assert "The third labeller (other kind)" in page
    assert "labeller (" not in page_of(tmp_path, summary={"evaluation": {}})


@pytest.mark.parametrize("found", [None, 3, [], {"meld": {"valid": {"accuracy": 0.5}}}, {"x": 1}])
def test_figures_of_labellers_that_are_none_are_left_out(tmp_path, found):
    evaluation = {"test": {"emotion_following_second": 0.4}}
    page = page_of(tmp_path, summary={"text_labeller": found, "evaluation": evaluation})
    assert "40.0%" in page and "That labeller" not in page
    guidance = make_guidance(text_labeller=found)
    assert "labeller (" not in page_of(tmp_path, guidance=guidance)


def test_words_of_an_answer_stay_words(tmp_path):
    answers = make_answers(joy=statistics(frequent_words=[[ATTACK, 0.5]]))
    guidance = make_guidance(
        split=ATTACK, text_labeller={ATTACK: {ATTACK: {"x": {"y": {"accuracy": 0.5}}}}}
    )
    page = page_of(tmp_path, answers, guidance)
    assert "alert(1)</script>" not in page
    assert page.count(html.escape(ATTACK, quote=False).split("&gt;", 1)[1]) == 4


def test_a_tradeoff_keeps_order_inside_the_plot():
    points = [(3.0, 0.2, "0"), (9.0, 0.5, "1"), (5.0, 0.9, "2"), (math.inf, 0.1, "3")]
    chart = charts.tradeoff({"a": points, "b": [(1.0, math.nan, "x")]})
    assert list(chart.series) == ["a"]
    assert [label for *_, label in chart.series["a"]] == ["0", "1", "2"]
    xs, ys = ([point[i] for point in chart.series["a"]] for i in (0, 1))
    assert xs[0] < xs[2] < xs[1] and ys[0] > ys[1] > ys[2]
    assert min(xs) > charts.LEFT and max(xs) < charts.RIGHT
    assert min(ys) > charts.TOP and max(ys) < charts.BOTTOM
    assert charts.tradeoff({"a": points[3:]}) is None
    one = charts.tradeoff({"a": [(0.0, 0.0, "0")]})
    assert charts.LEFT < one.series["a"][0][0] < charts.RIGHT


def test_a_tradeoff_over_a_long_range_is_logarithmic():
    points = [(50.0, 0.5, "0"), (500.0, 0.5, "1"), (5_000.0, 0.5, "2")]
    chart = charts.tradeoff({"a": points})
    first, second, third = (x for x, *_ in chart.series["a"])
    assert chart.log and second - first == pytest.approx(third - second, abs=0.2)
    assert first > charts.LEFT and third < charts.RIGHT
    assert [value for _, value in chart.x_ticks] == pytest.approx([100, 300, 1_000, 3_000])
    assert [x for x, _ in chart.x_ticks] == sorted(x for x, _ in chart.x_ticks)
    assert not charts.tradeoff({"a": [(x + 300, y, label) for x, y, label in points]}).log
    assert not charts.tradeoff({"a": [(0.0, 0.5, "none"), *points]}).log


@pytest.mark.parametrize("found", [{}, {"points": []}, {"points": [{"guidance": None}]}])
def test_an_empty_file_shows_nothing(tmp_path, found):
    assert "What guidance buys" not in page_of(tmp_path, guidance=found)

"""The report of a made-up run."""

import html.parser
import itertools
import json
import math
import re

import emotion_scores
import made_up_run
import numpy as np
import pytest

from igerg_jax import metrics, prediction_metrics
from igerg_jax.batch import EMOTIONS
from igerg_jax.errors import UserError
from igerg_jax.report import write_report
from igerg_jax.report.evaluation import by_split, confusions


@pytest.fixture
def workdir(tmp_path):
    """The folder of a made-up run with all its files."""
    made_up_run.fill(tmp_path)
    return tmp_path


class Page(html.parser.HTMLParser):
    """What a browser would find: balanced tags, ids, links, text by element."""

    VOID = frozenset({"meta", "img", "input", "br", "link", "hr", "wbr"})

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag, **attributes):
        wanted = {k.rstrip("_"): v for k, v in attributes.items()}
        return [a for t, a in self.tags if t == tag and wanted.items() <= a.items()]


def report(folder) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_one_file_that_fetches_nothing(workdir):
    before = {p.name for p in workdir.iterdir()}
    path = write_report(workdir)
    assert {p.name for p in workdir.iterdir()} - before == {"report.html"}
    page = Page(path.read_text(encoding="utf-8"))
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed"), tag
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/")), f"<{tag} {name}={value[:40]}>"
    raw = re.sub(r'"data:image/[^"]*"', "", path.read_text(encoding="utf-8"))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", raw)
    assert set(re.findall(r"https?://[^\s\"']*", raw)) <= {"http://www.w3.org/2000/svg"}


def test_every_metric_of_an_evaluation_has_a_name_and_a_sentence(workdir):
    confusion = prediction_metrics.confusion_matrix(np.array([0]), np.array([0]))
    measured = metrics.of_texts(["a b c d"], ["a b c d"]) | {"judge_accuracy": 0.7}
    for name in ("image_emotion", "sequence_emotion", "response_emotion"):
        measured |= emotion_scores.classification_metrics(name, confusion)
    measured |= {"response_perplexity": 9.0, "unigram_perplexity": 90.0}
    (workdir / "summary.json").write_text(json.dumps({"evaluation": {"test": measured}}))
    assert "Other" not in report(workdir).text
    assert all(m.title and m.explanation for group in metrics.GROUPS.values() for m in group)
    measured["unheard_of"] = 0.123
    (workdir / "summary.json").write_text(json.dumps({"evaluation": {"test": measured}}))
    text = report(workdir).text
    assert "Other" in text and "unheard_of" in text and "0.123" in text


@pytest.mark.parametrize(
    ("change", "worse"),
    [
        ({}, 0),
        ({"image_emotion_accuracy": 0.24}, 1),
        ({"image_emotion_accuracy": 0.2418}, 1),  # as good as the majority class
        ({"response_perplexity": 300.0}, 1),
        ({"response_perplexity": 300.0, "unigram_perplexity": math.nan}, 0),
        ({"mean_words": 1.0, "dist_1": 0.0}, 0),  # people's responses are not a baseline
    ],
)
def test_a_figure_that_does_not_beat_its_baseline_is_marked(workdir, change, worse):
    summary = made_up_run.make_summary()
    summary["evaluation"]["test"] |= change
    (workdir / "summary.json").write_text(json.dumps(summary))
    page = report(workdir)
    assert page.text.count("no better than the baseline") == worse
    assert page.text.count("no better than this") == worse
    assert len(page.all("span", class_="meter ours worse")) == worse


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (
            {"chitchat": "word list", "meld": "annotators"},
            "word list also gave chitchat its labels",
        ),
        ({"meld": "annotators"}, "word list labelled none of this run's data"),
        (None, "If the word list also labelled the data"),  # an older run's
        ("chitchat", "If the word list also labelled the data"),
    ],
)
def test_it_says_what_the_word_list_has_to_do_with_the_labels(workdir, labels, says):
    summary = made_up_run.make_summary() | {"labels": labels}
    (workdir / "summary.json").write_text(json.dumps(summary))
    window = {"index": 0, "context": [], "responses": []}
    made_up_run.write_lines(workdir / "following.jsonl", [window])
    assert report(workdir).text.count(says) == 2, "beside the seven faces and in the gallery"


def test_the_parts_of_a_loss_follow_it(workdir):
    records = made_up_run.make_records(100, 10)
    for record in records:
        record |= {"loss/text_denoising/late": 1.0, "loss/new": 2.0}
    made_up_run.write_lines(workdir / "metrics.jsonl", records)
    page = report(workdir)
    labels = [a["aria-label"] for a in page.all("svg", class_="chart") if "aria-label" in a]
    names = [label.partition(",")[0] for label in labels]
    assert names[0] == "total" and names[len(made_up_run.OBJECTIVES) + 2] == "new"
    assert names[names.index("text_denoising") + 1] == "text_denoising/late"
    assert "part of text_denoising" in page.text


def test_same_files_give_the_same_bytes(workdir):
    first = write_report(workdir).read_bytes()
    assert write_report(workdir).read_bytes() == first


def test_what_figures_rest_on_stands_beside_them(workdir):
    text = " ".join(report(workdir).text.split())
    assert "81.2% ± 4.6% faces named correctly · 97 different faces" in text
    assert "Test: 1,512 windows of 43 conversations, with 97 different labelled faces" in text
    assert "Validation: 1,512" not in text  # one of its sizes is no number


def test_each_emotion_has_its_scores(workdir):
    matrix = np.zeros((7, 7), int)
    matrix[3, 3], matrix[3, 4], matrix[2, 3] = 6, 2, 3  # joy: precision 6/9, recall 6/8
    summary = made_up_run.make_summary() | {"confusion_matrix": {"test": matrix.tolist()}}
    summary.pop("response_matrix")
    (workdir / "summary.json").write_text(json.dumps(summary))
    text = " ".join(report(workdir).text.split())
    assert "joy 0.667 0.750 0.706 8" in text
    assert "sadness 0.000 – 0.000 0" in text and "surprise – – – 0" in text


def test_positive_curves_have_a_logarithmic_twin(workdir):
    records = made_up_run.make_records(100, 10)
    for record in records:
        if "loss/total" in record:
            record |= {"loss/falls": 10 ** (3 - record["step"] / 50), "loss/signed": -1.0}
    made_up_run.write_lines(workdir / "metrics.jsonl", records)
    charts = {a.get("aria-label", ""): a for a in report(workdir).all("svg")}
    (log,) = (a for label, a in charts.items() if label.startswith("logarithmic: falls"))
    places = [tuple(map(float, p.split(","))) for p in log["data-points"].split()]
    slopes = {round((b[3] - a[3]) / (b[2] - a[2]), 1) for a, b in itertools.pairwise(places[3:])}
    assert len(slopes) == 1, "exponential decay is a straight line"
    assert not [label for label in charts if label.startswith("logarithmic: signed")]


def test_conversations_can_be_chosen_by_emotion_and_linked_to(workdir):
    page, text = report(workdir), write_report(workdir).read_text("utf-8")
    cards = page.all("article")
    for sample, card in zip(made_up_run.make_samples(6), cards, strict=True):
        assert card.get("data-meant") == sample["reference_emotion"]
        assert card["id"] == f"conversation-{sample['index']}"
        assert page.all("a", href=f"#{card['id']}")
    for name in EMOTIONS:
        assert page.all("input", id=f"meant-{name}") and page.all("label", for_=f"meant-{name}")
        assert f':has(#meant-{name}:checked) .card:not([data-meant="{name}"])' in text


def test_every_objective_has_a_chart_and_every_metric_a_row(workdir):
    page = report(workdir)
    labels = [a["aria-label"] for a in page.all("svg", class_="chart") if "aria-label" in a]
    for name in ["total", *made_up_run.OBJECTIVES]:
        assert sum(label.startswith(f"{name},") for label in labels) == 1, name
    for name in made_up_run.OBJECTIVES:
        assert f"learn {name} & more" in page.text
    starts = len(made_up_run.make_summary()["history"]["entries"])
    rows = len(page.all("th", scope="row")) - 2 * len(EMOTIONS) - starts
    evaluated = made_up_run.make_summary()["evaluation"]["test"]
    of_model = {k for k in evaluated if not k.startswith(("reference_", "unigram"))}
    of_model = {k for k in of_model if not k.endswith("_standard_error")}
    assert rows == len({k for k in of_model if not k.endswith("majority_rate")})
    for text in ("81.2%", "24.2%", "65.4", "214.8", "103.2", "2,012,345", "3 min 7 s", "step 200"):
        assert text in page.text, text
    assert "Test: 57.6% of people's responses are longer than 20 tokens and 3.4% of" in page.text
    assert "Validation: " not in page.text  # its shares are no numbers


def test_splits_of_any_name_are_shown_and_the_test_split_leads(workdir):
    summary = made_up_run.make_summary()
    figures = summary["evaluation"]["test"]
    names = {"test": 0.8123, "later": 0.7111, "<b>": 0.6222, "valid": 0.5333}
    summary["evaluation"] = {
        name: figures | {"image_emotion_accuracy": value} for name, value in names.items()
    }
    summary["confusion_matrix"] = {name: summary["confusion_matrix"]["test"] for name in names}
    (workdir / "summary.json").write_text(json.dumps(summary))
    records = [
        {key.replace("valid/", "dev/"): value for key, value in record.items()}
        for record in made_up_run.make_records(600, 10)
    ]
    made_up_run.write_lines(workdir / "metrics.jsonl", records)
    page = report(workdir)
    for title in ("Validation", "Split 'later'", "Split '<b>'", "Test"):
        assert title in page.text, title
    for value in names.values():
        assert f"{value:.1%}" in page.text
    assert "dev, by step" in page.text, "the split that was evaluated during training"
    titles = ["Validation", "Split 'later'", "Split '<b>'", "Test"]
    assert list(by_split(summary["evaluation"])) == titles
    assert list(confusions(summary["confusion_matrix"])) == titles[::-1]


def test_says_how_often_it_was_started_and_where_it_comes_from(workdir):
    text = report(workdir).text
    for words in ("71% of the time", "200 to 600", "killed", "host-of-tests", "0123456789abcdef"):
        assert words in text, words
    assert "main.py --config=<made up>" in text and "python 3.99, jax 9.9" in text


@pytest.mark.parametrize(
    "found", [None, 7, [], {"entries": 3}, {"entries": [None, {}], "starts": "x"}]
)
def test_a_history_that_is_none_is_left_out(workdir, found):
    (workdir / "summary.json").write_text(
        json.dumps(made_up_run.make_summary() | {"history": found})
    )
    assert "Goodput" not in report(workdir).text


@pytest.mark.parametrize(
    "line", ["[1]", "7", "null", '{"step": "x", "loss/total": 1}', '{"step": []}']
)
def test_lines_that_are_no_records_are_passed_over(workdir, line):
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    assert "total" in report(workdir).text


def test_accessible_basics(workdir):
    page = report(workdir)
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.all("svg"))
    assert all(a.get("scope") for a in page.all("th"))
    assert page.all("meta", name="viewport") and page.all("html", lang="en")
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} | {a["for"] for a in page.all("label")} <= set(
        ids
    )


def test_gallery_shows_every_sample_and_marks_agreement(workdir):
    samples = made_up_run.make_samples(6)
    page = report(workdir)
    cards = [a["class"] for t, a in page.tags if t == "article"]
    expected = [
        "unjudged"
        if s["reference_emotion"] is None
        else ("right" if s["reference_emotion"] == s["spoken_emotion"] else "wrong")
        for s in samples
    ]
    assert cards == [f"card {kind}" for kind in expected]
    images = sum(t["image"] is not None for s in samples for t in s["context"])
    images += sum(s["response_image"] is not None for s in samples)
    assert len(page.all("img")) == images
    for sample in samples:
        for text in [sample["reference"], *(t["text"] for t in sample["context"])]:
            assert text in page.text
    assert "(nothing)" in page.text  # the one that generated no words


def test_samples_over_time_show_each_evaluation_once_and_the_last_one_first(workdir):
    assert "over-time" not in {tag.get("id") for tag in report(workdir).all("section")}
    line = {"index": 4, "turn": "<i>hey</i>", "face": "https://elsewhere/face.jpg"}
    said = [(50, "aaa"), (100, "lost bbb"), (100, "<b>ccc</b>"), (150, "ddd")]
    lines = [line | {"step": step, "generated": words} for step, words in said]
    damaged = [{"step": 7}, line | {"step": [1]}, line | {"step": 200, "generated": 7, "turn": {}}]
    made_up_run.write_lines(workdir / "progress.jsonl", [*lines, *damaged])
    page = report(workdir)
    places = [page.text.index(words) for words in ("ddd", "<b>ccc</b>", "aaa")]
    assert places == sorted(places) and "bbb" not in page.text and "step 200" in page.text
    assert not [tag for tag in page.all("img") if tag["src"].startswith("https")]


def test_words_of_a_conversation_stay_words(workdir):
    sample = made_up_run.make_samples(1)[0]
    attack = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    sample |= {"reference": attack, "generated": attack, "spoken_emotion": attack, "index": attack}
    sample["context"][0] |= {"text": attack, "emotion": attack, "image": f"https://e.xyz/{attack}"}
    sample["context"][0]["seen"] = {attack: 0.9}
    made_up_run.write_lines(workdir / "samples.jsonl", [sample])
    summary = made_up_run.make_summary() | {
        "name": attack,
        "devices": attack,
        "parameters": {attack: 7},
    }
    summary["objectives"] = {attack: {"summary": attack}}
    summary["evaluation"]["test"][attack] = 1.0
    (workdir / "summary.json").write_text(json.dumps(summary))
    (workdir / "config.json").write_text(json.dumps({"data": attack}))
    made_up_run.write_lines(
        workdir / "metrics.jsonl", [{"step": s, f"loss/{attack}": 1.0} for s in (1, 2)]
    )
    page = report(workdir)
    assert len(page.all("script")) == 1
    assert not [a for t, a in page.tags if a.get("src", "data:image/")[:11] != "data:image/"]
    assert not [a for _, a in page.tags if "onerror" in a]
    assert page.text.count(attack) >= 12


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("config.json", "no config.json"),
        ("metrics.jsonl", "no metrics.jsonl"),
        ("samples.jsonl", "no samples.jsonl"),
        ("summary.json", "no summary.json"),
    ],
)
def test_a_missing_file_is_said_and_the_rest_is_shown(workdir, name, says):
    (workdir / name).unlink()
    page = report(workdir)
    assert says in page.text
    assert len(page.all("section", class_="part")) == 6


def test_an_evaluation_in_a_folder_of_its_own_is_no_unfinished_run(workdir):
    (workdir / "metrics.jsonl").unlink()
    evaluation = {"evaluation": made_up_run.make_summary()["evaluation"]}
    (workdir / "summary.json").write_text(json.dumps(evaluation))
    text = report(workdir).text
    assert "trained elsewhere, evaluated" in text
    assert "no summary yet" not in text and "no metrics.jsonl" not in text


def test_an_empty_folder_gives_a_report_that_says_so(tmp_path):
    page = report(tmp_path)
    assert len(page.all("p", class_="missing")) == 6
    assert "not been evaluated" in page.text and "no confusion matrix" in page.text


def test_what_is_not_a_number_is_left_out(workdir):
    summary = made_up_run.make_summary()
    summary["evaluation"]["test"] |= {"bleu_1": math.nan, "response_perplexity": math.inf}
    summary |= {"resumed_from": None, "examples_per_second": None, "evaluation_extra": 1}
    (workdir / "summary.json").write_text(json.dumps(summary))
    records = made_up_run.make_records(600, 10)
    records[3]["loss/total"] = math.nan
    for record in records:
        if "loss/image_emotion" in record:
            record["loss/image_emotion"] = math.nan
    made_up_run.write_lines(workdir / "metrics.jsonl", records)
    text = write_report(workdir).read_text(encoding="utf-8")
    assert "No finite value was logged" in text and "not resumed" in text
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"base64,[^\"]*", "", text))


def test_a_log_cut_short_or_written_twice_by_a_resume_is_read(workdir):
    records = made_up_run.make_records(100, 10)
    again = [r | {"loss/total": 5.0} for r in records if r["step"] > 50 and "loss/total" in r]
    made_up_run.write_lines(workdir / "metrics.jsonl", records + again)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 110, "loss/to')
    page = report(workdir)
    assert "1 unreadable line of the logs" in page.text
    [chart] = [a for a in page.all("svg") if a.get("aria-label", "").startswith("total,")]
    steps = [float(p.split(",")[0]) for p in chart["data-points"].split()]
    assert steps == sorted(set(steps)) == list(range(10, 101, 10))
    assert "at 100" in chart["aria-label"]


def test_user_errors(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json"):
        write_report(tmp_path)


def test_a_long_run_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    records = [{"step": s, "loss/total": float(rng.random())} for s in range(20_000)]
    made_up_run.write_lines(tmp_path / "metrics.jsonl", records)
    assert len(write_report(tmp_path).read_bytes()) < 120_000

"""The report of a made-up run: nothing here was measured; the words and figures are test data."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import math
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from igerg_jax import metrics
from igerg_jax.batch import EMOTIONS
from igerg_jax.errors import UserError
from igerg_jax.report import write_report

CUT = {"contexts": 0.034, "responses": 0.576, "context_tokens": 96, "response_tokens": 20}
OBJECTIVES = {
    "image_emotion": (1.95, 0.35),
    "sequence_emotion": (1.94, 0.6),
    "text_denoising": (8.3, 4.6),
    "text_emotion": (1.95, 0.5),
    "masked_multimodal": (10.1, 5.4),
    "emotional_response": (8.3, 4.3),
    "image_text_contrastive": (2.4, 1.2),
}
LINES = {
    "surprise": "wow, I did not expect that at all!",
    "fear": "I'm scared, what if it goes wrong?",
    "disgust": "ugh, that smells <b>awful</b> & looks worse",
    "joy": "haha that's great, I'm so happy for you :)",
    "sadness": "I miss my old friends, it's been a lonely week since I moved to the new town",
    "anger": "stop it, this makes me so angry",
    "neutral": "I work from nine to five on weekdays.",
}


def face(emotion: str, rng: np.random.Generator, side: int = 64) -> str:
    """A drawn stand-in for a face, as a data URI."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (side, side), tuple(int(c) for c in rng.integers(180, 255, 3)))
    draw, s = ImageDraw.Draw(image), side / 64
    draw.ellipse([8 * s, 8 * s, 56 * s, 56 * s], fill=(252, 210, 80), outline=(60, 50, 20))
    for x in (22, 38):
        draw.ellipse([x * s, 24 * s, (x + 5) * s, 30 * s], fill=(60, 50, 20))
    mouth = {"joy": (20, 160), "sadness": (200, 340), "anger": (200, 340), "surprise": (0, 360)}
    start, end = mouth.get(emotion, (60, 120))
    draw.arc([22 * s, 34 * s, 42 * s, 50 * s], start, end, fill=(60, 50, 20), width=int(3 * s))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def seen(emotion: str, rng: np.random.Generator) -> dict[str, float]:
    """Seven made-up probabilities that lean towards one emotion."""
    leaning = emotion if rng.random() < 0.8 else str(rng.choice(EMOTIONS))
    values = rng.dirichlet(np.where(np.array(EMOTIONS) == leaning, 8.0, 0.4))
    return dict(zip(EMOTIONS, values.tolist(), strict=True))


def make_samples(count: int) -> list[dict]:
    rng = np.random.default_rng(0)

    def turn(labelled: bool = True, image: bool = True) -> dict:
        emotion = str(rng.choice(EMOTIONS))
        return {
            "text": LINES[emotion],
            "emotion": emotion if labelled else None,
            "seen": seen(emotion, rng) if image else None,
            "image": face(emotion, rng) if image else None,
            "has_image": image,
        }

    samples = []
    for index in range(count):
        turns = [turn(image=rng.random() > 0.15) for _ in range(rng.integers(1, 6))]
        meant = turn(labelled=index % 5 != 4)
        said = meant["emotion"] if rng.random() < 0.6 else str(rng.choice(EMOTIONS))
        samples.append(
            {
                "index": index,
                "context": turns,
                "response_image": meant if index % 4 else None,
                "reference": meant["text"],
                "reference_emotion": meant["emotion"],
                "generated": LINES[said or "neutral"] if index != 3 else "",
                "spoken_emotion": said or "neutral",
                "judge": seen(said or "neutral", rng) if index % 2 else None,
            }
        )
    return samples


def make_records(steps: int, every: int) -> list[dict]:
    rng = np.random.default_rng(1)
    records = []
    for step in range(every, steps + 1, every):
        losses = {
            f"loss/{name}": last + (first - last) * math.exp(-4 * step / steps) + rng.normal(0, 0.1)
            for name, (first, last) in OBJECTIVES.items()
        }
        records.append(
            {
                "step": step,
                "wall_seconds": step * 0.3,
                "loss/total": sum(losses.values()),
                **losses,
                "learning_rate": 1e-3 * min(1, step / 50) * (1 - step / steps * 0.99),
                "examples_per_second": 100 + rng.normal(0, 4),
                "input_wait_fraction": 0.02 + 0.01 * rng.random(),
                "grad_norm": 2 + rng.exponential(1),
            }
        )
        if step % (steps // 4) == 0:
            share = step / steps
            records.append(
                {
                    "step": step,
                    "valid/image_emotion_accuracy": 0.2 + 0.6 * share,
                    "valid/sequence_emotion_accuracy": 0.2 + 0.5 * share,
                    "valid/response_perplexity": 60 + 300 * math.exp(-4 * share),
                }
            )
    return records


def make_summary() -> dict:
    rng = np.random.default_rng(2)
    evaluation = {
        "image_emotion_accuracy": 0.8123,
        "image_emotion_macro_f1": 0.774,
        "image_emotion_majority_rate": 0.2418,
        "sequence_emotion_accuracy": 0.702,
        "sequence_emotion_macro_f1": 0.61,
        "sequence_emotion_majority_rate": 0.31,
        "response_perplexity": 65.4,
        "unigram_perplexity": 214.8,
        "rouge_1": 13.2,
        "rouge_2": 2.6,
        "rouge_l": 11.9,
        "entropy_4": 5.71,
        "reference_entropy_4": 7.9,
        "mean_words": 7.4,
        "reference_mean_words": 9.1,
        "response_emotion_accuracy": 0.534,
    }
    evaluation |= {f"bleu_{n}": 15.0 / n**2 for n in range(1, 5)}
    evaluation |= {f"dist_{n}": 0.02 * n for n in range(1, 5)}
    evaluation |= {f"reference_dist_{n}": 0.09 * n for n in range(1, 5)}
    confusion = rng.poisson(2, (7, 7)) + np.diag(rng.integers(20, 80, 7))
    return {
        "name": "made-up run",
        "preset": "test data",
        "steps": 600,
        "final_step": 600,
        "resumed_from": 200,
        "wall_seconds": 187.4,
        "examples_per_second": 103.2,
        "seconds_to_first_step": 21.3,
        "parameters": {"vision": 420_000, "text": 1_510_000, "judge": 60_000, "total": 2_012_345},
        "devices": "1 x cpu",
        "objectives": {
            k: {"summary": f"learn {k} & more", "first_loss": a, "last_loss": b}
            for k, (a, b) in OBJECTIVES.items()
        },
        "skipped_steps": 0,
        "evaluation": {"valid": {k: v * 1.02 for k, v in evaluation.items()}, "test": evaluation},
        "confusion_matrix": {"test": confusion.tolist()},
        "cut": {"test": CUT, "valid": CUT | {"contexts": None}},
    }


@pytest.fixture
def workdir(tmp_path):
    """The folder of a made-up run with all its files."""
    fill(tmp_path)
    return tmp_path


def fill(folder, samples: int = 6) -> None:
    config = {"name": "made-up run", "data": {"dataset": "test <data>"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps(make_summary()))
    write_lines(folder / "metrics.jsonl", make_records(600, 10))
    write_lines(folder / "samples.jsonl", make_samples(samples))


def write_lines(path, objects) -> None:
    path.write_text("".join(json.dumps(o) + "\n" for o in objects))


class Page(html.parser.HTMLParser):
    """What a browser would find: balanced tags, ids, links, text by element."""

    VOID = frozenset({"meta", "img", "input", "br", "link", "hr"})

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
    confusion = metrics.confusion_matrix(np.array([0]), np.array([0]))
    measured = metrics.text_metrics(["a b c d"], ["a b c d"]) | {"judge_accuracy": 0.7}
    for name in ("image_emotion", "sequence_emotion", "response_emotion"):
        measured |= metrics.classification_metrics(name, confusion)
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
        ({"image_emotion_accuracy": 0.2418}, 1),  # as good as always the commonest
        ({"response_perplexity": 300.0}, 1),
        ({"response_perplexity": 300.0, "unigram_perplexity": math.nan}, 0),
        ({"mean_words": 1.0, "dist_1": 0.0}, 0),  # people's responses are not a baseline
    ],
)
def test_a_figure_that_does_not_beat_its_baseline_is_marked(workdir, change, worse):
    summary = make_summary()
    summary["evaluation"]["test"] |= change
    (workdir / "summary.json").write_text(json.dumps(summary))
    page = report(workdir)
    assert page.text.count("no better than the baseline") == worse
    assert page.text.count("no better than this") == worse
    assert len(page.all("span", class_="meter ours worse")) == worse


def test_the_parts_of_a_loss_follow_it(workdir):
    records = make_records(100, 10)
    for record in records:
        record |= {"loss/text_denoising/late": 1.0, "loss/new": 2.0}
    write_lines(workdir / "metrics.jsonl", records)
    page = report(workdir)
    labels = [a["aria-label"] for a in page.all("svg", class_="chart") if "aria-label" in a]
    names = [label.partition(",")[0] for label in labels]
    assert names[0] == "total" and names[len(OBJECTIVES) + 2] == "new"
    assert names[names.index("text_denoising") + 1] == "text_denoising/late"
    assert "part of text_denoising" in page.text


def test_same_files_give_the_same_bytes(workdir):
    first = write_report(workdir).read_bytes()
    assert write_report(workdir).read_bytes() == first


def test_every_objective_has_a_chart_and_every_metric_a_row(workdir):
    page = report(workdir)
    labels = [a["aria-label"] for a in page.all("svg", class_="chart") if "aria-label" in a]
    for name in ["total", *OBJECTIVES]:
        assert sum(label.startswith(f"{name},") for label in labels) == 1, name
    for name in OBJECTIVES:
        assert f"learn {name} & more" in page.text
    rows = len(page.all("th", scope="row")) - len(EMOTIONS)
    evaluated = make_summary()["evaluation"]["test"]
    own = {k for k in evaluated if not k.startswith(("reference_", "unigram"))}
    assert rows == len({k for k in own if not k.endswith("majority_rate")})
    for text in ("81.2%", "24.2%", "65.4", "214.8", "103.2", "2,012,345", "3 min 7 s", "step 200"):
        assert text in page.text, text
    assert "Test: 57.6% of people's responses are longer than 20 tokens and 3.4% of" in page.text
    assert "Validation: " not in page.text  # its shares are no numbers


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
    samples = make_samples(6)
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


def test_words_of_a_conversation_stay_words(workdir):
    sample = make_samples(1)[0]
    attack = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    sample |= {"reference": attack, "generated": attack, "spoken_emotion": attack, "index": attack}
    sample["context"][0] |= {"text": attack, "emotion": attack, "image": f"https://e.xyz/{attack}"}
    sample["context"][0]["seen"] = {attack: 0.9}
    write_lines(workdir / "samples.jsonl", [sample])
    summary = make_summary() | {"name": attack, "devices": attack, "parameters": {attack: 7}}
    summary["objectives"] = {attack: {"summary": attack}}
    summary["evaluation"]["test"][attack] = 1.0
    (workdir / "summary.json").write_text(json.dumps(summary))
    (workdir / "config.json").write_text(json.dumps({"data": attack}))
    write_lines(workdir / "metrics.jsonl", [{"step": s, f"loss/{attack}": 1.0} for s in (1, 2)])
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


def test_an_empty_folder_gives_a_report_that_says_so(tmp_path):
    page = report(tmp_path)
    assert len(page.all("p", class_="missing")) == 6
    assert "not been evaluated" in page.text and "no confusion matrix" in page.text


def test_what_is_not_a_number_is_left_out(workdir):
    summary = make_summary()
    summary["evaluation"]["test"] |= {"bleu_1": math.nan, "response_perplexity": math.inf}
    summary |= {"resumed_from": None, "examples_per_second": None, "evaluation_extra": 1}
    (workdir / "summary.json").write_text(json.dumps(summary))
    records = make_records(600, 10)
    records[3]["loss/total"] = math.nan
    for record in records:
        if "loss/image_emotion" in record:
            record["loss/image_emotion"] = math.nan
    write_lines(workdir / "metrics.jsonl", records)
    text = write_report(workdir).read_text(encoding="utf-8")
    assert "No finite value was logged" in text and "not resumed" in text
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"base64,[^\"]*", "", text))


def test_a_log_cut_short_or_written_twice_by_a_resume_is_read(workdir):
    records = make_records(100, 10)
    again = [r | {"loss/total": 5.0} for r in records if r["step"] > 50 and "loss/total" in r]
    write_lines(workdir / "metrics.jsonl", records + again)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 110, "loss/to')
    page = report(workdir)
    assert "1 half-written line of the logs" in page.text
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


def test_command(workdir):
    def run(*arguments):
        command = [sys.executable, "-m", "igerg_jax.report", *map(str, arguments)]
        root = pathlib.Path(__file__).parents[2]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)

    done = run(workdir)
    assert done.returncode == 0 and done.stdout.strip() == str(workdir / "report.html")
    done = run(workdir / "nowhere")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_a_long_run_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    records = [{"step": s, "loss/total": float(rng.random())} for s in range(20_000)]
    write_lines(tmp_path / "metrics.jsonl", records)
    assert len(write_report(tmp_path).read_bytes()) < 120_000

"""Human evaluation: the page is blind and complete, and simulated annotators are recovered."""

from __future__ import annotations

import html
import importlib.util
import json
import math
import re

import numpy as np
import pytest

from igerg_jax.errors import UserError
from igerg_jax.tools.human_eval import __main__ as tool
from igerg_jax.tools.human_eval import agreement, pairs

ATTACK = '</script><script>alert("x")</script>'
CRITERIA = list(pairs.CRITERIA)


def put_run(folder, says: str, count: int = 20, alike: int = 0):
    """Samples whose responses name the run; the first `alike` are those of every run."""
    folder.mkdir()
    rows = [
        {
            "index": i,
            "context": [{"text": f"hello {i}", "image": "data:image/jpeg;base64,AAAA"}],
            "response_image": {"image": "data:image/jpeg;base64,BBBB", "emotion": "joy"},
            "reference": f"what people said {i}",
            "generated": "the same" if i < alike else f"{says} {i}",
            "judge": {"joy": 0.9},
        }
        for i in range(count)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def two_runs(tmp_path):
    return [put_run(tmp_path / f"run{name}", f"says{name}", alike=4) for name in "AB"]


def page_of(tmp_path, runs, *more: str) -> tuple[str, dict]:
    out = tmp_path / "page.html"
    assert tool.main(["", f"--runs={','.join(runs)}", f"--out={out}", *more]) == 0
    return out.read_text("utf-8"), json.loads((tmp_path / "page.key.json").read_text())


def test_the_page_has_every_pair_that_differs_and_does_not_say_whose_is_whose(tmp_path, two_runs):
    page, key = page_of(tmp_path, two_runs)
    shown = re.findall(r"<section><h2>(\w+)</h2><p>(\w+) (\d+)</p></section>", page)
    assert [side for side, *_ in shown] == ["Left", "Right"] * 16
    numbers = [int(number) for *_, number in shown]
    assert numbers[::2] == numbers[1::2] and sorted(numbers[::2]) == list(range(4, 20))
    assert numbers[::2] != sorted(numbers[::2])
    names = re.findall(r'class="pairing" data-name="(\w+)"', page)
    left = ["saysA" if key["left_run"][name] == 0 else "saysB" for name in names]
    assert [words for _, words, _ in shown][::2] == left
    assert left.count("saysA") == 8 and list(key["windows"].values()) == numbers[::2]
    for secret in (*two_runs, "runA", "runB", "left_run", "what people said", "seed"):
        assert secret not in page
    assert page.count("data:image/jpeg;base64,BBBB") == 16
    assert len(re.findall(r'<input type="radio"', page)) == 16 * 3 * 3
    assert not re.search(r'(src|href)="(?!data:image/|#)', page), "it works offline"


def test_equal_responses_are_counted(tmp_path, two_runs, capsys):
    page_of(tmp_path, two_runs)
    assert "left out 4 of 20 conversations" in capsys.readouterr().out


def test_count_and_seed(tmp_path, two_runs):
    page, key = page_of(tmp_path, two_runs, "--count=5")
    assert len(key["left_run"]) == 5 and page.count('class="pairing"') == 5
    again, same = page_of(tmp_path, two_runs, "--count=5")
    assert (again, same) == (page, key)
    _, other = page_of(tmp_path, two_runs, "--count=5", "--seed=1")
    assert other["page"] != key["page"] and other["windows"] != key["windows"]


def test_words_of_a_response_stay_words(tmp_path):
    runs = [put_run(tmp_path / "a", ATTACK), put_run(tmp_path / "b", "no")]
    page, _ = page_of(tmp_path, runs)
    assert "<script>alert" not in page and html.escape(ATTACK, quote=False)[:20] in page


def annotators(rng, key, truth, reliability: float, count: int) -> list[dict]:
    """What the page exports. Each says what is true (0 = the first run, 1 = neither, 2) with this
    probability, and otherwise what is true of another conversation."""
    found = []
    for number in range(count):
        answers = {}
        for k, (name, left) in enumerate(key["left_run"].items()):
            says = {}
            for criterion in CRITERIA:
                known = rng.random() < reliability
                of_runs = truth[criterion][k if known else rng.integers(len(key["left_run"]))]
                says[criterion] = pairs.CHOICES[of_runs if left == 0 else 2 - of_runs]
            answers[name] = says
        found.append({"page": key["page"], "annotator": str(number), "answers": answers})
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_simulated_annotators_are_recovered(tmp_path, capsys, count):
    """They agree, beyond chance, with the probability that both say what is true."""
    runs = [put_run(tmp_path / name, name, count=600) for name in ("runA", "runB")]
    _, key = page_of(tmp_path, runs, "--count=600")
    rng, reliability = np.random.default_rng(count), 0.8
    shares = {
        "appropriateness": (0.6, 0.1, 0.3),
        "informativeness": (0.3, 0.4, 0.3),
        "emotion": (0.1, 0.2, 0.7),
    }
    counts = {name: np.round(np.multiply(600, of)).astype(int) for name, of in shares.items()}
    truth = {name: rng.permutation(np.repeat(range(3), of)) for name, of in counts.items()}
    files = []
    for i, of in enumerate(annotators(rng, key, truth, reliability, count)):
        files.append(tmp_path / f"{i}.json")
        files[-1].write_text(json.dumps(of))
    capsys.readouterr()
    arguments = [f"--key={tmp_path / 'page.key.json'}", f"--json={tmp_path / 'found.json'}"]
    assert tool.main(["", *arguments, *map(str, files)]) == 0
    printed = capsys.readouterr().out
    assert "win rate of runA" in printed and printed.count("\n") == 2 + 3
    found = json.loads((tmp_path / "found.json").read_text())["criteria"]
    for name, (first, tie, _) in shares.items():
        of = found[name]
        assert of["win_rate"] == pytest.approx(first + tie / 2, abs=0.04)
        assert of["low"] < first + tie / 2 < of["high"] and of["high"] - of["low"] < 0.12
        assert of["kappa"] == pytest.approx(reliability**2, abs=0.06)
        assert (of["annotators"], of["conversations"]) == (count, 600)
        assert of["wins"] + of["ties"] + of["losses"] == 600 * count
        assert of["left_rate"] == pytest.approx(0.5, abs=0.06)
    assert found["appropriateness"]["p"] < 0.01 and found["emotion"]["p"] < 0.01
    assert found["informativeness"]["p"] > 0.01


def test_who_guesses_agrees_by_chance_and_who_prefers_a_side_is_seen(tmp_path):
    left_run = {f"c{i}": i % 2 for i in range(300)}
    rng = np.random.default_rng(1)
    guess = lambda: {n: {"emotion": str(rng.choice(pairs.CHOICES))} for n in left_run}  # noqa: E731
    found = agreement.outcomes([guess(), guess(), guess()], left_run)["emotion"]
    assert abs(found.kappa) < 0.07 and found.low < 0.5 < found.high
    always = {name: {"emotion": "left"} for name in left_run}
    found = agreement.outcomes([always], left_run)["emotion"]
    assert found.left_rate == 1 and found.win_rate == 0.5 and math.isnan(found.kappa)


def test_fleiss_kappa_of_the_published_example():
    """Fleiss (1971) as Wikipedia has it: ten subjects, fourteen raters, five categories."""
    rows = """0 0 0 0 14/0 2 6 4 2/0 0 3 5 6/0 3 9 2 0/2 2 8 1 1/7 7 0 0 0/3 2 6 3 0/2 5 3 2 2
              6 5 2 1 0/0 2 2 3 7""".replace("\n", "/").split("/")
    counts = np.array([[int(x) for x in row.split()] for row in rows])
    assert counts.shape == (10, 5)
    assert agreement.fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)
    # Rows with one rater or none say nothing about agreement.
    alone = np.vstack([counts, [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]])
    assert agreement.fleiss_kappa(alone) == agreement.fleiss_kappa(counts)
    assert math.isnan(agreement.fleiss_kappa(np.array([[3, 0, 0], [3, 0, 0]])))


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="compares with it")
def test_cohens_kappa_is_scikit_learns():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    one = rng.integers(3, size=80)
    other = np.where(rng.random(80) < 0.5, one, rng.integers(3, size=80))
    expected = cohen_kappa_score(one, other)
    assert agreement.cohen_kappa(one, other) == pytest.approx(expected)
    # Of two annotators, where both have answered.
    answer_KxA = np.stack([one, other], 1)
    answer_KxA = np.vstack([answer_KxA, [[agreement.MISSING, 1], [2, agreement.MISSING]]])
    assert agreement.agreement(answer_KxA) == pytest.approx(expected)


def test_what_was_not_answered_does_not_count():
    left_run = {"c1": 0, "c2": 1, "c3": 0}
    answers = [{"c1": {"emotion": "left"}, "c2": {"emotion": "left"}}, {"c1": {"emotion": "same"}}]
    found = agreement.outcomes(answers, left_run)
    emotion = found["emotion"]
    assert (emotion.wins, emotion.ties, emotion.losses) == (1, 1, 1)
    assert emotion.conversations == 2 and emotion.win_rate == 0.5
    assert math.isnan(emotion.low)  # of so few conversations
    nothing = found["appropriateness"]
    assert nothing.annotators == 0 and math.isnan(nothing.win_rate)
    table = agreement.table(found, ["runs/a", "runs/b/"])
    assert "| emotion | 1 | 1 | 1 | 50.0% | – | – |" in table and "a wins" in table


def test_what_is_wrong_is_said(tmp_path, two_runs, capsys):
    page_of(tmp_path, two_runs)
    key = tmp_path / "page.key.json"
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.key.json").mkdir()
    damages = dict(page=[1], left_run={"c1": "x"}, runs=["a", 2])
    damaged = [f"damaged-{name}.json" for name in damages]
    for name, (part, value) in zip(damaged, damages.items(), strict=True):
        (tmp_path / name).write_text(json.dumps(json.loads(key.read_text()) | {part: value}))
    (tmp_path / "other.json").write_text('{"page": "x", "answers": {}}')
    (tmp_path / "none.json").write_text("{}")
    elsewhere = put_run(tmp_path / "c", "says", count=3)
    for arguments, says in (
        ([f"--runs={two_runs[0]}"], "takes two"),
        ([f"--runs={two_runs[0]},{tmp_path / 'empty'}"], "has no samples.jsonl"),
        ([f"--runs={elsewhere},{elsewhere}"], "respond alike"),
        ([f"--runs={','.join(two_runs)}", f"--out={tmp_path}/no/x.html"], "no folder"),
        ([f"--runs={','.join(two_runs)}", f"--out={tmp_path}/empty"], "is not a file"),
        ([f"--runs={','.join(two_runs)}", f"--out={tmp_path}/x.html"], "x.key.json is not a file"),
        ([f"--runs={','.join(two_runs)}", "--count=0"], "at least 1"),
        ([], "--runs is missing"),
        ([f"--key={key}"], "files that annotators exported"),
        ([f"--key={key}", str(tmp_path / "other.json")], "answers page x"),
        ([f"--key={key}", str(tmp_path / "none.json")], "has no answers"),
        ([f"--key={key}", "none.json", f"--json={tmp_path}/no/x.json"], "--json="),
        ([f"--key={key}", "none.json", f"--json={tmp_path}/empty"], "is not a file"),
        ([f"--key={tmp_path / 'other.json'}", str(key)], "not the key"),
        *(([f"--key={tmp_path / name}", str(key)], "not the key") for name in damaged),
    ):
        assert tool.main(["", *arguments]) == 2, arguments
        assert says in capsys.readouterr().err, arguments
    with pytest.raises(UserError, match="in common"):
        lone = put_run(tmp_path / "d", "x", count=1)
        text = (tmp_path / "d" / "samples.jsonl").read_text().replace('"index": 0', '"index": 99')
        (tmp_path / "d" / "samples.jsonl").write_text(text)
        pairs.pairs([elsewhere, lone], 5, 0)

"""The page of the runs in a folder: what it says of each, and how it is served and renewed."""

import html
import http.client
import json
import os
import pathlib
import re
import socket
import threading
import time
import urllib.parse

import made_up_run
import pytest

from igerg_jax.errors import UserError
from igerg_jax.tools.runs import __main__ as tool
from igerg_jax.tools.runs import page, server, status

STEPS = 600


def make_run(folder, stopped: str | None = None, step: int = 300, owner: str = "", **start):
    """A run whose metrics go as far as `step`; it goes on if `stopped` is None."""
    folder.mkdir(parents=True)
    config = {"name": "made-up", "preset": "local", "seed": 5, "train": {"steps": STEPS}}
    (folder / "config.json").write_text(json.dumps(config))
    entry = made_up_run.make_start(0, step, "finished") | {"stopped": stopped} | start
    entry |= {"training_seconds": 80.0}
    (folder / "history.json").write_text(json.dumps([entry]))
    (folder / "lock").write_text(owner or f"process {os.getpid()} on {socket.gethostname()}\n")
    records = [r for r in made_up_run.make_records(STEPS, 10) if r["step"] <= step]
    made_up_run.write_lines(folder / "metrics.jsonl", records)
    lines = [
        {"step": at, "index": index, "turn": "how <i>are</i> you", "face": None}
        | {"reference": "fine", "reference_emotion": "joy"}
        | {"generated": f"answer {index} of step {at}", "spoken_emotion": "neutral"}
        for at in range(100, step + 1, 100)
        for index in (3, 8)
    ]
    made_up_run.write_lines(folder / "progress.jsonl", lines)
    return folder


def one(folder) -> status.Run:
    (found,) = status.find(folder)
    return found


def test_a_run_that_goes_on_has_time_left(tmp_path):
    make_run(tmp_path / "a")
    run = one(tmp_path)
    assert (run.name, run.state, run.step, run.steps) == ("a", status.RUNNING, 300, STEPS)
    assert run.config == "made-up:local" and run.seed == 5
    # 0.3 s per step in `make_records`; the file was written a moment ago.
    assert run.left_seconds == pytest.approx(300 * 0.3, abs=5)
    assert run.seconds == pytest.approx(300 * 0.3)


def test_the_rate_is_that_of_the_last_start(tmp_path):
    folder = make_run(tmp_path / "a", first_step=200)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["step"] > 200 and "wall_seconds" in line:
            line["wall_seconds"] = 7 + 2.0 * (line["step"] - 200)
    made_up_run.write_lines(folder / "metrics.jsonl", lines)
    assert one(tmp_path).left_seconds == pytest.approx(300 * 2.0, abs=5)


@pytest.mark.parametrize(
    ("settings", "state", "reason"),
    [
        (dict(stopped="finished", step=STEPS), status.FINISHED, ""),
        (dict(stopped="SIGINT"), status.STOPPED, "by SIGINT"),
        (dict(stopped="RunError: not <b>finite</b>"), status.FAILED, "RunError: not <b>finite</b>"),
        (dict(step=STEPS), status.EVALUATING, ""),
        (dict(first_step=300), status.STARTING, ""),
        (dict(owner="process 4194999 on " + socket.gethostname()), status.STOPPED, "killed"),
        (dict(owner="process 1 on elsewhere"), status.RUNNING, ""),
    ],
)
def test_states(tmp_path, settings, state, reason):
    make_run(tmp_path / "a", **settings)
    run = one(tmp_path)
    assert run.state == state and run.reason.startswith(reason)
    text = page.render([run], "runs")
    assert f'<span class="state {state}">' in text and "<b>finite" not in text


def test_a_run_elsewhere_that_is_silent_has_stopped(tmp_path):
    folder = make_run(tmp_path / "a", owner="process 1 on elsewhere")
    long_ago = time.time() - 2 * status.SILENT_SECONDS
    os.utime(folder / "metrics.jsonl", (long_ago, long_ago))
    assert one(tmp_path).state == status.STOPPED


def test_runs_are_found_within_folders_and_damage_is_survived(tmp_path):
    make_run(tmp_path / "ablations" / "no_images", started="2026-01-02T00:00:00+00:00")
    damaged = make_run(tmp_path / "z", started="2026-01-03T00:00:00+00:00")
    (damaged / "config.json").write_text("{")
    (damaged / "summary.json").write_text("[]")
    with (damaged / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')
    (tmp_path / "notes").mkdir()
    assert [run.name for run in status.find(tmp_path)] == ["z", "ablations/no_images"]
    assert "ablations/no_images" in page.render(status.find(tmp_path), "runs")
    with pytest.raises(UserError, match="there is no folder"):
        status.find(tmp_path / "none")


@pytest.mark.parametrize(
    "config", [{"train": [1]}, {"train": {"steps": "x"}}, {"name": [1]}, {"preset": 3}]
)
@pytest.mark.parametrize("evaluation", [3, {"test": 3}, {"test": {"response_perplexity": "x"}}])
def test_values_of_another_kind_are_survived(tmp_path, config, evaluation):
    """One damaged run does not take the page from the others."""
    damaged = make_run(tmp_path / "z")
    (damaged / "config.json").write_text(json.dumps(config))
    (damaged / "summary.json").write_text(json.dumps({"evaluation": evaluation}))
    (damaged / "history.json").write_text(json.dumps([{"first_step": 0, "seconds": "x"}]))
    make_run(tmp_path / "a")
    text = page.render(status.find(tmp_path), "runs")
    assert "2 runs" in text and "300 of 600" in text


def test_the_page_has_curves_and_samples_by_step(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", stopped="finished", step=STEPS)
    made_up_run.fill(tmp_path / "b")
    text = page.render(status.find(tmp_path), "runs")
    assert text.count('class="curve"') == len(page.CURVES) * 2
    assert text.index("answer 3 of step 300") < text.index("answer 3 of step 200")
    assert "how &lt;i&gt;are" in text and 'http-equiv="refresh"' not in text
    # Of the finished run, the figure of the test split; of the other, of its last evaluation.
    assert page.figure(one(tmp_path / "b"), "response_perplexity") == (65.4, "test")
    assert page.figure(one(tmp_path / "a"), "response_perplexity")[1] == "valid"


@pytest.mark.parametrize("name", ["a", "a b#%?'ü\"<:", "deep/er"])
@pytest.mark.parametrize("inside", [False, True], ids=["of its folder", "of itself"])
def test_links_lead_to_reports_wherever_the_page_is(tmp_path, name, inside):
    folder = make_run(tmp_path / "runs" / name)
    (folder / "report.html").write_text("")
    (tmp_path / "elsewhere").mkdir()
    for out in (None, tmp_path / "elsewhere" / "page.html"):
        words = [str(folder if inside else tmp_path / "runs"), *([f"--out={out}"] if out else [])]
        assert tool.main(["igerg runs", *words]) == 0
        path = out or pathlib.Path(words[0]) / "index.html"
        (link,) = re.findall('<a href="([^"#]*report.html)"', path.read_text(encoding="utf-8"))
        target = path.parent / urllib.parse.unquote(html.unescape(link))
        assert target.resolve() == (folder / "report.html").resolve()


def test_an_empty_folder_has_a_page(tmp_path):
    assert "There is no run" in page.render(status.find(tmp_path), "runs")


@pytest.fixture
def served(tmp_path):
    make_run(tmp_path / "a")
    with server.Server(0, tmp_path, page.CURVES) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield running, tmp_path
        finally:
            running.shutdown()
            thread.join()


def get(running: server.Server, path: str, host: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection(server.LOOPBACK, running.server_address[1], timeout=60)
    headers = {"Host": host} if host else {}
    connection.request("GET", path, headers=headers)
    reply = connection.getresponse()
    return reply.status, reply.read().decode()


def test_the_served_page_is_as_the_runs_are_now(served):
    running, folder = served
    code, text = get(running, "/")
    assert code == 200 and "300 of 600" in text and "setInterval(renew" in text
    make_run(folder / "b", step=450)
    assert "450 of 600" in get(running, "/")[1]
    code, text = get(running, "/b/report.html")
    assert code == 200 and "written no summary yet" in text
    assert not (folder / "b" / "report.html").exists()


def test_a_run_whose_name_is_no_text_is_shown_and_linked(served, capsys):
    running, folder = served
    made_up_run.fill(make_run(folder / os.fsdecode(b"caf\xe9")))
    assert tool.main(["igerg runs", str(folder), "--out=-"]) == 0
    code, text = get(running, "/")
    assert code == 200 and 'href="caf%E9/report.html"' in text and r"caf\udce9" in text
    assert get(running, "/caf%E9/report.html")[0] == 200


@pytest.mark.parametrize(
    "path", ["/a/config.json", "/../a/report.html", "/%2e%2e/a/report.html", "/c/report.html"]
)
def test_nothing_else_is_served(served, path):
    assert get(served[0], path)[0] == 404


def test_names_of_elsewhere_are_refused(served):
    assert get(served[0], "/", "evil.example:80")[0] == 403


def test_a_taken_port_is_one_message(served, capsys):
    port = served[0].server_address[1]
    assert tool.main(["igerg runs", str(served[1]), "--serve", f"--port={port}"]) == 2
    assert "--port=0" in capsys.readouterr().err


def test_command(tmp_path, capsys):
    make_run(tmp_path / "a")
    assert tool.main(["igerg runs", str(tmp_path)]) == 0
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "1 run, 1 going on" in text and "setInterval(renew" not in text
    assert tool.main(["igerg runs", str(tmp_path), "--out=-", "--curves=grad_norm"]) == 0
    assert "<b>grad_<wbr>norm</b>" in capsys.readouterr().out
    for words, says in (
        ([str(tmp_path / "none")], "there is no folder"),
        ([str(tmp_path), f"--out={tmp_path}/none/x.html"], "x.html: there is no folder"),
        ([str(tmp_path), f"--out={tmp_path}"], "is not a file"),
    ):
        assert tool.main(["igerg runs", *words]) == 2
        assert says in capsys.readouterr().err

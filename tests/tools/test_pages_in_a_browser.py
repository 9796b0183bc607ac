"""HTML in dialogues, names and files of a run: in a real browser, nothing of it becomes markup.

apt-get install chromium
"""

import html.parser
import json
import pathlib
import re
import shutil
import subprocess
import sys

import contributing
import made_up_run
import pytest
import test_compare

from igerg_jax import storage
from igerg_jax.data import builders, prepare
from igerg_jax.report import write_report
from igerg_jax.tools.compare import __main__ as compare
from igerg_jax.tools.compare import page as compare_page
from igerg_jax.tools.human_eval import __main__ as human_eval
from igerg_jax.tools.human_eval import pairs
from igerg_jax.tools.runs import page as runs_page
from igerg_jax.tools.runs import status
from igerg_jax.tools.show import __main__ as show
from igerg_jax.tools.show import page as show_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]
RUN = "document.documentElement.dataset.ran=1"
# No slash, so that a file or folder may have this name.
NAME = f"\"'><img src=x onerror={RUN}><svg onload={RUN}><b onfocus={RUN} autofocus tabindex=0>"
ENDS = "".join(f"</{tag}>" for tag in ("title", "style", "script", "pre", "textarea", "select"))
WORDS = f"{ENDS}<script>{RUN}</script>{NAME}<iframe srcdoc='<script>parent.{RUN}</script>'>"


class Dom(html.parser.HTMLParser):
    """A page's elements, as the browser wrote them out after running it."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


def browse(page: pathlib.Path) -> Dom:
    """Loads a page without its content security policy, which would hide what is not escaped."""
    text, count = re.subn(
        r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8")
    )
    assert count <= 1
    page = page.with_name("without policy.html")
    page.write_text(text, "utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=3000", f"--user-data-dir={page.parent / 'profile'}"]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    return Dom(done.stdout)


def ran(dom: Dom) -> bool:
    (root,) = [attributes for tag, attributes in dom.elements if tag == "html"]
    return "data-ran" in root


def assert_inert(dom: Dom) -> None:
    assert not ran(dom)
    for tag, attributes in dom.elements:
        assert tag != "iframe"
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "srcset", "action"):
            assert not re.match(r"\s*javascript:", attributes.get(name) or "", re.IGNORECASE)


def everywhere(value, words: str = WORDS):
    """A JSON value with `words` in place of each text, and as a key of each object besides."""
    if isinstance(value, dict):
        found = {key: everywhere(inner, words) for key, inner in value.items()}
        return found | {words: next(iter(found.values()), 1)}
    if isinstance(value, list):
        return [everywhere(inner, words) for inner in value]
    return words if isinstance(value, str) else value


def fill(folder: pathlib.Path, words: str = WORDS) -> None:
    """A run's folder with `words` wherever its files have some."""
    made_up_run.fill(folder)
    config = {"name": words, "preset": "local", "seed": 0, "train": {"batch_size": 16}}
    (folder / "config.json").write_text(json.dumps(config))
    start = made_up_run.make_start(0, 600, "finished") | {"training_seconds": 80.0}
    (folder / "history.json").write_text(json.dumps([start]))
    line = {"step": 100, "index": 3, "turn": "", "face": None, "reference": "", "generated": ""}
    line |= {"reference_emotion": "joy", "spoken_emotion": "joy"}
    made_up_run.write_lines(folder / "progress.jsonl", [line])
    for path in folder.iterdir():
        lines = path.read_text("utf-8").splitlines() if path.suffix == ".jsonl" else None
        texts = lines or [path.read_text("utf-8")]
        path.write_text("\n".join(json.dumps(everywhere(json.loads(t), words)) for t in texts))


def test_a_page_that_does_not_escape_is_found(tmp_path):
    for name, body in {"words": WORDS, "name": NAME, "attribute": f'<p title="{WORDS}">'}.items():
        (tmp_path / "page.html").write_text(f"<!doctype html><title>{name}</title>{body}")
        assert ran(browse(tmp_path / "page.html")), name


@pytest.mark.parametrize("words", [WORDS, f"javascript:{RUN}"])
def test_a_report_is_inert(words, tmp_path):
    folder = tmp_path / NAME
    folder.mkdir()
    fill(folder, words)
    page = write_report(folder)
    assert page.read_text("utf-8").count("ran=1") > 20
    assert_inert(browse(pathlib.Path(page)))


def test_a_comparison_is_inert(tmp_path, monkeypatch, capsys):
    (tmp_path / NAME).mkdir()
    fill(tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    assert compare.main(["compare", NAME]) == 0, capsys.readouterr().err
    assert "ran=1" in (tmp_path / "compare.html").read_text("utf-8")
    assert_inert(browse(tmp_path / "compare.html"))


def test_the_page_of_runs_is_inert(tmp_path):
    (tmp_path / NAME).mkdir()
    fill(tmp_path / NAME)
    write_report(tmp_path / NAME)
    text = runs_page.render(status.find(tmp_path), NAME, folder=tmp_path)
    assert text.count("ran=1") > 10 and '<span class="state failed">' in text
    (tmp_path / "page.html").write_text(text, "utf-8")
    dom = browse(tmp_path / "page.html")
    assert_inert(dom)
    addresses = [a.get("href") or "" for tag, a in dom.elements if tag == "a"]
    assert sum(address.endswith("/report.html") for address in addresses) == 1


def test_the_page_for_people_is_inert(tmp_path):
    for name in (NAME, "other"):
        (tmp_path / name).mkdir()
        fill(tmp_path / name)
    rows = storage.read_json_lines(tmp_path / "other" / "samples.jsonl").objects
    changed = [row | {"generated": f"{WORDS}!"} for row in rows]
    made_up_run.write_lines(tmp_path / "other" / "samples.jsonl", changed)
    found = pairs.pairs([str(tmp_path / NAME), str(tmp_path / "other")], 5, 0)
    text = human_eval.render(found)
    assert len(found) == 5 and text.count("ran=1") > 10
    (tmp_path / "page.html").write_text(text, "utf-8")
    assert_inert(browse(tmp_path / "page.html"))


def test_a_comparison_of_rows_is_inert(tmp_path, monkeypatch):
    monkeypatch.setattr(test_compare, "ATTACK", WORDS)
    found = test_compare.made_up(tmp_path)
    text = compare_page.render(found, compare_page.CURVES, tmp_path)
    assert text.count("ran=1") >= 5
    (tmp_path / "page.html").write_text(text, "utf-8")
    assert_inert(browse(tmp_path / "page.html"))


def test_what_objectives_receive_is_inert(tiny_config, tmp_path, monkeypatch):
    """Dialogues with markup in them, from raw data to the page."""
    (module,) = contributing.examples("a dataset")
    said = 'f"turn {i}: such'
    assert said in module
    module = module.replace(said, f"WORDS + {said}") + f"\nWORDS = {WORDS!r}\n"
    (tmp_path / "moods.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(builders.MODULES, "moods", "moods")
    tiny_config.name = WORDS
    tiny_config.data.update(dataset="moods", data_dir=str(tmp_path / NAME), context_tokens=200)
    tiny_config.data.tokenizer.update(model_type="bpe", vocab_size=340)
    tiny_config.model.text.max_positions = 256
    try:
        prepared = prepare.prepare(tiny_config)
        groups = show.collect(prepared, tiny_config, 0, 4)
        text = show_page.render(groups, prepared, tiny_config, 0)
    finally:
        sys.modules.pop("moods", None)
    assert "ran=1" in re.sub("<[^>]*>", "", text)
    (tmp_path / "show.html").write_text(text, "utf-8")
    assert_inert(browse(tmp_path / "show.html"))

"""Every written page in a browser: whole on a desk and on a phone, and without a fault of axe's.

pip install -r requirements-test.txt -r requirements-browser.txt
apt-get install chromium
python -m pytest -m slow tests/tools/test_pages.py
"""

import pathlib
import shutil
import threading

import made_up_run
import pytest
import test_runs

pytest.importorskip("playwright", reason="pip install -r requirements-browser.txt")
pytest.importorskip("axe_playwright_python", reason="pip install -r requirements-browser.txt")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from igerg_jax import report
from igerg_jax.tools.compare import files
from igerg_jax.tools.runs import page as runs_page
from igerg_jax.tools.runs import server, status

ROOT = pathlib.Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]
VIEWPORTS = {"desk": {"width": 1200, "height": 900}, "phone": {"width": 400, "height": 800}}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """With a page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    test_runs.make_run(folder / "runs" / "low-rate")
    finished = test_runs.make_run(folder / "runs" / "pretrain-local", "finished", step=600)
    made_up_run.fill(finished)
    report.write_report(finished)
    found = status.find(folder / "runs")
    (folder / "runs" / "index.html").write_text(runs_page.render(found, "runs"), encoding="utf-8")
    files.compare([str(ROOT / "docs" / "results" / "local")], folder)
    return folder


PAGES = ["runs/index.html", "runs/pretrain-local/report.html", "compare.html"]


def opened(browser, address: str, width: str = "desk", **options) -> Page:
    context = browser.new_context(viewport=VIEWPORTS[width], bypass_csp=True, **options)
    page = context.new_page()
    page.set_default_timeout(180_000)
    page.goto(address)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", VIEWPORTS)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_serious_fault_and_nothing_overflows(browser, folder, name, width, scheme):
    page = opened(browser, (folder / name).as_uri(), width, color_scheme=scheme)
    found = Axe().run(page)
    serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.context.close()


def test_the_served_page_of_runs_renews_itself_and_keeps_what_was_chosen(browser, folder):
    with server.Server(0, folder / "runs", runs_page.CURVES) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            page = opened(browser, running.address)
            errors = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            low = page.locator("tr", has_text="low-rate")
            assert "300 of 600" in low.inner_text() and "running" in low.inner_text()
            page.locator(".choose label", has_text="low-rate").locator("input").uncheck()
            records = [r for r in made_up_run.make_records(600, 10) if r["step"] <= 450]
            made_up_run.write_lines(folder / "runs" / "low-rate" / "metrics.jsonl", records)
            page.wait_for_selector("tr:has-text('450 of 600')")
            box = page.locator(".choose label", has_text="low-rate").locator("input")
            assert not box.is_checked() and not errors
            page.get_by_role("link", name="low-rate").click()
            page.wait_for_selector("text=written no summary yet")
        finally:
            running.shutdown()
            thread.join()

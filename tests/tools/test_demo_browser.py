"""The demo's page in a browser: by mouse, by keyboard alone, on a phone, and by axe's rules.

pip install -r requirements-test.txt -r requirements-browser.txt
apt-get install chromium
python -m pytest -m slow tests/tools/test_demo_browser.py
"""

import contextlib
import json
import shutil
import threading
import time

import pytest
import talking

pytest.importorskip("playwright", reason="pip install -r requirements-browser.txt")
pytest.importorskip("axe_playwright_python", reason="pip install -r requirements-browser.txt")
pytest.importorskip("starlette", reason="pip install -r requirements-test.txt")

import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from igerg_jax.batch import EMOTIONS
from igerg_jax.evaluation.responder import Responder
from igerg_jax.setup import enable_compilation_cache
from igerg_jax.tools.demo import __main__ as demo
from igerg_jax.tools.demo import server

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 400, "height": 800}


@contextlib.contextmanager
def serving(responder, name: str):
    """The address of a server with a model."""
    with demo.listen(0) as listener:
        app = server.make_app(responder, name)
        settings = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        running = uvicorn.Server(settings)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            running.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address():
    """Of a server with a model that was drawn at random."""
    with serving(talking.draw_model().make_responder(), "drawn") as found:
        yield found


@pytest.fixture(scope="module")
def small_address():
    """Of a server with the trained model that comes with the package."""
    responder = Responder.open("small")
    enable_compilation_cache(responder.config)
    responder.compile([responder.strategy], for_each_face=True)
    with serving(responder, "small") as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--use-fake-device-for-media-stream"]
        options += ["--use-fake-ui-for-media-stream"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page; what it logs as an error fails the test."""
    with contextlib.ExitStack() as opened:
        errors = []

        def open_one(viewport=DESKTOP, address=address, **options) -> Page:
            context = browser.new_context(viewport=viewport, **options)
            opened.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(180_000)  # the first answer compiles
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(address)
            page.wait_for_selector(".faces img")
            return page

        yield open_one
        assert not errors


def pick(page: Page, emotion: str) -> None:
    page.locator(".faces button").nth(EMOTIONS.index(emotion)).click()
    page.wait_for_selector(f".faces button[title={emotion}][aria-pressed=true]")


def say(page: Page, words: str) -> tuple[dict, dict]:
    """Sends a message; returns what the page asked, and what it got."""
    page.fill("#words", words)
    with page.expect_response("**/answer") as caught:
        page.press("#words", "Enter")
    assert caught.value.ok, caught.value.text()
    page.wait_for_selector(".waiting", state="detached")
    return json.loads(caught.value.request.post_data), caught.value.json()


def overflows(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_a_conversation(open_page, tmp_path):
    page = open_page()
    first, _ = say(page, "a i q <b>bold</b>")
    assert first["face"] is None and first["turns"] == [
        {"text": "a i q <b>bold</b>", "pixels": None}
    ]
    assert page.locator("#log b", has_text="bold").count() == 0  # words, not HTML
    pick(page, "joy")
    assert page.locator("#seen .bars li").count() == len(EMOTIONS)
    second, got = say(page, "b j r")
    assert second["face"] and second["emotion"] is None
    pick(page, "anger")
    third, _ = say(page, "c k s")
    assert third["face"] != second["face"]
    # The last two turns, an answer with the face that it was given with.
    assert got["text"].strip(), "or the model has no words to look for"
    assert third["turns"] == [
        {"text": got["text"], "pixels": second["face"]},
        {"text": "c k s", "pixels": None},
    ]
    (tmp_path / "face.png").write_bytes(talking.png(talking.face(0, 64)))
    with page.expect_response("**/see"):
        page.set_input_files("#file", tmp_path / "face.png")
    page.wait_for_selector("#portrait img[alt='your image']")
    page.locator(".chips label", has_text="fear").click()
    page.locator("#guidance").fill("2.5")
    page.locator("#strategy").select_option("beam")
    fourth, _ = say(page, "d l t")
    assert fourth["face"] not in (second["face"], third["face"])
    assert (fourth["emotion"], fourth["guidance"], fourth["strategy"]) == ("fear", 2.5, "beam")
    with page.expect_response("**/answer") as again:
        page.click("#again")
    asked = json.loads(again.value.request.post_data)
    assert (asked["strategy"], asked["draw"], asked["turns"]) == ("sample", 1, fourth["turns"])


def test_seven_answers_side_by_side(open_page):
    page = open_page()
    say(page, "a i q")
    page.click("#each")
    page.wait_for_selector(".cards li")
    assert page.locator(".cards li").count() == len(EMOTIONS)
    assert page.locator("#seven-title").evaluate("node => node === document.activeElement")


def test_a_message_waits_for_the_face_that_was_picked_before_it(open_page):
    page = open_page()

    def slowly(route):
        time.sleep(1.5)
        route.continue_()

    page.route("**/see*", slowly)
    page.locator(".faces button").first.click()
    asked, _ = say(page, "a i q")
    assert asked["face"], "it was answered without the face"
    page.locator(".faces button").last.click()
    page.click("#remove")  # while it is read
    asked, _ = say(page, "b j r")
    assert asked["face"] is None


def test_a_face_unlike_those_of_the_training_is_named_as_one(open_page, small_address, tmp_path):
    page = open_page(address=small_address)
    pick(page, "joy")
    assert page.locator("#unfamiliar").is_hidden()
    (tmp_path / "noise.png").write_bytes(talking.png(talking.face(0, 64)))
    page.set_input_files("#file", tmp_path / "noise.png")
    page.wait_for_selector("#unfamiliar", state="visible")
    page.click("#remove")
    assert page.locator("#unfamiliar").is_hidden()


def test_with_the_trained_model_the_answer_follows_the_face(open_page, small_address):
    page = open_page(address=small_address)
    answers, seconds = {}, []
    for emotion in ("joy", "sadness", "anger"):
        pick(page, emotion)
        assert emotion in page.locator("#seen .bars li.most").inner_text()
        started = time.monotonic()
        _, got = say(page, "my exam was today and I got the result")
        seconds.append(time.monotonic() - started)
        answers[emotion] = got["text"]
        page.click("#new")
    assert len(set(answers.values())) == len(answers), answers
    print("answers after", *(f"{second:.2f} s" for second in seconds))
    say(page, "my exam was today and I got the result")
    page.click("#each")
    page.wait_for_selector(".cards li")
    texts = page.locator(".cards .said").all_inner_texts()
    assert len(set(texts)) >= 5, texts


def test_a_mistake_is_said_and_can_be_mended(open_page, tmp_path):
    page = open_page()
    large = "<img src=x onerror=document.body.dataset.ran=1>.png"
    (tmp_path / "notes.png").write_text("hello")
    (tmp_path / large).write_bytes(bytes(9 * 2**20))
    page.set_input_files("#file", tmp_path / "notes.png")
    page.wait_for_selector("#problem:has-text('not an image')")
    page.set_input_files("#file", tmp_path / large)
    page.wait_for_selector("#problem:has-text('too large')")
    assert large in page.locator("#problem").inner_text()  # as text
    assert page.locator("#problem img").count() == 0
    page.route("**/answer", lambda route: route.abort())
    page.fill("#words", "a i q")
    page.press("#words", "Enter")
    page.wait_for_selector("#problem:has-text('does not answer')")
    page.unroute("**/answer")
    say(page, "b j r")
    assert page.locator("#problem").inner_text() == ""


def test_the_camera(open_page):
    page = open_page()
    page.click("#camera")
    page.click("#take")  # enabled once there is something to take
    page.wait_for_selector("#portrait img[alt='your image']")
    assert page.evaluate("document.querySelector('video').srcObject.active") is False


def test_by_keyboard_alone(open_page):
    """Every control can be reached with Tab, shows that it has the focus, and works."""
    page = open_page()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        here = page.evaluate(
            """() => {
                const at = document.activeElement, shown = at.closest('label') || at;
                if (at === document.body) return null;
                return [at.id || at.title || at.name, getComputedStyle(shown).outlineStyle];
            }"""
        )
        if here is None:
            break
        reached.append(here)
        if here[0] == "joy":
            page.keyboard.press("Enter")
            page.wait_for_selector("#seen .bars li")
        if here[0] == "words":
            page.keyboard.type("a i q")
            with page.expect_response("**/answer"):
                page.keyboard.press("Enter")
            page.wait_for_selector("#each:enabled")
        if here[0] == "emotion":
            page.keyboard.press("ArrowRight")
    names = [name for name, _ in reached]
    expected = {"file", "camera", "others", "words", "send", "again", "each", "new", "guidance"}
    assert expected | set(EMOTIONS) | {"strategy", "emotion", "log"} <= set(names)
    assert {outline for _, outline in reached} == {"solid"}
    assert page.locator(".chips input:checked").get_attribute("value") == EMOTIONS[0]


def test_on_a_phone(open_page):
    page = open_page(PHONE, has_touch=True)
    assert not overflows(page)
    pick(page, "sadness")
    say(page, "x" * 200)
    page.click("#each")
    page.wait_for_selector(".cards li")
    assert not overflows(page)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(open_page, viewport, scheme):
    page = open_page(viewport, color_scheme=scheme, bypass_csp=True)
    pick(page, "fear")
    say(page, "a i q")
    page.click("#each")
    page.wait_for_selector(".cards li")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()

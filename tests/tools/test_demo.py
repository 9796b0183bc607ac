"""The demo's server: what it answers, what it refuses, and who waits."""

import asyncio
import base64
import io
import json
import pathlib
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import types
import zlib

import numpy as np
import pytest
import talking
from PIL import Image

pytest.importorskip("starlette", reason="pip install -r requirements-test.txt")

import httpx2
from starlette.testclient import TestClient

from igerg_jax.batch import EMOTIONS
from igerg_jax.errors import UserError
from igerg_jax.tools.demo import __main__ as demo
from igerg_jax.tools.demo import images, questions, server

TURNS = [{"text": "a i q", "pixels": None}]
ROOT = pathlib.Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def client(responder):
    app = server.make_app(responder, "drawn")
    return TestClient(app, base_url=ADDRESS, raise_server_exceptions=False)


def test_what_is_left_for_later_is_done_in_order_and_visitors_are_answered(responder):
    done, may_end = [], threading.Event()

    def first():
        may_end.wait(60)
        done.append(1)

    app = server.make_app(responder, "drawn", [first, lambda: done.append(2)])
    threading.Timer(0.2, may_end.set).start()
    reply = TestClient(app, base_url=ADDRESS).post("/see", content=talking.png(talking.face(0)))
    assert reply.status_code == 200 and done[0] == 1
    deadline = time.monotonic() + 60
    while len(done) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert done == [1, 2]


def test_everything_the_page_can_ask_for_is_compiled_in_the_end(responder, monkeypatch):
    compiled = []
    monkeypatch.setattr(responder, "compile", lambda names, each: compiled.append((*names, each)))
    for compile_one in demo.left_to_compile(responder):
        compile_one()
    own = responder.strategy
    assert compiled[0] == (own, True), "the seven faces, for which the page has a button"
    every = {(name, each) for name in responder.strategies for each in (False, True)}
    assert sorted(compiled) == sorted(every - {(own, False)}), "compiled before the page is there"


def refused(reply, status: int) -> str:
    assert reply.status_code == status
    message = reply.json()["error"]
    assert message and "\n" not in message
    return message


def test_an_answer_is_the_responders(client, responder):
    face = talking.face(0)
    seen = client.post("/see", content=talking.png(face)).json()
    pixels = responder.read(talking.png(face))
    assert seen["seen"] == responder.see(pixels)
    np.testing.assert_array_equal(images.from_text(seen["pixels"], 16), pixels)
    turns = [{"text": "a i q", "pixels": None}, {"text": "b j r", "pixels": seen["pixels"]}]
    asked = {"turns": turns, "face": seen["pixels"], "emotion": "fear", "guidance": 2}
    got = client.post("/answer", json=asked | {"strategy": "sample", "draw": 3}).json()
    given = [("a i q", None), ("b j r", pixels)]
    expected = responder.respond(given, pixels, "fear", 2.0, "sample", 3)
    assert got == {"text": expected.text, "seen": expected.seen[2], "judge": expected.judge}


def test_seven_faces_get_seven_answers(client, responder):
    got = client.post("/answers", json={"turns": TURNS, "set": 5}).json()["answers"]
    assert list(got) == list(EMOTIONS)
    for emotion, answer in got.items():
        face = images.drawn_face(5, emotion, for_page=False)
        assert answer["seen"] == pytest.approx(
            responder.respond([("a i q", None)], face).seen[1], abs=1e-3
        )
        assert client.post(f"/see?set=5&emotion={emotion}").json()["pixels"]


def test_drawn_faces_are_the_same_person_on_the_page_and_for_the_model(client):
    large = client.get("/faces/3/joy")
    assert large.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(large.content)) as image:
        assert image.size == (images.PAGE_PIXELS,) * 2
        shrunk = np.asarray(image.resize((72, 72)), float)
    with Image.open(io.BytesIO(images.drawn_face(3, "joy", for_page=False))) as image:
        assert np.abs(np.asarray(image, float) - shrunk).mean() < 12
    other = images.drawn_face(4, "joy", for_page=True)
    assert other != large.content
    assert "no set 1000" in refused(client.get("/faces/1000/joy"), 400)
    assert "'glee'" in refused(client.get("/faces/0/glee"), 400)
    assert "no set" in refused(client.post("/see?set=-1&emotion=joy"), 400)


def forged_png(width: int, height: int) -> bytes:
    """The header of a large PNG, and none of its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (talking.png(talking.face(0, 64))[:-3000], "cannot read the image"),
        (forged_png(7000, 7000), "7000 x 7000 pixels"),
        (forged_png(60000, 60000), "pixels"),
    ],
    ids=["empty", "text", "eps", "cut", "large", "bomb"],
)
def test_a_bad_image_is_refused(client, data, message):
    assert message in refused(client.post("/see", content=data), 400)


@pytest.mark.parametrize("path", ["/see", "/answer", "/answers"])
def test_a_large_upload_is_refused(client, path):
    def parts():  # without a length: counted as it comes
        for _ in range(9):
            yield bytes(2**20)

    assert "at most 8 MB" in refused(
        client.post(path, content=b"x" * (questions.MAX_BYTES + 1)), 413
    )
    assert "at most 8 MB" in refused(client.post(path, content=parts()), 413)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([], "'turns'"),
        ({}, "'turns'"),
        ({"turns": []}, "context is empty"),
        ({"turns": ["hi"]}, "write something"),
        ({"turns": [{"text": " "}]}, "write something"),
        ({"turns": [{"text": "x" * 2001}]}, "2,000 characters"),
        ({"turns": [{"text": "a", "pixels": "nothing"}]}, "RGB PNG of 16 x 16"),
        ({"face": images.to_text(talking.face(0, 8))}, "RGB PNG of 16 x 16"),
        ({"face": base64.b64encode(forged_png(60000, 60000)).decode()}, "RGB PNG of 16 x 16"),
        ({"face": 3}, "RGB PNG of 16 x 16"),
        ({"emotion": "glee"}, "'glee'"),
        ({"emotion": 3}, "'emotion'"),
        ({"strategy": "guess"}, "'guess'"),
        ({"guidance": -1}, "between 0 and 10"),
        ({"guidance": float("nan")}, "between 0 and 10"),
        ({"guidance": True}, "'guidance'"),
        ({"draw": -1}, "'draw'"),
        ({"draw": 2**31}, "'draw'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_question_is_refused(client, asked, message):
    if isinstance(asked, dict) and asked and "turns" not in asked:
        asked = {"turns": TURNS, **asked}
    text = asked if isinstance(asked, str) else json.dumps(asked)
    assert message in refused(client.post("/answer", content=text), 400)


def test_only_the_demos_own_page_may_ask(client):
    """Neither another site, nor a name that was made to point here after its page was loaded."""
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.post("/answer", json={}, headers={"host": "evil.example:7860"}).status_code == 400
    for name, value in (
        ("origin", "http://evil.example"),
        ("origin", "http://127.0.0.1:9999"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ):
        reply = client.post("/answer", json={"turns": TURNS}, headers={name: value})
        assert "own page" in refused(reply, 403)
    own = {"origin": ADDRESS, "sec-fetch-site": "same-origin"}
    assert client.post("/answer", json={"turns": TURNS}, headers=own).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(client):
    for path in ("/", "/page.css", "/page.js"):
        reply = client.get(path)
        assert reply.status_code == 200
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write", reply.text)
    about = client.get("/about").json()
    assert about["name"] == "drawn" and about["emotions"] == list(EMOTIONS)


def test_a_failure_is_one_message(responder):
    def fail(*arguments, **options):
        raise RuntimeError("secret")

    broken = types.SimpleNamespace(config=responder.config, respond=fail)
    client = TestClient(
        server.make_app(broken, "x"), base_url=ADDRESS, raise_server_exceptions=False
    )
    reply = client.post("/answer", json={"turns": TURNS})
    assert "secret" not in refused(reply, 500)


def test_visitors_queue(responder):
    """One at a time, in order; who would wait too long is told so, and the next is served."""
    order, at_once, most = [], 0, 0

    def respond(turns, *arguments, **options):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.01)
        order.append((turns[0][0], threading.current_thread().name))
        at_once -= 1
        return types.SimpleNamespace(text="", seen=[None] * 4, judge={})

    slow = types.SimpleNamespace(config=responder.config, respond=respond)

    async def visit() -> list[int]:
        transport = httpx2.ASGITransport(server.make_app(slow, "slow"))
        async with httpx2.AsyncClient(transport=transport, base_url=ADDRESS) as client:

            async def ask(i: int) -> int:
                await asyncio.sleep(0)
                reply = await client.post("/answer", json={"turns": [{"text": str(i)}]})
                return reply.status_code

            codes = await asyncio.gather(*(ask(i) for i in range(server.MAX_WAITING + 3)))
            return [*codes, await ask(99)]

    codes = asyncio.run(visit())
    assert codes == [200] * server.MAX_WAITING + [503] * 3 + [200]
    assert most == 1 and len({thread for _, thread in order}) == 1
    assert [text for text, _ in order] == [str(i) for i in range(server.MAX_WAITING)] + ["99"]


def test_it_listens_on_this_machine_alone_and_says_when_a_port_is_taken():
    with demo.listen(0) as listener:
        address, port = listener.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(UserError, match=rf"port {port} .* --port=0"):
            demo.listen(port)
    with pytest.raises(UserError, match="65535"):
        demo.listen(70000)


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert demo.main(["demo"]) == 2
    assert "'uvicorn': pip install starlette uvicorn" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_process(drawn, tmp_path):
    """It says where it is, answers there, and ends with Ctrl-C."""
    drawn.save(tmp_path)
    command = [sys.executable, "-m", "igerg_jax.tools.demo", f"--checkpoint={tmp_path}", "--port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        about = httpx2.get(f"{found[0]}/about").json()
        assert about["name"] == tmp_path.name and about["strategies"]
        assert httpx2.post(f"{found[0]}/answers", json={"turns": TURNS}, timeout=60).is_success
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0 and process.stderr.read() == ""

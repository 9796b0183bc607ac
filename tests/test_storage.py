"""Files are complete or absent; paths as people type them."""

import importlib.util
import json
import os
import pathlib

import pytest
from etils import epath

from igerg_jax import storage
from igerg_jax.errors import UserError


def test_readers_see_the_old_content_until_all_is_written(tmp_path):
    path = tmp_path / "summary.json"
    storage.write_text(path, "old")
    with storage.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == path.parent
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["summary.json"]


@pytest.mark.parametrize("written_before", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, written_before):
    path = epath.Path(tmp_path) / "a.npz"
    if written_before:
        path.write_text("old")
    with pytest.raises(KeyboardInterrupt), storage.replacing(path) as temporary:
        temporary.write_text("half of")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"] * written_before
    assert not written_before or path.read_text() == "old"


def test_text_is_utf_8_whatever_the_locale(tmp_path):
    storage.write_text(tmp_path / "text", "héllo 😀")
    assert (tmp_path / "text").read_bytes().decode("utf-8") == "héllo 😀"


def test_a_name_that_is_no_text_is_written_and_read_back(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    storage.write_text(tmp_path / "text", json.dumps([name], ensure_ascii=False))
    assert (tmp_path / "text").read_text("utf-8") == r'["caf\udce9"]'
    assert json.loads((tmp_path / "text").read_text("utf-8")) == [name]


@pytest.mark.parametrize("parse", [storage.local_path, storage.parse_path])
def test_the_home_of_nobody_is_no_place(monkeypatch, parse):
    monkeypatch.setenv("HOME", "/home of tests")
    assert str(parse("~/x")) == "/home of tests/x"
    assert str(parse("./~no-such-user/x")) in ("./~no-such-user/x", "~no-such-user/x")
    with pytest.raises(UserError, match="'~no-such-user' is nobody's home"):
        parse("~no-such-user/x")


def test_a_bucket_needs_no_renaming():
    path = pathlib.PurePosixPath("runs/one")
    assert not storage.is_bucket(path) and storage.is_bucket("gs://bucket/runs/one")
    bucket = epath.Path("gs://bucket/summary.json")
    with storage.replacing(bucket) as target:
        assert target == bucket


def test_json_lines_that_cannot_be_read_are_counted_and_left_out(tmp_path):
    """Only "\\n" ends a line: a generated response may hold other line separators."""
    path = tmp_path / "samples.jsonl"
    objects = [{"text": "one\u2028two\u0085three\x0bfour"}, {"step": 2}]
    good = [json.dumps(value, ensure_ascii=False).encode() for value in objects]
    bad = [b"[1]", b"7", b"\xff\xfe{}", b'{"step": 3, "a']
    path.write_bytes(b"\n".join([good[0], bad[0], b"", good[1] + b"\r", *bad[1:]]))
    assert storage.read_json_lines(path) == (objects, 4)
    assert storage.read_json_lines(tmp_path / "absent.jsonl") == ([], 0)


def test_paths_are_local_or_in_a_bucket(monkeypatch):
    assert storage.parse_path("~/runs") == epath.Path(os.path.expanduser("~/runs"))
    assert not storage.is_bucket(storage.parse_path("runs/one"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    path = storage.parse_path("gs://bucket/runs") / "one"
    assert os.fspath(path) == "gs://bucket/runs/one" and storage.is_bucket(path)


@pytest.mark.parametrize("place", ["s3://bucket/run", "hdfs://x", "gcs://bucket"])
def test_other_storage_is_refused(place):
    with pytest.raises(UserError, match="paths are local, or gs://"):
        storage.parse_path(place)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-gcs.txt"):
        storage.parse_path("gs://bucket/run")

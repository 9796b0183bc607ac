"""Paths as people type them."""

from __future__ import annotations

import importlib.util
import os

import pytest
from etils import epath

from igerg_jax import workdir
from igerg_jax.errors import UserError


def test_paths_are_local_or_in_a_bucket(monkeypatch):
    assert workdir.parse("~/runs") == epath.Path(os.path.expanduser("~/runs"))
    assert not workdir.is_bucket(workdir.parse("runs/one"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    path = workdir.parse("gs://bucket/runs") / "one"
    assert os.fspath(path) == "gs://bucket/runs/one" and workdir.is_bucket(path)


@pytest.mark.parametrize("place", ["s3://bucket/run", "hdfs://x", "gcs://bucket"])
def test_other_storage_is_refused(place):
    with pytest.raises(UserError, match="paths are local, or gs://"):
        workdir.parse(place)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-gcs.txt"):
        workdir.parse("gs://bucket/run")

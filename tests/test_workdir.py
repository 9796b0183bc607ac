"""Paths as people type them."""

from __future__ import annotations

import importlib.util
import os

import pytest
import small
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


def test_another_number_of_slices_is_another_loss_where_negatives_are_a_slices(tmp_path):
    folder, key = epath.Path(tmp_path), "objectives__image_text_contrastive__"
    changes = {f"{key}negatives": "slice"}

    def given(dcn, **others):
        return small.make_config(mesh__dcn=dcn, **changes, **others)

    (folder / "config.json").write_text(given(2).to_json_best_effort())
    workdir.check(folder, given(2, mesh__fsdp=4))  # the rest of the mesh may change
    workdir.check(folder, given(1), training=False)
    with pytest.raises(UserError, match=r"mesh\.dcn \(there 2, here 1\)"):
        workdir.check(folder, given(1))
    changes = {f"{key}negatives": "batch"}
    (folder / "config.json").write_text(given(2).to_json_best_effort())
    workdir.check(folder, given(1))

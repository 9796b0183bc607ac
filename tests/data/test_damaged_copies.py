"""Prepared data whose bytes have changed are refused by name, before anything is read from them."""

import json
import re
import shutil

import pytest

from igerg_jax import manifests
from igerg_jax.data import folders, parts, prepare, store, trained_tokenizers
from igerg_jax.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A prepared folder: two columns, a record file and words, listed and checked."""
    folder = tmp_path_factory.mktemp("prepared") / "turns"
    (folder / "train").mkdir(parents=True)
    rows = [{"turn": i, "text": f"turn {i}", "emotion": i % 7} for i in range(50)]
    columns = store.text_columns(rows)
    part = folder / "part.npz"
    parts.save_npz(part, columns)
    store.merge_columns(folder / "train", [part], *columns)
    part.unlink()
    (folder / "train" / "images-0.array_record").write_bytes(bytes(range(200)))
    (folder / "summary.json").write_text("{}")
    parts.write_manifest(folder, without="parts")
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "turns")


def columns(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != manifests.FILE)


def test_a_bit_in_any_column_is_found_in_a_copy_and_in_one_that_was_checked(whole, tmp_path):
    flipped = [path.relative_to(whole) for path in columns(whole)]
    assert len(flipped) == 6
    for number, name in enumerate(flipped):
        for checked in (False, True):
            folder = shutil.copytree(whole, tmp_path / f"{number}-{checked}")
            if checked:
                parts.check_copy(folder)
            data = bytearray((folder / name).read_bytes())
            data[-1] ^= 4
            (folder / name).write_bytes(data)
            if name.suffix == ".array_record":  # has checksums of its own
                parts.check_copy(folder)
                continue
            with pytest.raises(UserError, match=rf"{name}.* differs from what.*prepare it again"):
                parts.check_copy(folder)


@pytest.mark.parametrize("change", ["cut", "emptied", "removed", "longer"])
def test_another_size_is_found_at_every_open(copy, change):
    parts.check_copy(copy)
    for path in columns(copy):
        if path.name == "checked.json":
            continue
        before = path.read_bytes()
        if change == "removed":
            path.unlink()
        else:
            cut = {"cut": before[:-1], "emptied": b"", "longer": before + b"x"}[change]
            path.write_bytes(cut)
        with pytest.raises(UserError, match=path.name):
            parts.check_copy(copy)
        path.write_bytes(before)
    parts.check_copy(copy)


def test_checksums_are_compared_once_a_copy(copy, tmp_path, monkeypatch):
    summed = []
    original = manifests._checksum
    monkeypatch.setattr(
        manifests, "_checksum", lambda path, kind: summed.append(path.name) or original(path, kind)
    )
    parts.check_copy(copy)
    assert len(summed) == 5  # not the records
    parts.check_copy(copy)
    assert len(summed) == 5
    again = shutil.copytree(copy, tmp_path / "another", copy_function=shutil.copy2)
    parts.check_copy(again)
    assert len(summed) == 10


def test_a_list_that_is_damaged_is_said(copy):
    for content in ("", "[]", '{"a": 1}', "{"):
        (copy / manifests.FILE).write_text(content)
        with pytest.raises(UserError, match=manifests.FILE):
            parts.check_copy(copy)


def test_lists_of_an_earlier_version_have_sha256(copy):
    files = manifests.read(copy)
    name = "train/emotion.npy"
    files[name] = {
        "bytes": files[name]["bytes"],
        "sha256": next(iter(manifests.checksums(copy, [(name, "sha256")]))),
    }
    (copy / manifests.FILE).write_text(json.dumps(files))
    parts.check_copy(copy)
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(UserError, match="emotion"):
        parts.check_copy(copy)


def test_a_bit_of_a_trained_tokenizer_is_found(tiny_config, tmp_path):
    trained, _ = prepare.prepare_tokenizer(tiny_config)
    folder = shutil.copytree(
        folders.of_tokenizers(tiny_config.data), tmp_path / "prepared" / "tokenizers"
    )
    tiny_config.data.data_dir = str(tmp_path)
    assert trained_tokenizers.find(tiny_config.data).digest == trained.digest
    model = folder / f"{trained.digest}.model"
    note = trained_tokenizers._note(tiny_config.data)  # other tests' settings may train the same
    before = model.read_bytes()
    remedy = f"remove it and '{re.escape(str(note))}', and it is trained again"
    read = 0
    for place in range(0, len(before), len(before) // 40):
        flipped = bytes([before[place] ^ 1])
        model.write_bytes(before[:place] + flipped + before[place + 1 :])
        with pytest.raises(UserError, match=remedy) as error:
            trained_tokenizers.find(tiny_config.data)
        read += f"'{model}' is damaged" in str(error.value)
    assert read > 10  # SentencePiece reads most of them
    for model_bytes, digest in ((None, trained.digest), (before, "0" * 16), (before, "\0")):
        model.unlink() if model_bytes is None else model.write_bytes(model_bytes)
        note.write_text(digest)
        with pytest.raises(UserError, match=remedy):
            trained_tokenizers.find(tiny_config.data)
    note.unlink()
    assert trained_tokenizers.find(tiny_config.data) is None


def test_preparing_again_opens_nothing_that_is_damaged(tiny_config, tmp_path):
    tiny_config.data.data_dir = str(tmp_path)
    folder = prepare.prepare(tiny_config).folder
    for path in (folder / "train" / "tokens.npy", folder.parent / "turns" / "test" / "emotion.npy"):
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(UserError, match=path.name):
            prepare.prepare(tiny_config)
        path.write_bytes(before)
    prepare.prepare(tiny_config)


def test_folders_that_are_links_to_another_disk_are_part_of_the_copy(copy, tmp_path):
    (copy / "train").rename(tmp_path / "disk")
    (copy / "train").symlink_to(tmp_path / "disk")
    before = manifests.list_files(copy)
    assert "train/text.npy" in before
    (copy / "train" / "back").symlink_to(copy)  # a cycle
    assert manifests.list_files(copy) == before
    parts.check_copy(copy)
    (tmp_path / "disk" / "text.npy").unlink()
    with pytest.raises(UserError, match=r"train/text\.npy is missing"):
        parts.check_copy(copy)

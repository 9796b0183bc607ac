"""Weights folders on a hub: uploaded when asked to, downloaded as they were, with a card."""

import json
import pathlib

import fake_hub
import huggingface_hub.constants
import made_up_run
import pytest
import yaml

from igerg_jax.run import weights_folder
from igerg_jax.tools.weights import __main__ as tool
from igerg_jax.tools.weights import card

SMALL = pathlib.Path(weights_folder.SHIPPED) / "small"
REPO = "people/small"


@pytest.fixture
def hub(monkeypatch):
    with fake_hub.running() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield found


def weights(*arguments: str) -> int:
    return tool.main(["igerg weights", *arguments])


def test_nothing_is_uploaded_unless_asked(hub, capsys):
    assert weights("push", "--checkpoint=small", f"--repo={REPO}") == 0
    said = capsys.readouterr().out
    assert "Nothing was uploaded" in said and "model.safetensors (9," in said
    assert not hub.repos and not hub.large


def test_what_is_pushed_comes_back(hub, tmp_path, capsys):
    push = ["push", "--checkpoint=small", f"--repo={REPO}", "--private", "--upload"]
    assert weights(*push) == 0, capsys.readouterr().err
    assert f"{hub.address}/{REPO}/commit/" in capsys.readouterr().out
    assert set(hub.repos[REPO]) == {path.name for path in SMALL.iterdir()}
    assert len(hub.large) == 1 and hub.private == {REPO: True}
    assert hub.messages == ["4.67 M parameters, 9.4 MB"]
    assert weights(*push) == 0, "again, to a repository that exists"
    hub.repos[REPO]["evil.py"] = b"print()"
    out = tmp_path / "pulled"
    assert weights("pull", f"--repo={REPO}", f"--out={out}") == 0, capsys.readouterr().err
    assert "pretrain:small, step 7000" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {path.name for path in SMALL.iterdir()}
    for name in ("model.safetensors", "tokenizer.model", "README.md"):
        assert (out / name).read_bytes() == (SMALL / name).read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda files: files.update({"tokenizer.model": b"no"}), "is damaged"),
        (lambda files: files.pop("run.json"), "has no weights folder"),
    ],
)
def test_what_is_no_whole_weights_folder_is_refused(hub, tmp_path, capsys, damage, message):
    weights("push", "--checkpoint=small", f"--repo={REPO}", "--upload")
    damage(hub.repos[REPO])
    out = tmp_path / "pulled"
    assert weights("pull", f"--repo={REPO}", f"--out={out}") == 2
    *_, error = capsys.readouterr().err.splitlines()  # after the progress of downloads
    assert error.startswith("error: ") and message in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pull", "--repo=people/none", "--out=OUT"], "shows no repository 'people/none'"),
        (["pull", "--repo=none", "--out=OUT"], "is not USER/NAME"),
        (["pull", "--repo=people/none"], "--out is missing"),
        (["push", "--checkpoint=small"], "--repo is missing"),
        (["push", "--checkpoint=none", f"--repo={REPO}"], "there is no checkpoint"),
        (["fetch"], "import, export, push or pull"),
    ],
)
def test_mistakes_are_one_message(hub, tmp_path, capsys, arguments, message):
    arguments = [word.replace("OUT", str(tmp_path / "out")) for word in arguments]
    assert weights(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_wrong_token_and_no_server_are_one_message(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert weights("push", "--checkpoint=small", f"--repo={REPO}", "--upload") == 2
    error = capsys.readouterr().err
    assert "401" in error and "log in" in error and error.count("\n") == 1
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert weights("pull", f"--repo={REPO}", f"--out={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert "cannot reach http://127.0.0.1:9" in error and error.count("\n") == 1


def test_a_card_has_the_figures_of_the_run():
    run = json.loads((SMALL / "run.json").read_text())
    text = card.card("mine", run, made_up_run.make_summary(), 2_012_345)
    _, header, body = text.split("---\n", 2)
    assert yaml.safe_load(header)["library_name"] == "igerg_jax"
    assert "2.01 M parameters" in body and "`chitchat_peeps/all`" in body
    assert "| Face emotion accuracy | 81.2% ± 4.6% | 82.9% ± 4.7% | majority class 24.2% |" in body
    assert "commit `0123456789abcdef`" in body
    assert "have not been evaluated" in card.card("mine", run, {}, 1)

"""Command lines, flag files and run folders of any content: one message, and never a traceback."""

import json
import re

import hypothesis
import properties
import pytest
from etils import epath
from hypothesis import strategies as st

from igerg_jax.cli import main
from igerg_jax.errors import UserError
from igerg_jax.report import write_report
from igerg_jax.run import history, workdirs

MODES = ("train", "evaluate", "generate", "chat", "compile")
WORDS = st.one_of(
    st.sampled_from([
        *("--config=configs/pretrain.py", "--config", "--workdir=", "--run=x", "--image=a.png"),
        *("--checkpoint=small", "--checkpoint=nowhere", "--context=hi", "--emotion=joy"),
        *("--slices=2", "--topology=v5e:4x4", "--emotion=sad", "--flagfile=nowhere", "--", "-"),
        *("--nosearch=1", "--search", "--context", "--run", "steps=9", "-config"),
        *("--config.train.steps=-1", "--config.data", "--config.=1", "--config.mesh.fsdp=[", "x"),
        *(f"--mode={mode}" for mode in MODES),
    ]),
    st.text(max_size=8),
    st.tuples(st.sampled_from(["--", "-", "--config.", "--no"]), st.text(max_size=8)).map("".join),
)  # fmt: skip


@properties.examples(20)
@hypothesis.given(words=st.lists(WORDS, max_size=5), mode=st.sampled_from(["", *MODES]))
def test_any_command_line_is_parsed_or_refused(words, mode):
    try:
        values = main.parse(["main.py", *words], mode)
    except UserError as error:
        assert str(error)
    else:
        assert values.mode in MODES and values.config is not None


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\rb", "a\x85b", "a\u2028b"], ids=ascii)
def test_no_name_breaks_a_message_in_two_or_colours_the_terminal(name, capsys):
    words = ["main.py", "--config=configs/pretrain.py", f"--run={name}", f"--config.{name}=1"]
    assert main.main(words) == 2
    lines = capsys.readouterr().err.split("\n")
    assert all(line.startswith("error: ") and line.isprintable() for line in lines[:-1]), lines


@pytest.mark.parametrize(
    "words, says",
    [
        (["--", "--config=configs/pretrain.py"], "'--' ends the flags"),
        (["-0", "--config=configs/pretrain.py"], "unknown flag --0"),
        (["steps=9", "--config=configs/pretrain.py"], "--config.train.steps=9"),
        (["=0", "--config=configs/pretrain.py"], "'=0' is not a flag"),
        (["--config=configs/pretrain.py", "--config.=1"], "unknown config key ''"),
        (
            ["--config=configs/pretrain.py", "--nosearch=1"],
            "--nosearch=1 does not take an argument",
        ),
        (["--run", "--config=configs/pretrain.py"], "the value of the flag before it"),
    ],
)
def test_what_stops_the_flags_is_named(words, says):
    with pytest.raises(UserError, match=re.escape(says)):
        main.parse(["main.py", *words])


@properties.examples(15)
@hypothesis.given(content=st.binary(max_size=60))
def test_any_flag_file_is_parsed_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("flags") / "file"
    path.write_bytes(content)
    try:
        main.parse(["main.py", "--config=configs/pretrain.py", f"--flagfile={path}"])
    except UserError as error:
        assert str(error)


@properties.examples(20)
@hypothesis.given(
    content=st.one_of(
        st.binary(max_size=60),
        st.sampled_from([
            b"{}", b"[]", b"null", b"7", b'{"train": 1}', b"[[[[", b'{"step": 1e999}', b'"\xff"',
            b'{"evaluation": 3}', b'{"history": [1]}', b'{"objectives": {"a": 1}}', b"NaN",
        ]),
    ),
    name=st.sampled_from(
        ["config.json", "summary.json", "metrics.jsonl", "samples.jsonl", "history.json",
         "following.jsonl", "progress.jsonl", "windows.json"]
    ),
)  # fmt: skip
def test_a_run_folder_with_any_content_is_reported_or_refused(tmp_path_factory, content, name):
    folder = epath.Path(tmp_path_factory.mktemp("run"))
    (folder / name).write_bytes(content)
    for use in (
        lambda: write_report(folder),
        lambda: workdirs.read_config(folder / "config.json"),
        lambda: history.Start(folder, 0, 0.0, True, seed=0, processes=1),
    ):
        try:
            use()
        except UserError as error:
            assert str(error)


GROUPS = (
    "evaluation objectives parameters history cut confusion_matrix following_matrix text_labeller "
    "resumed_from name preset devices"
).split()


@pytest.mark.parametrize("group", GROUPS)
def test_a_report_leaves_out_what_no_run_writes(tmp_path, group):
    for value in (3, [1], "x", {"test": 3}, {"test": [[1], 2]}, {"test": {"a": {"b": [1]}}}):
        (tmp_path / "summary.json").write_text(json.dumps({group: value}))
        write_report(tmp_path)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)

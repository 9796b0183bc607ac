"""Text files as people have them."""

import pathlib

import hypothesis
import properties
import pytest
from hypothesis import strategies as st

from igerg_jax.data.text_repair import decoded, decoded_line, lines, repaired

quick = properties.examples(100)
CONTROLS = [chr(code) for code in range(0x80, 0xA0)]
ROOT = pathlib.Path(__file__).parents[2]


@quick
@hypothesis.given(text=st.text(st.sampled_from([*CONTROLS, *"aé’ \n\u2028"])))
def test_each_control_becomes_what_windows_1252_means(text):
    expected = [bytes([ord(c)]).decode("cp1252", "replace") if c in CONTROLS else c for c in text]
    assert repaired(text) == "".join(expected)
    assert not set(CONTROLS) & set(repaired(text))


def test_quotes_of_double_encoded_text():
    assert repaired("don\x92t \x93go\x94\x85 \x80") == "don’t “go”… €"
    assert repaired("a\x81b") == "a\ufffdb"


@quick
@hypothesis.given(text=st.text(st.characters(exclude_categories=("Cs", "Cc"))))
def test_text_without_controls_stays_in_every_encoding(text):
    assert repaired(text) == text
    assert decoded(text.encode("utf-8-sig")) == text
    for encoding in ("utf-16", "utf-32"):
        assert decoded(text.encode(encoding)) == text
    assert decoded_line(text.encode()) == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(encoding):
    assert decoded("emotion,pixels\n0,1 2 3\n".encode(encoding)) == "emotion,pixels\n0,1 2 3\n"


@quick
@hypothesis.given(data=st.binary())
def test_any_bytes_are_decoded(data):
    assert not set(CONTROLS) & set(decoded(data))


def test_one_byte_of_windows_1252_spoils_no_other():
    assert decoded("It’s\nso".encode() + b" don\x92t, caf\xe9 " + "‘x’".encode()) == (
        "It’s\nso don’t, café ‘x’"
    )


@quick
@hypothesis.given(records=st.lists(st.text(st.sampled_from("ab\x85\u2028\u2029\x0b\x0c\x1c "))))
def test_a_line_ends_with_a_line_feed_alone(records):
    text = "".join(record + "\n" for record in records)
    assert lines(text) == records == lines(text.replace("\n", "\r\n"))


def test_nothing_splits_lines_otherwise():
    for path in (ROOT / "igerg_jax").rglob("*.py"):
        assert ".splitlines(" not in path.read_text(encoding="utf-8"), path

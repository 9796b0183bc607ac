"""Text files as they are found: encodings, line ends, and wrongly decoded characters."""

import codecs

# UTF-32's little-endian mark begins with UTF-16's, so it is tried first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# Windows-1252 has quotes, dashes and letters where Unicode has invisible controls. Text that was
# mistaken for Latin-1 when it was converted to UTF-8 has these controls in their place.
_REPAIR = {code: bytes([code]).decode("cp1252", errors="replace") for code in range(0x80, 0xA0)}


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs.register_error`: decodes the wrong bytes as Windows-1252."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return wrong.decode("cp1252", errors="replace"), error.end


_WINDOWS_1252 = "igerg_jax.windows_1252"
codecs.register_error(_WINDOWS_1252, _as_windows_1252)


def repaired(text: str) -> str:
    """Replaces the controls U+0080 to U+009F by the characters of these bytes in Windows-1252.

    The five bytes without a character there become U+FFFD. Python counts U+0085 as white space, so
    call this before `strip`.
    """
    return text.translate(_REPAIR)


def encoding(data: bytes) -> tuple[str, int]:
    """(the encoding of a text file, how many bytes its mark has), from its first 200 bytes.

    UTF-8, or UTF-16 or UTF-32 with a byte order mark. UTF-16 without a mark is recognised by its
    zero bytes.
    """
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return name, len(mark)
    for place, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros = data[place:200:2].count(0)
        if zeros > 40 or (zeros and zeros == len(data[place:200:2])):
            return name, 0
    return "utf-8", 0


def decoded(data: bytes) -> str:
    """Decodes and repairs a text file in the encoding that `encoding` finds.

    Bytes that are not UTF-8 are read as Windows-1252: files mix both, even in one line. Never
    raises.
    """
    name, mark_bytes = encoding(data)
    data = data[mark_bytes:]
    return decoded_line(data) if name == "utf-8" else repaired(data.decode(name, errors="replace"))


def decoded_line(line: bytes) -> str:
    """Decodes and repairs UTF-8; a byte that is not UTF-8 is one of Windows-1252."""
    return repaired(line.decode("utf-8", errors=_WINDOWS_1252))


def lines(text: str) -> list[str]:
    """The lines of a text, which only "\\n" and "\\r\\n" end.

    `str.splitlines` would also cut at U+0085 and U+2028, which JSON and sentences may hold.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if not lines[-1] else lines

"""Text files as people have them: their encodings, their lines, and characters that went wrong."""

from __future__ import annotations

import codecs

# Two marks of UTF-32 begin like those of UTF-16: they are tried first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# Windows-1252 has quotes, dashes and letters where Unicode has controls that print as nothing. Of
# text that was taken for Latin-1 on its way to UTF-8, these controls remain.
_REPAIR = {code: bytes([code]).decode("cp1252", errors="replace") for code in range(0x80, 0xA0)}


def repaired(text: str) -> str:
    """Replaces the controls U+0080 to U+009F by what the byte means in Windows-1252.

    The five bytes that mean nothing there become U+FFFD. Python counts U+0085 as white space: call
    this before `strip`.
    """
    return text.translate(_REPAIR)


def decoded(data: bytes) -> str:
    """Decodes and repairs a text file: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Without a mark, a line that is not UTF-8 is read as Windows-1252: files mix both. UTF-16 without
    a mark is told by its zero bytes. Never raises.
    """
    for mark, encoding in _MARKS.items():
        if data.startswith(mark) and encoding != "utf-8":
            return repaired(data[len(mark) :].decode(encoding, errors="replace"))
    data = data.removeprefix(codecs.BOM_UTF8)
    for place, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros = data[place:200:2].count(0)
        if zeros > 40 or (zeros and zeros == len(data[place:200:2])):
            return repaired(data.decode(encoding, errors="replace"))
    return "\n".join(map(decoded_line, data.split(b"\n")))


def decoded_line(line: bytes) -> str:
    """Decodes and repairs one line: UTF-8, or else Windows-1252."""
    try:
        return repaired(line.decode("utf-8"))
    except UnicodeDecodeError:
        return repaired(line.decode("cp1252", errors="replace"))


def lines(text: str) -> list[str]:
    """The lines of a text, which only "\\n" and "\\r\\n" end.

    `str.splitlines` would also cut at U+0085 and U+2028, which JSON and sentences may hold.
    """
    found = [line.removesuffix("\r") for line in text.split("\n")]
    return found[:-1] if not found[-1] else found

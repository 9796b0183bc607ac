"""What may happen to a file."""

from hypothesis import strategies as st

FAULTS = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "emptied": lambda path: path.write_bytes(b""),
    "flipped": lambda path: path.write_bytes(
        path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 16])
    ),
    "removed": lambda path: path.unlink(),
}

PIECES = [
    b"\0",
    b"\xff",
    b"\n",
    b",",
    b'"',
    b"]",
    b"{",
    b"-1",
    b"9" * 25,
    b"1e999",
    b"null",
    b"NaN",
]
PIECES += ["\u2028".encode(), b"\xed\xa0\x80", b"__eou__", b"[" * 50, b"../../x", b" "]
CHANGES = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 4), st.sampled_from(PIECES)),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes: list[tuple[int, int, bytes]], length: int) -> bytes:
    """Pieces put in place of some bytes, and the end cut off."""
    for place, removed, piece in changes:
        place %= len(data) + 1
        data = data[:place] + piece + data[place + removed :]
    return data[: max(0, len(data) - length)]

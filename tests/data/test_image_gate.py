"""What an image's pixels mean, which files are read, and that no image stops anything."""

import functools
import io
import os
import pathlib
import re
import struct
import zlib

import hypothesis
import numpy as np
import properties
import pytest
import raw_data
from hypothesis import strategies as st
from PIL import Image, ImageOps

from igerg_jax.data import image_files, image_gate
from igerg_jax.data.image_gate import BACKGROUND, BrokenImage, as_jpeg, read_rgb
from igerg_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
RAMP_16x16 = np.arange(256, dtype=np.uint16).reshape(16, 16)  # every 8-bit grey
quick = properties.examples(60)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(data):
    return np.asarray(read_rgb(data), int)


def from_jpeg(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)


def half_red(width=32, height=16):
    """Black, its left half red: each of the eight orientations looks different to the last one."""
    array = np.zeros((height, width, 3), np.uint8)
    array[:, : width // 2, 0] = 255
    array[: height // 2, : width // 2, 1] = 200
    return Image.fromarray(array)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(kind, orientation):
    tag = Image.Exif()
    tag[274] = orientation
    options = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": tag}
    data = encoded(half_red(), kind, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), int)
    np.testing.assert_array_equal(pixels(data), expected)
    jpeg, size = as_jpeg(data)
    assert size == expected.shape[:2] == ((16, 32) if orientation < 5 else (32, 16))
    assert (jpeg == data) == (kind == "JPEG" and orientation == 1)
    assert abs(from_jpeg(jpeg) - expected).mean() < 12
    assert as_jpeg(jpeg)[0] == jpeg  # it is upright now


@pytest.mark.parametrize("kind, orientation", [("JPEG", 1), ("JPEG", 6), ("PNG", 1)])
def test_images_are_scaled_down_to_a_short_side(kind, orientation):
    tag = Image.Exif()
    tag[274] = orientation
    data = encoded(half_red(320, 200), kind, exif=tag)
    jpeg, size = as_jpeg(data, 50)
    assert size == ((50, 80) if orientation == 1 else (80, 50))
    large = from_jpeg(as_jpeg(data)[0])
    with Image.fromarray(large.astype(np.uint8)) as image:
        expected = np.asarray(image.resize(size[::-1], Image.Resampling.LANCZOS), int)
    assert from_jpeg(jpeg).shape == expected.shape
    assert abs(from_jpeg(jpeg) - expected).mean() < 3
    assert as_jpeg(jpeg, 50) == (jpeg, size)  # it is small enough now
    for larger in (200, 5000, 0):  # never scaled up
        assert as_jpeg(data, larger) == as_jpeg(data)


def test_damaged_metadata_is_no_damaged_picture():
    data = encoded(half_red(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert as_jpeg(data) == (data, (16, 32))


@pytest.mark.parametrize(
    "array, kind",
    [
        (RAMP_16x16 * np.uint16(257), "PNG"),
        (RAMP_16x16 * np.uint16(257), "TIFF"),
        (RAMP_16x16 * np.uint16(257), "PPM"),
        ((RAMP_16x16 * 257).astype(np.int32), "TIFF"),
        ((RAMP_16x16 * (2**31 / 256)).astype(np.int32), "TIFF"),
        ((RAMP_16x16 / 255).astype(np.float32), "TIFF"),
        ((RAMP_16x16 / 255).astype(np.float32), "PPM"),
        (np.where(RAMP_16x16 == 255, 1.1, RAMP_16x16 / 255).astype(np.float32), "TIFF"),
        (RAMP_16x16.astype(np.float32), "TIFF"),
        ((RAMP_16x16 / 127.5 - 1).astype(np.float32), "TIFF"),
    ],
)
def test_grey_of_any_kind_of_number_keeps_its_scale(array, kind):
    found = pixels(encoded(Image.fromarray(array), kind))
    assert abs(found - RAMP_16x16[..., None].astype(int)).max() <= 1


def test_what_is_no_number_is_black_and_infinity_white():
    array = np.array([[0, 0.5, 1], [np.nan, np.inf, -np.inf]], np.float32)
    found = pixels(encoded(Image.fromarray(array), "TIFF"))[..., 0]
    assert found.tolist() == [[0, 128, 255], [0, 255, 0]]


def palette(opaque=()):
    image = Image.new("P", (4, 4), 3)
    image.putpalette([10, 20, 30] * 256)
    return image


@pytest.mark.parametrize(
    "image, kind, options",
    [
        *((Image.new("RGBA", (4, 4), (9, 99, 200, 0)), k, {}) for k in ("PNG", "TIFF")),
        (Image.new("RGBA", (4, 4), (9, 99, 200, 0)), "WEBP", {"lossless": True, "exact": True}),
        (Image.new("LA", (4, 4), (0, 0)), "PNG", {}),
        (palette(), "PNG", {"transparency": 3}),
        (palette(), "PNG", {"transparency": bytes(4)}),
        (palette(), "GIF", {"transparency": 3}),
        (Image.new("L", (4, 4), 7), "PNG", {"transparency": 7}),
        (Image.new("1", (4, 4), 0), "PNG", {"transparency": 0}),
        (Image.new("RGB", (4, 4), (7, 8, 9)), "PNG", {"transparency": (7, 8, 9)}),
        (Image.fromarray(np.full((4, 4), 700, np.uint16)), "PNG", {"transparency": 700}),
    ],
)
def test_what_is_transparent_shows_the_background(image, kind, options):
    data = encoded(image, kind, **options)
    assert (pixels(data) == BACKGROUND).all()
    assert (from_jpeg(as_jpeg(data)[0]) == BACKGROUND).all()


def test_half_transparent_is_half_the_background():
    data = encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG")
    assert abs(pixels(data) - 127).max() <= 1
    opaque = Image.new("RGB", (4, 4), (7, 8, 9))
    assert (pixels(encoded(opaque, "PNG", transparency=(7, 8, 8))) == (7, 8, 9)).all()


def png(bits, row, transparent):
    """A grey PNG of one row, with a transparent level, in that many bits."""

    def chunk(name, data):
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    packed = functools.reduce(lambda total, level: (total << bits) | level, row, 0)
    line = b"\0" + packed.to_bytes(len(row) * bits // 8, "big")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", len(row), 1, bits, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", transparent))
        + chunk(b"IDAT", zlib.compress(line))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "bits, row, transparent, expected",
    [
        (1, [0, 1] * 4, 0, [255, 255] * 4),
        (2, [0, 1, 2, 3], 1, [0, 255, 170, 255]),
        (4, [0, 5, 10, 15], 10, [0, 85, 255, 255]),
    ],
)
def test_a_transparent_level_is_in_the_files_bits(bits, row, transparent, expected):
    assert pixels(png(bits, row, transparent))[0, :, 0].tolist() == expected


def test_colours_of_other_spaces():
    white = {"CMYK": (0, 0, 0, 0), "YCbCr": (255, 128, 128), "LAB": (255, 128, 128)}
    for mode, colour in white.items():
        found = pixels(encoded(Image.new(mode, (4, 4), colour), "TIFF"))
        assert found.min() >= 253, mode


def test_plain_images_are_stored_as_before():
    for data in (raw_data.jpeg(1), raw_data.jpeg(1, mode="RGB"), encoded(half_red(), "JPEG")):
        assert as_jpeg(data)[0] == data
    for mode in ("L", "RGB", "P"):
        image = half_red().convert(mode)
        expected = encoded(image.convert("RGB"), "JPEG", quality=95)
        assert as_jpeg(encoded(image, "PNG"))[0] == expected


def test_tensorflow_decodes_what_is_stored_as_it_was_meant():
    import tensorflow as tf

    tag = Image.Exif()
    tag[274] = 6
    rgba = half_red().convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    sources = [
        encoded(half_red(), "JPEG", exif=tag),
        encoded(half_red(), "JPEG", progressive=True),
        encoded(half_red().convert("L"), "JPEG"),
        # Its end is lost. Pillow does not mind, where enough bytes follow; TensorFlow does.
        encoded(half_red(), "JPEG")[:-2] + bytes(64),
        encoded(half_red().convert("CMYK"), "JPEG"),
        *(encoded(rgba, kind) for kind in ("PNG", "WEBP", "TIFF")),
        encoded(Image.fromarray(np.kron(RAMP_16x16 * 257, np.ones((4, 4))).astype("u2")), "PNG"),
    ]
    for data in sources:
        jpeg, (height, width) = as_jpeg(data)
        crop = [0, 0, height, width]
        found = tf.io.decode_and_crop_jpeg(jpeg, crop, channels=3).numpy().astype(int)
        assert found.shape == (height, width, 3)
        assert abs(found - pixels(data)).mean() < 12


def samples():
    image = half_red(24, 24)
    kinds = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")
    files = [encoded(image, kind) for kind in kinds]
    files.append(encoded(image, "TIFF", compression="tiff_lzw"))
    files.append(encoded(image.convert("RGBA"), "PNG"))
    files.append(
        encoded(image, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0")
    )
    return files


@quick
@hypothesis.given(
    data=st.sampled_from(samples()),
    changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8),
    length=st.integers(1, 5000),
)
def test_a_mutated_image_is_read_or_broken_and_nothing_else(data, changes, length):
    mutated = bytearray(data[:length])
    for place, value in changes:
        mutated[place % len(mutated)] = value
    try:
        jpeg, (height, width) = as_jpeg(bytes(mutated))
    except BrokenImage as error:
        assert str(error) and "0x" not in str(error)
        return
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.format, image.size) == ("JPEG", (width, height))


@quick
@hypothesis.given(data=st.binary(max_size=300))
def test_bytes_are_no_image(data):
    with pytest.raises(BrokenImage):
        as_jpeg(data)


@pytest.mark.parametrize("error", [struct.error, OverflowError, MemoryError, SyntaxError, KeyError])
def test_whatever_a_reader_raises_is_named(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error("it went wrong")

    monkeypatch.setattr(image_gate, "_open", fail)
    with pytest.raises(BrokenImage, match=f"{error.__name__}: .*it went wrong"):
        as_jpeg(b"x")


def test_only_listed_formats_are_opened(monkeypatch):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    icon = encoded(half_red(), "ICO")
    for data in (eps, icon, b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        with pytest.raises(BrokenImage, match="no image in a known format"):
            as_jpeg(data)
    Image.init()
    for name, suffixes in image_gate.FORMATS.items():
        known = {s for s, kind in Image.registered_extensions().items() if kind == name}
        assert known <= set(suffixes), name


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    bomb = bytearray(png(8, [0, 0], 1))
    bomb[16:24] = struct.pack(">II", 30_000, 30_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BrokenImage, match="30000 x 30000 pixels"):
        as_jpeg(bytes(bomb))


def test_an_image_that_no_jpeg_holds_is_named_by_its_size(capfd):
    for size in ((65_501, 1), (1, 70_000)):
        out = io.BytesIO()
        Image.new("L", size).save(out, "PNG")
        assert image_gate.read_rgb(out.getvalue()).size == size
        with pytest.raises(BrokenImage, match=f"{size[0]} x {size[1]} pixels: a side over 65,500"):
            as_jpeg(out.getvalue())
    assert not capfd.readouterr().err  # libjpeg prints a line, which names no file


@pytest.mark.filterwarnings("error")
def test_floats_near_their_limit():
    most = np.finfo(np.float32).max
    array = np.array([[-most, 0, most], [-1e38, 5e37, 1e38]], np.float32)
    found = pixels(encoded(Image.fromarray(array), "TIFF"))[..., 0]
    assert found.tolist() == [[0, 128, 255], [0, 191, 255]]


def test_pipes_devices_and_links_to_nothing_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, expected in {
        "pipe.jpg": b"", "device.jpg": b"", "folder.jpg": b"", "loop.jpg": None, "no\0.jpg": None,
        "none.jpg": None,
    }.items():  # fmt: skip
        assert image_gate.read_file(tmp_path / name) == expected, name
    for name in ("pipe.jpg", "device.jpg", "loop.jpg"):
        with pytest.raises(UserError, match=name):
            image_gate.file_as_jpeg(tmp_path / name)
    raw_data.put(tmp_path / "real.jpg", raw_data.jpeg(1))
    found = image_files.find(tmp_path)
    assert found.names == ["loop.jpg", "real.jpg"]
    assert found.passed_over == {image_files.NOT_REGULAR: 2}


def test_an_image_is_opened_in_one_place():
    files = [ROOT / "main.py", *(ROOT / "igerg_jax").rglob("*.py")]
    opening = re.compile(r"\bImage\.open\(|decode_png|decode_image|imread")
    found = [path.name for path in files if opening.search(path.read_text(encoding="utf-8"))]
    # The demo's opens a header, to bound what is uploaded, and the PNGs that it made itself.
    assert sorted(found) == ["image_gate.py", "images.py"]

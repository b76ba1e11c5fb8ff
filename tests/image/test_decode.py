"""Gray of more than 8 bits: by the depth that a file states, else by its values; PIL's convert for what fits 8 bits."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from paddlemix.image.errors import ImageError
from paddlemix.image.load import load_image

MODES = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(values, color: int = 0, width: int | None = None, extra: bytes = b"") -> bytes:
    """Return a PNG of 16 bits and one row; color: 0 gray, 2 RGB, 4 gray and alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width or len(values), 1, 16, color, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" + np.array(values, ">u2").tobytes()))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def tiff(data: bytes, num_values: int, bits: int, photometric: int = 1, sample_format: int = 1) -> bytes:
    """Return a TIFF of one gray row, uncompressed."""
    tags = {256: num_values, 257: 1, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 1, 279: len(data)}
    tags |= {273: 8 + 2 + 12 * 10 + 4, 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def grays(source) -> list[int]:
    """Return the first channel of the only row; all three are equal."""
    array = np.asarray(load_image(source))
    assert (array == array[..., :1]).all()
    return array[0, :, 0].tolist()


def files(values) -> dict:
    """Return the same values in every container and mode that can store them."""
    image = Image.fromarray(np.array([values], np.uint16))
    found = {"PNG": encoded(image), "PGM": encoded(image, "PPM"), "TIFF": encoded(image, "TIFF")}
    found |= {"LZW": encoded(image, "TIFF", compression="tiff_lzw")}
    found |= {"TIFF of 32 bits": encoded(Image.fromarray(np.array([values], np.int32)), "TIFF")}
    found |= {"signed TIFF": tiff(np.array(values).astype("<i2").tobytes(), len(values), 16, sample_format=2)}
    for mode, dtype in MODES.items():
        found[mode] = Image.frombytes(mode, (len(values), 1), np.array(values, dtype).tobytes())
    return found


@pytest.mark.parametrize("name", files([0]))
def test_values_that_fit_8_bits_are_as_pil_converts_them(name):
    values = [0, 1, 15, 16, 127, 254, 255]
    expected = np.asarray(Image.fromarray(np.array([values], np.uint16)).convert("RGB"))[0, :, 0].tolist()
    assert grays(files(values)[name]) == expected == values


@pytest.mark.parametrize("name", files([0]))
def test_values_that_fit_12_bits_are_scaled_from_12(name):
    assert grays(files([0, 15, 16, 255, 256, 2048, 4095])[name]) == [0, 0, 1, 15, 16, 128, 255]


@pytest.mark.parametrize("name", [name for name in files([0]) if name != "signed TIFF"])
def test_other_values_are_scaled_from_16(name):
    assert grays(files([0, 255, 256, 4096, 0x7F00, 0xFFFF])[name]) == [0, 0, 1, 16, 127, 255]


@pytest.mark.parametrize(("maxval", "expected"), [(300, [0, 2, 128, 255]), (1023, [0, 0, 127, 255])])
def test_maxval_of_pgm_is_white(maxval, expected):
    values = [0, 3, maxval // 2, maxval]
    head = f"4 1\n{maxval}\n"
    assert grays(b"P5\n" + head.encode() + np.array(values, ">u2").tobytes()) == expected
    assert grays(f"P2\n{head}{' '.join(map(str, values))}\n".encode()) == expected


def test_maxval_of_pgm_counts_where_all_values_are_dark():
    """With 4095 as white, 15 is nearly black, although Pillow makes it 240, which fits 8 bits."""
    assert grays(b"P5\n2 1\n4095\n" + np.array([0, 15], ">u2").tobytes()) == [0, 0]


def test_tiff_of_12_bits_is_scaled_from_12_also_where_all_values_are_dark():
    assert grays(tiff(bytes([0x00, 0x00, 0x01, 0xAB, 0xCF, 0xFF]), 4, 12)) == [0, 0, 0xAB, 0xFF]
    assert grays(tiff(bytes([0x00, 0x00, 0x20]), 2, 12)) == [0, 2]


def test_tiff_whose_zero_is_white_is_inverted_as_with_8_bits():
    values = [0, 0x7F00, 0xFFFF]
    eight = tiff(bytes(value >> 8 for value in values), 3, 8, photometric=0)
    assert grays(tiff(np.array(values, "<u2").tobytes(), 3, 16, photometric=0)) == grays(eight) == [255, 128, 0]


def test_transparent_value_of_16_bits_becomes_white():
    assert grays(png16([0, 300, 500, 65535], extra=chunk(b"tRNS", struct.pack(">H", 300)))) == [0, 255, 1, 255]


def test_orientation_of_deep_gray_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.array([[255, 0, 0]], np.uint16))
    assert np.asarray(load_image(encoded(image, exif=exif)))[..., 0].tolist() == [[255], [0], [0]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (encoded(Image.fromarray(np.array([[-1, 5]], np.int32)), "TIFF"), "pixels from -1 to 5: expected 0 to 65535"),
        (encoded(Image.fromarray(np.array([[0, 65536]], np.int32)), "TIFF"), "pixels from 0 to 65536"),
        (tiff(np.array([-5, 5], "<i2").tobytes(), 2, 16, sample_format=2), "pixels from -5 to 5"),
        (tiff(np.array([7, 2**32 - 1], "<u4").tobytes(), 2, 32), "pixels from -1 to 7"),
        (Image.fromarray(np.array([[0.0, 255.0]], np.float32)), "floating point"),
        (png16([200, 100, 50, 1, 2, 3], 2, width=2), "all values fit the lower 8"),
        (png16([200, 65535], 4, width=1), "all values fit the lower 8"),
        (png16([200, 100, 50, 65535], 6, width=1), "all values fit the lower 8"),
        (b"P6\n1 1\n65535\n" + np.array([90, 80, 70], ">u2").tobytes(), "all values fit the lower 8"),
    ],
    ids=["negative", "above 16 bits", "signed", "unsigned 32", "float", "RGB", "gray and alpha", "RGBA", "PPM"],
)
def test_unknown_depth_is_refused_and_not_made_black(source, message):
    with pytest.raises(ImageError, match=message):
        load_image(source)


def test_16_bit_colors_keep_their_upper_8():
    image = load_image(png16([0xFF00, 0x8000, 0x00FF, 0x1234, 0, 0], 2, width=2))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(255, 128, 0), (18, 0, 0)]


def test_black_gray_of_16_bits_stays_black():
    assert grays(encoded(Image.fromarray(np.zeros((1, 2), np.uint16)))) == [0, 0]

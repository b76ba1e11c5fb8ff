"""Images from files, bytes, data URIs, PIL and NumPy load upright in RGB, or raise an error with the reason."""

import base64
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemix.image.decode import MAX_PIXELS
from paddlemix.image.errors import ImageError
from paddlemix.image.load import load_image

PHOTOS = Path(__file__).parents[1] / "assets" / "photos"


def encoded(image: Image.Image, **options) -> bytes:
    """Return the bytes of an image file, PNG by default."""
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def marked(size=(4, 3), mode="RGB") -> Image.Image:
    """Draw a black image with a white pixel in the upper left corner."""
    image = Image.new(mode, size)
    image.putpixel((0, 0), (255, 255, 255))
    return image


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size but has almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# orientation: where the stored upper left corner of a 4x3 image ends up, as (x, y), and the upright size
ORIENTATIONS = {
    1: ((0, 0), (4, 3)),
    2: ((3, 0), (4, 3)),
    3: ((3, 2), (4, 3)),
    4: ((0, 2), (4, 3)),
    5: ((0, 0), (3, 4)),
    6: ((2, 0), (3, 4)),
    7: ((2, 3), (3, 4)),
    8: ((0, 3), (3, 4)),
    99: ((0, 0), (4, 3)),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation

    image = load_image(encoded(marked(), exif=exif))

    corner, size = ORIENTATIONS[orientation]
    assert image.size == size
    assert image.getpixel(corner) == (255, 255, 255) and np.asarray(image).sum() == 3 * 255


def test_exif_orientation_of_an_opened_pil_image_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    marked().save(tmp_path / "a.png", exif=exif)

    with Image.open(tmp_path / "a.png") as opened:
        assert load_image(opened).size == (3, 4)


def test_image_with_a_broken_exif_block_is_loaded():
    assert load_image(encoded(marked(), format="JPEG", exif=b"Exif\0\0nonsense")).size == (4, 3)


def test_transparent_parts_become_white():
    image = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))

    loaded = load_image(encoded(image))

    assert loaded.mode == "RGB"
    assert [loaded.getpixel((x, 0)) for x in range(3)] == [(200, 0, 0), (255, 255, 255), (127, 127, 127)]


def test_transparent_palette_entry_becomes_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)

    loaded = load_image(encoded(image, transparency=0))

    assert [loaded.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (200, 100, 50)]
    assert load_image(encoded(image)).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize(("mode", "value", "rgb"), [("L", 77, 77), ("1", 1, 255), ("LA", (77, 255), 77)])
def test_gray_images_become_rgb(mode, value, rgb):
    assert load_image(encoded(Image.new(mode, (2, 2), value))).getpixel((1, 1)) == (rgb, rgb, rgb)


def test_transparent_gray_value_becomes_white():
    image = Image.new("L", (2, 1), 9)
    image.putpixel((1, 0), 77)

    loaded = load_image(encoded(image, transparency=9))

    assert [loaded.getpixel((x, 0))[0] for x in range(2)] == [255, 77]


@pytest.mark.parametrize(("dtype", "format"), [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF")])
def test_16_bit_gray_keeps_its_upper_byte(dtype, format):
    values = np.array([[0, 0x00FF, 0x7F00, 0xFFFF]], dtype)

    loaded = load_image(encoded(Image.fromarray(values), format=format))

    assert [loaded.getpixel((x, 0)) for x in range(4)] == [(0, 0, 0), (0, 0, 0), (0x7F,) * 3, (255, 255, 255)]


@pytest.mark.parametrize("values", [np.array([[-1, 5]], np.int32), np.array([[0.5, 1.0]], np.float32)])
def test_pixels_of_unknown_range_are_refused(values):
    with pytest.raises(ImageError, match="bits"):
        load_image(encoded(Image.fromarray(values), format="TIFF"))


def test_cmyk_jpeg_becomes_rgb():
    image = load_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), format="JPEG"))

    red, green, blue = image.getpixel((4, 4))
    assert red > 200 and green < 60 and blue < 60


def test_every_kind_of_source_gives_the_same_pixels(tmp_path, monkeypatch):
    path = PHOTOS / "chelsea.png"
    data = path.read_bytes()
    expected = np.asarray(Image.open(path).convert("RGB"))
    monkeypatch.chdir(PHOTOS.parent)
    sources = [
        path,
        str(path),
        "photos/chelsea.png",
        data,
        bytearray(data),
        memoryview(data),
        Image.open(path),
        expected,
        "data:image/png;base64," + base64.b64encode(data).decode(),
    ]

    for source in sources:
        image = load_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_relative_paths_start_at_the_folder():
    assert load_image("chelsea.png", folder=PHOTOS).size == (200, 300)
    assert load_image(PHOTOS / "chelsea.png", folder="/nowhere").size == (200, 300)


def test_given_image_is_not_modified():
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 0))

    loaded = load_image(image)
    loaded.putpixel((0, 0), (1, 2, 3))

    assert image.mode == "RGBA" and image.getpixel((0, 0)) == (0, 0, 0, 0)


def test_missing_file_is_reported_with_its_resolved_path(tmp_path):
    with pytest.raises(ImageError, match=str(tmp_path / "b" / "no.jpg")):
        load_image("../b/no.jpg", folder=tmp_path / "a")


@pytest.mark.parametrize("name", ["astronaut.jpg", "chelsea.png"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_file_is_refused(tmp_path, name, part):
    data = (PHOTOS / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * part)])

    with pytest.raises(ImageError, match=rf"{name}.* is broken or cut off"):
        load_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the TIFF reader
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
def test_damaged_file_gives_an_image_or_an_image_error(format):
    rng = np.random.default_rng(0)
    intact = np.frombuffer(encoded(load_image(PHOTOS / "chelsea.png").resize((32, 32)), format=format), np.uint8)
    num_refused = 0
    for _ in range(50):
        damaged = intact.copy()
        damaged[rng.integers(0, len(intact), 10)] = rng.integers(0, 256, 10)
        try:
            assert load_image(damaged.tobytes(), max_pixels=10**6).mode == "RGB"
        except ImageError:
            num_refused += 1
    assert num_refused > 0


def test_text_named_jpg_is_refused_with_its_first_bytes(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>404</html>")

    start = r"page.jpg' has an unknown format: it starts with b'<html>404</html>'"
    expected = start + r" \(a web page\) and has 16 bytes; expected JPEG"
    with pytest.raises(ImageError, match=expected):
        load_image(tmp_path / "page.jpg")


def test_formats_that_start_programs_are_refused():
    with pytest.raises(ImageError, match="has an unknown format"):
        load_image(encoded(marked(), format="EPS"))


def test_empty_file_and_empty_bytes_are_refused(tmp_path):
    (tmp_path / "empty.png").touch()

    with pytest.raises(ImageError, match=r"empty.png' is empty"):
        load_image(tmp_path / "empty.png")
    with pytest.raises(ImageError, match=r"<0 bytes> is empty"):
        load_image(b"")


def test_folder_and_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="not a regular file"):
        load_image(tmp_path / "pipe")


@pytest.mark.parametrize("source", ["", "  ", "a\0b.jpg", "x" * 5000])
def test_impossible_paths_give_an_image_error(source):
    with pytest.raises(ImageError) as caught:
        load_image(source)
    assert len(str(caught.value)) < 500


def test_pixel_bomb_is_refused_before_decoding():
    with pytest.raises(ImageError, match="too many pixels: 1000x1000, the limit is 999999"):
        load_image(png_header(1000, 1000), max_pixels=999_999)
    with pytest.raises(ImageError, match="too many pixels"):
        load_image(png_header(60_000, 60_000))
    with pytest.raises(ImageError, match="too many pixels"):
        load_image(Image.new("L", (100, 100)), max_pixels=9_999)
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


def test_data_uri_may_be_percent_encoded_and_broken_over_lines():
    data = encoded(marked())
    text = base64.b64encode(data).decode()

    assert load_image("data:image/png;base64," + text[:20] + "\n" + text[20:]).size == (4, 3)
    assert load_image("data:;base64," + text.replace("+", "%2B").replace("=", "%3D")).size == (4, 3)
    assert load_image("data:image/png," + "".join(f"%{byte:02x}" for byte in data)).size == (4, 3)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("data:image/png;base64", "is not a data: URI"),
        ("data:image/png;base64,####", "broken base64"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64,aGVsbG8gd29ybGQ=", "has an unknown format: it starts with b'hello world'"),
    ],
)
def test_bad_data_uri_is_refused(uri, message):
    with pytest.raises(ImageError, match=message):
        load_image(uri)


def test_long_data_uri_is_not_repeated_in_the_message():
    with pytest.raises(ImageError, match=r"\(40022 characters\)") as caught:
        load_image("data:image/png;base64," + "A" * 40_000)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_that_are_not_rgb_images_are_refused(array):
    with pytest.raises(ImageError, match=r"expected uint8 \[height, width, 3\]"):
        load_image(array)


@pytest.mark.parametrize("source", [None, 5, ["a.jpg"]])
def test_other_objects_are_refused(source):
    with pytest.raises(ImageError, match="expected a path, an http"):
        load_image(source)


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://localhost/a.png", "gopher://x/"])
def test_other_schemes_are_refused(url):
    with pytest.raises(ImageError, match="has the scheme"):
        load_image(url)


def test_paths_and_urls_can_be_forbidden():
    with pytest.raises(ImageError, match="paths are not allowed"):
        load_image(PHOTOS / "chelsea.png", allow_path=False)
    with pytest.raises(ImageError, match="paths are not allowed"):
        load_image("chelsea.png", folder=PHOTOS, allow_path=False)
    with pytest.raises(ImageError, match="URLs are not allowed"):
        load_image("http://127.0.0.1:9/a.png", allow_url=False)
    assert load_image(encoded(marked()), allow_path=False, allow_url=False).size == (4, 3)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_rgb_pixels_are_not_copied_after_they_are_decoded(name, tmp_path, monkeypatch):
    Image.new("RGB", (5, 4), (200, 10, 20)).save(tmp_path / name)
    monkeypatch.setattr(Image.Image, "copy", None)  # what `convert` to the same mode calls
    image = load_image(tmp_path / name)
    assert image.mode == "RGB" and image.size == (5, 4) and image.getpixel((2, 2))[0] > 190

"""The size that is read from a header is that of the loaded image."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from paddlemix.image.errors import ImageError, MissingImageError
from paddlemix.image.load import load_image, read_image_size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_size_is_that_of_the_upright_image(tmp_path, orientation, kind):
    path = tmp_path / f"photo.{kind}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert read_image_size(path) == load_image(path).size
    assert read_image_size(path) == ((20, 30) if orientation > 4 else (30, 20))


def test_only_the_header_of_a_file_is_read(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.effect_noise((200, 100), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert read_image_size(str(path)) == (200, 100)
    with pytest.raises(ImageError):
        load_image(path)


def test_other_sources_are_loaded(tmp_path):
    assert read_image_size(Image.new("L", (7, 5))) == (7, 5)
    buffer = io.BytesIO()
    Image.new("RGB", (9, 4)).save(buffer, "PNG")
    assert read_image_size(buffer.getvalue()) == (9, 4)
    with pytest.raises(MissingImageError, match="there is no image"):
        read_image_size(tmp_path / "none.png")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ImageError, match=r"text\.jpg"):
        read_image_size(tmp_path / "text.jpg")

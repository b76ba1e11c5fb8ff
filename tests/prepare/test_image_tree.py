"""An image is found as it is on disk, though a row says another ending or other capitals."""

from __future__ import annotations

import pytest
from data_sets import write_image

from paddlemix.prepare.image_tree import ImageTree


@pytest.fixture
def images(tmp_path):
    for name in (
        "ocr/1.png",
        "ocr/2.jpg",
        "ocr/3.JPG",
        "ocr/4.gif",
        "ocr/4.webp",
        "VG/sub/5.jpg",
        "top.jpg",
        "fig.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "ocr" / "6.jpg").mkdir()
    (tmp_path / "ocr" / "7.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "ocr" / "8.jpg").symlink_to(tmp_path / "top.jpg")
    return ImageTree(str(tmp_path))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("ocr/2.jpg", "ocr/2.jpg"),
        ("ocr/1.jpg", "ocr/1.png"),
        ("ocr/3.jpg", "ocr/3.JPG"),
        ("ocr/2.JPEG", "ocr/2.jpg"),
        ("ocr/4.jpg", None),  # two could be meant
        ("vg/SUB/5.jpg", "VG/sub/5.jpg"),
        ("TOP.png", "top.jpg"),
        ("ocr/6.jpg", None),  # a folder
        ("ocr/7.jpg", None),  # a link to nothing
        ("ocr/8.jpg", "ocr/8.jpg"),
        ("ocr/9.jpg", None),
        ("no/such/folder/1.jpg", None),
        ("top.jpg/1.jpg", None),
        ("ocr/1", "ocr/1.png"),
        ("fig.1", None),
    ],
)
def test_lookup(images, asked, found):
    assert images.find(asked) == found
    assert images.has(asked) == (found == asked)


def test_folders_that_differ_only_in_capitals_are_told_apart(tmp_path):
    write_image(tmp_path / "a" / "1.jpg")
    write_image(tmp_path / "A" / "2.jpg")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system does not tell capitals apart")
    tree = ImageTree(str(tmp_path))
    assert (tree.find("a/1.png"), tree.find("A/2.png"), tree.find("a/2.jpg")) == ("a/1.jpg", "A/2.jpg", None)

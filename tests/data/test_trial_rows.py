"""A wrong image folder is found with a few rows of each file, with a hint where the images are."""

from __future__ import annotations

import json
import re

import pytest
from data_rows import read_mixture
from PIL import Image

from paddlemix.data import trial_rows
from paddlemix.data.bad_rows import BadRowPolicy, TooManyBadRowsError
from paddlemix.data.encode import find_image, hint_for
from paddlemix.data.measure import Measure
from paddlemix.image.errors import MissingImageError

DEFAULT, SKIP, RAISE = BadRowPolicy(), BadRowPolicy("skip"), BadRowPolicy("raise")


@pytest.fixture
def check(tmp_path, tokenizer, template, spec):
    """Return a function that writes files with an image (or None) in each row, and tries their rows."""
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    measure = Measure(tokenizer, template, spec, 200, is_thorough=False)

    def run(policy, *files):
        for number, images in enumerate(files):
            rows = [{"image": image, "conversations": [["What?", f"{n}."]]} for n, image in enumerate(images)]
            (tmp_path / f"{number}.json").write_text(json.dumps(rows))
        names = [str(tmp_path / f"{number}.json") for number in range(len(files))]
        trial_rows.check_images(read_mixture({"data_files": names}, "train"), measure, policy, "train")

    return run


@pytest.mark.parametrize("policy", [DEFAULT, SKIP, RAISE])
def test_file_without_its_images_is_one_line_with_counts_and_an_example(policy, check):
    with pytest.raises(TooManyBadRowsError) as caught:
        check(policy, ["good.png"] * 50, ["a/gone.png"] * 3000)
    text = str(caught.value)
    assert "/1.json: 512 of the 512 rows with images that were tried, of 3,000, cannot be used (512 missing" in text
    assert re.search(r"for example \S+/1\.json, row \d+: image 'a/gone\.png' not found; tried ", text)
    assert text.isprintable()
    notes = caught.value.notes
    assert len(notes) == 512 and {note.kind for note in notes} == {"missing_image"}
    assert sorted({note.number for note in notes}) == [note.number for note in notes]


@pytest.mark.parametrize(
    ("policy", "files"),
    [
        (DEFAULT, [["gone.png"] * 10]),  # as many as allowed
        (DEFAULT, [["good.png"] * 90 + ["gone.png"] * 10]),
        (DEFAULT, [(["good.png"] * 195 + ["gone.png"] * 5) * 10]),  # 2.5%, where chance alone may show so many
        (BadRowPolicy("skip", 40), [["gone.png"] * 40]),
        (SKIP, [["gone.png"] * 5 + [None] * 1000]),
        (RAISE, [[None] * 20]),
        (SKIP, [["http://127.0.0.1:1/a.png"] * 30]),  # nothing is downloaded
    ],
)
def test_data_that_may_be_within_the_limit_passes(policy, files, check):
    check(policy, *files)


def test_share_that_is_certainly_too_large_raises_and_one_that_may_be_chance_does_not(check):
    with pytest.raises(TooManyBadRowsError, match=r"93 of the 1,024 rows .* of 6,000"):
        check(BadRowPolicy("skip", 150), (["good.png"] * 9 + ["gone.png"]) * 600)
    with pytest.raises(TooManyBadRowsError, match="1 of the 3 rows"):
        check(RAISE, ["good.png", "gone.png", "good.png"])


def test_unreadable_images_count_and_files_count_together(check):
    with pytest.raises(TooManyBadRowsError, match=r"cannot be used \(12 unreadable"):
        check(SKIP, ["cut.png"] * 12)
    with pytest.raises(TooManyBadRowsError, match=r"/1\.json: 6 of the 6"):
        check(SKIP, ["gone.png"] * 6, ["gone.png"] * 6, ["good.png"] * 50)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("train/a.png", "it would be found with image_folder '{}/data/coco'"),
        ("coco/train/a.jpg", "there is '{}/data/coco/train/a.png'"),
        ("x/y/coco/train/a.png", "there is '{}/data/coco/train/a.png'"),
        ("data/coco/train/a.png", "it would be found with image_folder '{}'"),
        ("other/a.png", None),
        ("http://x/a.png", None),
        ("", None),
        ("a\0b.png", None),
        ("x" * 5000, None),
    ],
)
def test_hint_names_the_place_of_the_image(source, hint, tmp_path):
    (tmp_path / "data/coco/train").mkdir(parents=True)
    (tmp_path / "data/coco/train/a.png").touch()
    folders = [str(tmp_path / "data")]
    if "://" not in source:
        with pytest.raises(MissingImageError):
            find_image(source, folders)
    expected = "" if hint is None else f"; {hint.format(tmp_path)}"
    assert hint_for(source, folders) == expected

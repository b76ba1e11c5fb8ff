"""Sets in Parquet files become rows and image files, and nothing in them is executed."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pyarrow.parquet
import pytest
import raw_sets
from PIL import Image
from prepared import counts, llava, prepare, rows_of, tree

from paddlemix.prepare.row import Problem
from paddlemix.prepare.sets import arxivcap

CAPTION = "Create a caption for the provided figure."


def pixels(content: bytes) -> np.ndarray:
    """Return pixels [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_arxivcap_has_a_row_for_each_figure_of_one_part(tmp_path, capsys, caplog):
    words = raw_sets.arxivcap(tmp_path)
    assert prepare(*words) == 0
    root, prefix, name = tmp_path / "ArxivCap", "ArxivCap/images/", "hep-th0003001/hep-th0003001_"
    assert rows_of(root / "llava_processed_jsons" / "arXiv_src_0003_001.jsonl") == [
        llava("hep-th0003001_0", f"{prefix}{name}0.jpg", CAPTION, "Energy vs. time."),
        llava("a", f"{prefix}a.jpg", CAPTION, "flat"),
        llava("hep-th0003001_5", f"{prefix}{name}5.jpg", CAPTION, "clear"),
        llava("x.y", f"{prefix}p/x.y.png", CAPTION, "plot"),
        llava("hep-th0003001_8", f"{prefix}{name}8.jpg", CAPTION, "水\n$x$"),
    ]
    assert len(rows_of(root / "llava_processed_jsons" / "arXiv_src_0004_002.jsonl")) == 40
    images = tree(root / "images")
    kept = {f"{name}0.jpg": raw_sets.JPEG, "a.jpg": raw_sets.JPEG_2, f"{name}8.jpg": raw_sets.JPEG}
    kept |= {"p/x.y.png": raw_sets.image_bytes("PNG")} | {f"m/m_{n}.jpg": raw_sets.JPEG for n in range(40)}
    clear = images.pop(f"{name}5.jpg")
    assert images == kept
    assert clear.startswith(b"\xff\xd8\xff") and (pixels(clear) == 255).all()  # transparent parts become white
    assert "README_x.parquet, whose names are not arXiv_src_YYMM_NNN.parquet" in caplog.text
    assert "0011_001" not in capsys.readouterr().out  # the end of the range is excluded
    assert not (tmp_path / "x.jpg").exists()


def test_arxivcap_names_each_reason_for_a_dropped_figure(tmp_path, capsys):
    words = raw_sets.arxivcap(tmp_path)
    words[words.index("11")] = "4"
    assert prepare(*words) == 0
    assert counts(capsys.readouterr().out) == {
        "a figure of several parts": 1,
        "a figure without an image": 1,
        "no caption": 2,
        "an unsafe file name": 1,
        "an image that cannot be read": 1,
        "no image": 1,
        "an unknown kind of image": 1,
        "the image file occurs before": 1,
    }


PROMPTS = """Describe the image concisely.
Provide a brief description of the given image.
Offer a succinct explanation of the picture presented.
Summarize the visual content of the image.
Give a short and clear explanation of the subsequent image.
Share a concise interpretation of the image provided.
Present a compact description of the photo's key features.
Relay a brief, clear account of the picture shown.
Render a clear and concise summary of the photo.
Write a terse but informative summary of the picture.
Create a compact narrative representing the image presented.""".splitlines()


def chosen(seed: int, name: str) -> str:
    """Return the prompt of a document, chosen as the documentation of the command says."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return PROMPTS[sum(byte << 8 * place for place, byte in enumerate(digest)) % 11]


@pytest.mark.parametrize("seed", [0, 7])
def test_synthdog_reads_json_texts_and_saves_images_as_png(tmp_path, capsys, seed):
    assert prepare(*raw_sets.synthdog_en(tmp_path), "--seed", seed) == 0
    root = tmp_path / "synthdog-en"
    files = {"train-00003-of-00084-0ab1": "train", "validation-00003-of-00004-9": "validation"}
    written = {path.name for path in (root / "llava_processed_jsons").glob("*.jsonl")}
    assert written == {f"{name}.jsonl" for name in files}
    for file, split in files.items():
        image, name = f"synthdog-en/images/{split}/00003/", f"{split}_00003_"
        assert rows_of(root / "llava_processed_jsons" / f"{file}.jsonl") == [
            llava(f"{name}0000000", f"{image}0000000.png", chosen(seed, f"{name}0000000"), 'the quick "brown" fox’s'),
            llava(f"{name}0000004", f"{image}0000004.png", chosen(seed, f"{name}0000004"), "two\nlines"),
        ]
    images = tree(root / "images")
    assert sorted(images) == [
        f"{split}/00003/{number}.png" for split in ("train", "validation") for number in ("0000000", "0000004")
    ]
    converted = images["train/00003/0000000.png"]
    assert converted.startswith(b"\x89PNG") and (pixels(converted) == pixels(raw_sets.JPEG)).all()
    assert images["train/00003/0000004.png"] == raw_sets.image_bytes("PNG")
    dropped = {"no text_sequence": 2, "not an object": 2, "ground_truth is not JSON": 4, "no image": 2}
    assert counts(capsys.readouterr().out) == dropped


def test_synthdog_can_keep_jpeg_content(tmp_path):
    assert prepare(*raw_sets.synthdog_en(tmp_path), "--keep-jpeg") == 0
    root = tmp_path / "synthdog-en"
    rows = rows_of(root / "llava_processed_jsons" / "train-00003-of-00084-0ab1.jsonl")
    image = "synthdog-en/images/train/00003/"
    assert [row["image"] for row in rows] == [f"{image}0000000.jpg", f"{image}0000004.png"]
    images = tree(root / "images" / "train" / "00003")
    assert images == {"0000000.jpg": raw_sets.JPEG, "0000004.png": raw_sets.image_bytes("PNG")}


def test_prompts_of_many_documents_use_all_eleven():
    from paddlemix.prepare.sets.synthdog import prompt_of

    names = [f"train_00000_{number:07d}" for number in range(500)]
    assert [prompt_of(3, name) for name in names] == [chosen(3, name) for name in names]
    assert {prompt_of(3, name) for name in names} == set(PROMPTS)


def test_parquet_copy_has_the_rows_with_seven_digits(tmp_path):
    words = raw_sets.synthdog_en(tmp_path)
    assert prepare(*words, "--compat-ids") == 0
    root, name = tmp_path / "synthdog-en", "train-00003-of-00084-0ab1"
    table = pyarrow.parquet.read_table(root / "llava_processed_parquet" / f"{name}.parquet").to_pylist()
    rows = rows_of(root / "llava_processed_jsons" / f"{name}.jsonl")
    assert [row["id"] for row in rows] == ["0000000", "0000004"]
    assert table == [{"id": f"{number:07d}", "llava": row} for number, row in enumerate(rows)]


def test_parquet_copy_is_optional(tmp_path):
    words = [word for word in raw_sets.synthdog_en(tmp_path) if not word.startswith("--output_parquet_dir")]
    assert prepare(*words) == 0
    assert not (tmp_path / "synthdog-en" / "llava_processed_parquet").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--image_prefix", "other/images"), "does not end with --image_prefix other/images"),
        (("--image_prefix", "p/images"), "does not end with --image_prefix p/images"),  # "ArxivCap" ends with p
        (("--parquet_range", "20", "30"), "selects no file: the numbers go from 3 to 11"),
        (("--parquet_range", "11", "3"), "the end is excluded, so it must be larger"),
        (("--workers", "0"), "--workers is 0"),
        (("--input_dir", "nowhere"), "nowhere does not exist"),
    ],
)
def test_arguments_that_do_not_fit_are_one_error(tmp_path, capsys, change, message):
    assert prepare(*raw_sets.arxivcap(tmp_path), *change) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "ArxivCap" / "llava_processed_jsons").exists()


def test_file_that_is_not_parquet_is_one_error(tmp_path, capsys):
    words = raw_sets.arxivcap(tmp_path)
    path = tmp_path / "ArxivCap" / "data" / "arXiv_src_0003_001.parquet"
    for content in (path.read_bytes()[:-100], b"<html>", b""):
        path.write_bytes(content)
        assert prepare(*words) == 1
        assert "arXiv_src_0003_001.parquet is not a complete Parquet file" in capsys.readouterr().err


def test_another_image_with_the_name_is_kept_unless_overwritten(tmp_path, capsys):
    words = raw_sets.arxivcap(tmp_path)
    path = tmp_path / "ArxivCap" / "images" / "a.jpg"
    raw_sets.write(path, b"mine")
    assert prepare(*words) == 0
    assert path.read_bytes() == b"mine" and "dropped 1: another image has the name" in capsys.readouterr().out
    assert prepare(*words, "--overwrite") == 0
    assert path.read_bytes() == raw_sets.JPEG_2


def foreign_texts(*contents: bytes) -> pyarrow.Array:
    """Return a column of texts whose bytes nothing has checked, as writers of other languages leave them."""
    ends = np.cumsum([0, *map(len, contents)], dtype=np.int32)
    buffers = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(contents))]
    return pyarrow.Array.from_buffers(pyarrow.string(), len(contents), buffers)


def test_row_of_a_parquet_file_that_is_not_utf8_is_counted(tmp_path, capsys):
    good = b'{"gt_parse": {"text_sequence": "x"}}'
    images = pyarrow.array([raw_sets.JPEG] * 3, pyarrow.binary())
    table = pyarrow.table({"image": images, "ground_truth": foreign_texts(good, b"\xff\xfe", good)})
    words = raw_sets.synthdog_en(tmp_path)
    data = tmp_path / "synthdog-en" / "data"
    for path in data.iterdir():
        path.unlink()
    pyarrow.parquet.write_table(table, data / "train-00003-of-00084-x.parquet")
    assert prepare(*words) == 0
    printed = capsys.readouterr().out
    assert "3 rows read, 2 written, 1 dropped" in printed and "x.parquet row 2: a text of the row is not" in printed
    figure = foreign_texts(b"\xff"), pyarrow.array([[]], pyarrow.list_(pyarrow.string()))
    figures = pyarrow.StructArray.from_arrays(figure, names=["caption", "cil_pairs"])
    column = pyarrow.ListArray.from_arrays(pyarrow.array([0, 1], pyarrow.int32()), figures)
    pyarrow.parquet.write_table(pyarrow.table({"caption_images": column}), tmp_path / "arXiv_src_0003_001.parquet")
    (row,) = arxivcap.figures(tmp_path / "arXiv_src_0003_001.parquet")
    assert isinstance(row.value, Problem) and row.value.reason == "a text is not UTF-8"

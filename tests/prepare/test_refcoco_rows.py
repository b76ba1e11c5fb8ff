"""RefCOCO's phrases and boxes: both frames and both styles, figures calculated by hand; pickles never run code."""

from __future__ import annotations

import json
import os
import pickle

import pytest
from prepared import prepare, rows_of

IMAGES = [
    {"id": 581857, "width": 640, "height": 480, "file_name": "COCO_train2014_000000581857.jpg"},
    {"id": 9, "width": 400, "height": 500, "file_name": "COCO_train2014_000000000009.jpg"},
]
# left, top, width, height px
BOXES = [
    {"id": 1719310, "image_id": 581857, "bbox": [100, 50, 200.0, 100], "category_id": 1},
    {"id": 2, "image_id": 9, "bbox": [0, 0, 400, 500], "category_id": 1},
]


def reference(number, box, image, split, *phrases):
    sentences = [
        {"sent_id": 10 * number + place, "sent": sent, "raw": raw, "tokens": sent.split()}
        for place, (sent, raw) in enumerate(phrases)
    ]
    head = {"ref_id": number, "ann_id": box, "image_id": image, "category_id": 1, "split": split}
    return {**head, "file_name": f"COCO_train2014_{image:012d}_{number}.jpg", "sentences": sentences}


LADY = "the lady with the blue shirt"
REFERENCES = [
    reference(
        1, 1719310, 581857, "train", ("the lady with the blue shirt", "THE LADY WITH THE BLUE SHIRT"), ("lady", "lady")
    ),
    reference(2, 2, 9, "testA", ("whole image", "whole image!")),
]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "refcoco"
    folder.mkdir()
    (folder / "refs(unc).p").write_bytes(pickle.dumps(REFERENCES, protocol=2))
    instances = {"images": IMAGES, "annotations": BOXES, "categories": [{"id": 1, "name": "person"}]}
    (folder / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    return folder


def texts(path):
    return [tuple(turn["value"] for turn in one["conversations"]) for one in rows_of(path)]


LOCATE = "<image>\nPlease provide the bounding box coordinate of the region this sentence describes: {}."


def test_rows_of_llava_have_boxes_of_the_padded_image(folder):
    assert prepare("refcoco", "--dataset_folder", folder) == 0
    train = folder / "refcoco_unc_train_locate_llava.jsonl"
    # padded to 640x640, so 80 px above: y = (50 + 80) / 640 and (150 + 80) / 640
    assert rows_of(train)[0] == {
        "id": "1_10",
        "image": "coco/train2017/000000581857.jpg",
        "conversations": [
            {"from": "human", "value": LOCATE.format(LADY)},
            {"from": "gpt", "value": "[0.16, 0.20, 0.47, 0.36]"},
        ],
    }
    assert [one["id"] for one in rows_of(train)] == ["1_10", "1_11"]
    # padded to 500x500, so 50 px on the left
    assert texts(folder / "refcoco_unc_testA_locate_llava.jsonl") == [
        (LOCATE.format("whole image"), "[0.10, 0.00, 0.90, 1.00]")
    ]


def test_boxes_of_the_original_image_and_the_inverse_task(folder):
    words = ("--splits", "train", "--bbox_frame", "original", "--task", "describe", "--image_name", "c/{}.jpg")
    assert prepare("refcoco", "--dataset_folder", folder, *words) == 0
    output = folder / "refcoco_unc_train_describe_llava.jsonl"
    question = "<image>\nPlease provide a short description for this region: [0.16, 0.10, 0.47, 0.31]."
    assert texts(output) == [(question, LADY), (question, "lady")]
    assert rows_of(output)[0]["image"] == "c/581857.jpg"
    assert not (folder / "refcoco_unc_testA_describe_llava.jsonl").exists()


def test_style_of_xtuner_asks_seven_questions_and_cuts_hundredths_off(folder):
    assert prepare("refcoco", "--dataset_folder", folder, "--splits", "train", "--style", "xtuner") == 0
    found = texts(folder / "refcoco_unc_train_locate_llava.jsonl")
    assert len(found) == 14
    assert found[1] == (
        f"[refer] give me the location of {LADY.upper()}\n<image>",
        "{<15><10><46><31>}",
    )
    assert found[6][0] == f"[refer] where can I locate the {LADY.upper()} ?\n<image>"
    words = ("--splits", "train", "--style", "xtuner", "--task", "describe")
    assert prepare("refcoco", "--dataset_folder", folder, *words) == 0
    found = texts(folder / "refcoco_unc_train_describe_llava.jsonl")
    assert found[12] == ("[identify] this {<15><10><46><31>} is\n<image>", "lady")


def of_python_2(value) -> bytes:
    """Return the opcodes of a value as Python 2 pickles it: texts are bytes."""
    if isinstance(value, dict):
        return b"}(" + b"".join(of_python_2(key) + of_python_2(one) for key, one in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(of_python_2, value)) + b"e"
    if isinstance(value, int):
        return b"J" + value.to_bytes(4, "little")
    content = value.encode()
    return b"U" + bytes([len(content)]) + content


def test_pickles_of_python_2_are_read_with_texts_in_utf8(folder):
    references = [reference(1, 2, 9, "train", ("the café", "The Café"))]
    (folder / "refs(unc).p").write_bytes(b"\x80\x02" + of_python_2(references) + b".")
    assert prepare("refcoco", "--dataset_folder", folder) == 0
    assert texts(folder / "refcoco_unc_train_locate_llava.jsonl")[0][0] == LOCATE.format("the café")


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


def test_pickle_that_would_run_code_is_refused_by_name(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "refs(unc).p").write_bytes(pickle.dumps([_Runs()]))
    assert prepare("refcoco", "--dataset_folder", folder) == 1
    assert "wants to load posix.mkdir" in capsys.readouterr().err
    assert not (folder / "made-by-a-pickle").exists()


# Opcodes that call a number, use a list as a key, set an item of a number, and ask for 2^40 and 2^60 bytes.
DAMAGED = [b"K\1)R.", b"}](K\1e]s.", b"K\1K\2K\3s.", b"\x8e" + (1 << 40).to_bytes(8, "little") + b"a."]
DAMAGED += [b"\x80\4\x95" + (1 << 60).to_bytes(8, "little") + b"."]


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"text", pickle.dumps({"a": 1}), pickle.dumps([1]), *DAMAGED])
def test_file_that_is_no_list_of_references_is_refused(folder, content, capsys):
    (folder / "refs(unc).p").write_bytes(content)
    assert prepare("refcoco", "--dataset_folder", folder) == 1
    assert "error: " in capsys.readouterr().err


def test_hostile_references_are_dropped_by_reason(folder, capsys):
    good = REFERENCES[0]
    hostile = [
        good,
        {**good, "image_id": 5},
        {**good, "ann_id": 5},
        {**good, "image_id": [1]},
        {**good, "sentences": None},
        {**good, "sentences": [None, {"sent_id": 1}, {"sent_id": 2, "sent": " "}, {"sent_id": 3, "sent": "<image>"}]},
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(hostile))
    assert prepare("refcoco", "--dataset_folder", folder) == 0
    assert len(rows_of(folder / "refcoco_unc_train_locate_llava.jsonl")) == 2
    printed = capsys.readouterr().out
    assert "10 rows read, 2 written, 8 dropped" in printed
    assert "dropped 2: not in instances.json" in printed


@pytest.mark.parametrize("split", ["../../x", "a" * 300, "", "train/x", None, ["train"]])
def test_split_that_would_be_another_file_is_refused(folder, split, capsys):
    (folder / "refs(unc).p").write_bytes(pickle.dumps([*REFERENCES, {**REFERENCES[0], "split": split}]))
    before = sorted(folder.iterdir())
    assert prepare("refcoco", "--dataset_folder", folder) == 1
    assert "splits that are not train, val or test" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_wrong_arguments_are_refused(folder, tmp_path, capsys):
    words = ("refcoco", "--dataset_folder")
    assert prepare(*words, tmp_path) == 1
    assert "has no refs(unc).p" in capsys.readouterr().err
    assert prepare(*words, folder, "--splits", "train", "test") == 1
    assert "has the splits train, testA" in capsys.readouterr().err
    for name in ("no-number.jpg", "{:012d.jpg", "{name}.jpg"):
        assert prepare(*words, folder, "--image_name", name) == 1
        assert "a place for the number" in capsys.readouterr().err

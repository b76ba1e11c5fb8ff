"""LLaVA's own files: rows that training takes stay as they are, images are looked up and counted by folder."""

from __future__ import annotations

import pytest
from data_sets import row, write_image, write_list
from prepared import prepare, rows_of

COCO, OCR = "coco/train2017", "ocr_vqa/images"


def mix() -> list[dict]:
    """Return rows as in llava_v1_5_mix665k.json: numbers and texts as ids, text-only rows, the mark first or last."""
    last = {
        "id": "000000033471",
        "image": f"{COCO}/1.jpg",
        "conversations": [
            {"from": "human", "value": "What is it?\n<image>"},
            {"from": "gpt", "value": "A bus."},
            {"from": "human", "value": "Of which color?"},
            {"from": "gpt", "value": "Red."},
        ],
    }
    text = {**row("wgByO4Y_0"), "model": ""}
    return [last, row(2, f"{COCO}/1.jpg"), row("gone", f"{COCO}/9.jpg"), row("gif", f"{OCR}/2.jpg"), text]


@pytest.fixture
def folder(tmp_path):
    write_image(tmp_path / "data" / COCO / "1.jpg")
    write_image(tmp_path / "data" / OCR / "2.gif")
    return tmp_path


def test_rows_of_the_mix_stay_and_the_images_are_those_on_disk(folder, capsys):
    file = write_list(folder / "llava_v1_5_mix665k.json", mix())
    assert prepare("llava_instruct", "--input_file", file, "--image_dir", folder / "data") == 0
    first, second, _, fourth, text = mix()
    expected = [first, {**second, "id": "2"}, {**fourth, "image": f"{OCR}/2.gif"}, text]
    output = folder / "llava_v1_5_mix665k_llava.jsonl"
    assert rows_of(output) == expected
    assert [list(one) for one in rows_of(output)] == [list(one) for one in expected]
    printed = capsys.readouterr().out
    assert "5 rows read, 4 written, 1 dropped" in printed
    assert f"dropped 1: no image in {COCO}\n    llava_v1_5_mix665k.json row 3: there is no {COCO}/9.jpg" in printed
    assert f"2: images in {COCO}" in printed
    assert "1: rows without an image" in printed
    assert f"1: images in {OCR} under another ending" in printed


def test_without_an_image_folder_nothing_is_looked_up(folder, capsys):
    file = write_list(folder / "llava_v1_5_mix665k.json", mix())
    assert prepare("llava_instruct", "--input_file", file) == 0
    assert rows_of(folder / "llava_v1_5_mix665k_llava.jsonl") == [{**one, "id": str(one["id"])} for one in mix()]
    assert prepare("llava_instruct", "--input_file", file) == 0
    assert capsys.readouterr().out.count(": unchanged") == 1


def test_images_that_came_since_are_found_by_the_next_run(folder):
    file = write_list(folder / "llava_v1_5_mix665k.json", mix())
    words = ("llava_instruct", "--input_file", file, "--image_dir", folder / "data")
    assert prepare(*words) == 0
    write_image(folder / "data" / COCO / "9.jpg")
    assert prepare(*words) == 0
    assert len(rows_of(folder / "llava_v1_5_mix665k_llava.jsonl")) == 5


def test_bare_names_of_the_150k_are_in_coco(folder):
    file = write_list(folder / "llava_instruct_150k.json", [row("1", "1.jpg"), row("9", "9.jpg")])
    words = ("--image_dir", folder / "data", "--image_prefix", "data/", "--output_dir", folder / "out")
    assert prepare("llava_instruct", "--input_file", file, *words) == 0
    assert rows_of(folder / "out" / "llava_instruct_150k_llava.jsonl") == [row("1", f"data/{COCO}/1.jpg")]


def test_folder_with_none_of_the_image_folders_is_refused_with_their_names(folder, capsys):
    file = write_list(folder / "llava_instruct_150k.json", [row("1", "1.jpg")])
    assert prepare("llava_instruct", "--input_file", file, "--image_dir", folder / "data" / "coco") == 1
    assert "expected coco/train2017, gqa/images, ocr_vqa/images, textvqa/train_images" in capsys.readouterr().err


def test_pretraining_captions_are_counted_as_one_folder(tmp_path, capsys):
    write_image(tmp_path / "images" / "00453" / "004539375.jpg")
    rows = [row("004539375", "00453/004539375.jpg"), row("2", "00001/2.jpg"), row("3", "00002/3.jpg")]
    rows[0]["conversations"][0]["value"] = "Give a brief description of the given image.\n<image>"
    file = write_list(tmp_path / "blip_laion_cc_sbu_558k.json", rows)
    assert prepare("llava_pretrain", "--input_file", file, "--image_dir", tmp_path / "images") == 0
    assert rows_of(tmp_path / "blip_laion_cc_sbu_558k_llava.jsonl") == rows[:1]
    assert "dropped 2: no image in the image folder" in capsys.readouterr().out


def test_folders_of_sharegpt4v_are_counted(tmp_path, capsys):
    names = ["sam/images/sa_1.jpg", "llava/llava_pretrain/images/00453/1.jpg", "wikiart/images/a b.jpg"]
    for name in names:
        write_image(tmp_path / name)
    rows = [row(name, name) for name in names]
    file = write_list(tmp_path / "share-captioner_coco_lcs_sam_1246k_1107.json", rows)
    assert prepare("sharegpt4v", "--input_file", file, "--image_dir", tmp_path) == 0
    assert rows_of(tmp_path / "share-captioner_coco_lcs_sam_1246k_1107_llava.jsonl") == rows
    assert "1: images in llava/llava_pretrain/images" in capsys.readouterr().out


def test_hostile_rows_are_dropped_by_reason_or_repaired(tmp_path, capsys):
    leading = row("leading", f"{COCO}/1.jpg")
    leading["conversations"].insert(0, {"from": "gpt", "value": "Hello."})
    after_system = row("after system")
    turns = after_system["conversations"]
    turns[:0] = [{"from": "system", "value": "Be brief."}, {"from": "gpt", "value": "Hello."}]
    unmarked = row("unmarked")
    unmarked["image"] = f"{COCO}/1.jpg"
    hostile = [
        leading,
        after_system,
        unmarked,
        {**row("other key"), "images": [f"{COCO}/1.jpg"]},
        row("empty answer", answer=""),
        row("outside", "../../etc/passwd.jpg"),
        row("absolute", "/etc/1.jpg"),
        row("backslash", "coco\\1.jpg"),
        row("number", 5, "q"),
        row("mark in answer", f"{COCO}/1.jpg", answer="<image>"),
        {"id": "none", "image": f"{COCO}/1.jpg"},
        {"id": "pairs", "conversations": [["q", "a"]]},
        {"id": "value", "conversations": [{"from": "human", "value": None}, {"from": "gpt", "value": "a"}]},
        "text",
        row("surrogate", question="\ud800"),
    ]
    file = write_list(tmp_path / "mix.json", hostile)
    assert prepare("llava_instruct", "--input_file", file) == 0
    repaired = {**leading, "conversations": leading["conversations"][1:]}
    assert rows_of(tmp_path / "mix_llava.jsonl") == [
        repaired,
        {**after_system, "conversations": [turns[0], *turns[2:]]},
        unmarked,
    ]
    printed = capsys.readouterr().out
    assert "15 rows read, 3 written, 12 dropped" in printed
    assert "2: an answer before the first question was removed" in printed
    assert "1: an image without <image> is placed before the first question" in printed
    assert "dropped 3: an unsafe file name" in printed
    assert "dropped 1: images under another key" in printed


def test_file_of_captions_alone_writes_nothing_and_fails(tmp_path, caplog):
    file = write_list(tmp_path / "meta.json", [{"id": "1", "image": "1.jpg", "blip_caption": "x", "url": "http://x"}])
    assert prepare("llava_pretrain", "--input_file", file) == 1
    assert "nothing was written" in caplog.text
    assert not (tmp_path / "meta_llava.jsonl").exists()

"""PaddleMIX's pairs become LLaVA's rows and come back equal; what pairs cannot hold is dropped by reason."""

from __future__ import annotations

import json

from data_sets import row, write_lines, write_list
from prepared import prepare, rows_of

PAIRS = [
    {"id": "a", "image": "images/a.jpg", "conversations": [["<image>\nWhat?", "A bus."], ["Red?", "Yes."]]},
    {"id": "b", "conversations": [["Hello", "Hi"]]},
    {"id": "c", "image": ["1.jpg", "2.jpg"], "conversations": [["<image><image>Both?", "Two."]], "source": "水"},
]


def test_pairs_become_turns(tmp_path):
    file = write_list(tmp_path / "train.json", PAIRS)
    assert prepare("pairs2llava", "--input_file", file) == 0
    first, second, third = rows_of(tmp_path / "train_llava.jsonl")
    assert first == {
        "id": "a",
        "image": "images/a.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": "A bus."},
            {"from": "human", "value": "Red?"},
            {"from": "gpt", "value": "Yes."},
        ],
    }
    assert "image" not in second
    assert (third["image"], third["source"]) == (["1.jpg", "2.jpg"], "水")


def test_there_and_back_is_equal_and_back_is_one_list(tmp_path):
    file = write_lines(tmp_path / "train.jsonl", PAIRS)
    assert prepare("pairs2llava", "--input_file", file) == 0
    assert prepare("llava2pairs", "--input_file", tmp_path / "train_llava.jsonl") == 0
    assert json.loads((tmp_path / "train_llava_pairs.json").read_text(encoding="utf-8")) == PAIRS


def test_row_without_an_id_is_named_and_an_image_without_a_mark_gets_one(tmp_path, capsys):
    rows = [{"image": "a.jpg", "conversations": [["What?", "A bus."]]}, {"id": 7, "conversations": [["q", "a"]]}]
    assert prepare("pairs2llava", "--input_file", write_list(tmp_path / "x.json", rows)) == 0
    first, second = rows_of(tmp_path / "x_llava.jsonl")
    assert (first["id"], second["id"]) == ("x_0", "7")
    assert first["conversations"][0]["value"] == "<image>\nWhat?"
    assert "1: rows with images but no <image>" in capsys.readouterr().out


def test_rows_of_another_form_and_bad_rows_are_dropped(tmp_path, capsys):
    bad = [row(1), {"conversations": [["q", ""]]}, {"conversations": [["q"]]}, {"conversations": []}, 5]
    assert prepare("pairs2llava", "--input_file", write_list(tmp_path / "x.json", [*PAIRS[:1], *bad])) == 0
    assert "6 rows read, 1 written, 5 dropped" in capsys.readouterr().out


def test_what_pairs_cannot_hold_is_dropped_by_reason(tmp_path, capsys):
    system, untrained, parts, leading = row(1), row(2), row(3), row(4)
    system["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    more = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "loss": False}]
    untrained["conversations"] += more
    parts |= {"image": "a.jpg"}
    parts["conversations"][0]["value"] = [{"type": "image"}, {"type": "text", "text": "x"}]
    leading["conversations"].insert(0, {"from": "gpt", "value": "Hello."})
    rows = [system, untrained, parts, leading, {**row(5), "system": "Be brief."}, PAIRS[0]]
    assert prepare("llava2pairs", "--input_file", write_list(tmp_path / "x.json", rows)) == 0
    found = json.loads((tmp_path / "x_pairs.json").read_text(encoding="utf-8"))
    assert found == [{"id": "4", "conversations": [["Q?", "A."]]}]
    printed = capsys.readouterr().out
    for reason in ("2: a system text", "1: an answer that is not trained", "1: a turn of parts", "1: another form"):
        assert f"dropped {reason}" in printed
    assert "1: the answer before the first question is left out" in printed

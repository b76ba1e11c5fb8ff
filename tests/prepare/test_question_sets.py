"""Sets of questions in JSON files become the rows that their formats say; what cannot be used is dropped and counted.

The rows are written out from the sets' descriptions and from the rules of Cerebras' preprocess_dataset.py.
"""

from __future__ import annotations

import json

import pytest
import raw_sets
from prepared import counts, llava, prepare, rows_of


def test_ai2d_has_lettered_options_in_order_of_the_files(tmp_path, capsys):
    assert prepare(*raw_sets.ai2d(tmp_path)) == 0
    image, root = "ai2d/images/", "Which label shows the root? a) leaf b) root c) stem d) soil"
    assert rows_of(tmp_path / "out" / "ai2d_llava.jsonl") == [
        llava("0.png-0", image + "0.png", root, "b) root"),
        llava("0.png-1", image + "0.png", "What comes after B? a) A b) C c) D d) E", "b) C"),
        llava("10.png-0", image + "10.png", "Same? a) yes", "a) yes"),
        llava("10.png-1", image + "10.png", "Same? a) no", "a) no"),
        llava("2.png-0", image + "2.png", "Q? a) a b) b c) c d) d e) e", "e) e"),
    ]
    assert counts(capsys.readouterr().out) == {
        "no such option": 2,
        "not JSON in UTF-8": 1,
        "an unsafe file name": 1,
        "not an object": 2,
        "an image without questions": 1,
    }


def test_arxivqa_reads_a_label_as_a_letter_only_if_it_is_one(tmp_path, capsys):
    assert prepare(*raw_sets.arxivqa(tmp_path)) == 0
    image = "ArxivQA/images/0805.4509_1.jpg"
    four, colors = "A) Ising B) Potts C) XY D) Heisenberg", "Blue line Red line Decreasing Increasing"
    answers = ["B) Potts", "A) Ising", "B) Potts", "B) Potts", "B) Potts", "C) XY", "D) Heisenberg", "B) Potts"]
    expected = [llava(f"q-{n}", image, f"Which? {four}", f"{one} Because.") for n, one in enumerate(answers)]
    expected.append(llava("q-9", image, f"Which? {four}", "B) Potts Because."))  # q-8, "I", has no option
    answers = ["Blue line", "Decreasing", "A sharp peak", "Green"]
    expected += [llava(f"q-{n}", image, f"Which? {colors}", f"{one} Because.") for n, one in enumerate(answers, 10)]
    expected += [llava(f"q-{n}", image, f"Which? {colors}", "Because.") for n in (14, 15)]
    expected.append(llava("q-17", image, "Which?", "Something Because."))
    expected.append(llava("yes", image, "Which? Yes No", "Yes"))
    expected.append(llava("null", image, f"Which? {four}", "A) Ising"))
    assert rows_of(tmp_path / "out" / "arxivqa_llava.jsonl") == expected
    assert counts(capsys.readouterr().out) == {
        "no such option": 3,
        "no answer": 1,
        "an unsafe file name": 1,
        "half of a surrogate pair": 1,
        "not an object": 1,
        "not JSON in UTF-8": 1,
        "label read as a letter": 9,
        "label read as the text of an option": 4,
        "label read as free text": 3,
        "label empty, the rationale is the answer": 2,
    }


@pytest.mark.parametrize("is_compatible", [False, True])
def test_chartqa_converts_the_files_that_are_there(tmp_path, capsys, caplog, is_compatible):
    assert prepare(*raw_sets.chartqa(tmp_path), *["--compat-ids"] * is_compatible) == 0
    root = tmp_path / "ChartQA_Dataset"
    written = {str(path.relative_to(root)) for path in root.rglob("*.jsonl")}
    assert written == {
        "train/train_human_llava_jsonl/train_human_llava.jsonl",
        "train/train_augmented_llava_jsonl/train_augmented_llava.jsonl",
        "val/val_human_llava_jsonl/val_human_llava.jsonl",
        "val/val_augmented_llava_jsonl/val_augmented_llava.jsonl",
        "test/test_augmented_llava_jsonl/test_augmented_llava.jsonl",
    }
    image, prefix = "ChartQA_Dataset/test/png/", "" if is_compatible else "test_augmented_"
    question = "How many food item is shown in the bar graph?"
    assert rows_of(root / "test/test_augmented_llava_jsonl/test_augmented_llava.jsonl") == [
        llava(prefix + "0", image + "41699051005347.png", question, "14"),
        llava(prefix + "2", image + "two_col_103562.png", "What was\nthe value?", "['a', 'b']"),
        llava(prefix + "4", image + "not there.png", "How much?", "3"),
        llava(prefix + "7", image + "é水.png", "Größe?", "0.5%"),
    ]
    assert "not there, so not converted: test/test_human.json" in caplog.text
    dropped = {"no label": 5, "<image> in a text": 3, "label is not a text": 3, "no query": 3, "not an object": 3}
    assert counts(capsys.readouterr().out) == dropped


DOCVQA = [
    ("sp_docvqa", "DocVQA/sp_docvqa/images/", ["train_v1.0_withQT", "val_v1.0_withQT"]),
    (
        "infographics_docvqa",
        "DocVQA/Infographicsvqa/images/",
        ["infographicsVQA_train_v1.0", "infographicsVQA_val_v1.0_withQT"],
    ),
]


@pytest.mark.parametrize(("name", "image", "splits"), DOCVQA, ids=["sp", "infographics"])
def test_docvqa_takes_the_first_answer(tmp_path, capsys, name, image, splits):
    assert prepare(*raw_sets.SETS[name](tmp_path)) == 0
    expected = [
        llava("49153", image + "pybv0228_81.png", "What is the 'actual' value per 1000?", "0.28"),
        llava("49154", image + "pybv0228_81.png", "Where?", "university of california, san diego"),
        llava("5", image + "a b.png", "A blank?", "7"),
    ]
    assert sorted(path.name for path in (tmp_path / "qa").iterdir() if path.is_dir()) == [
        f"{split}_llava_jsonl" for split in splits
    ]
    for split in splits:
        assert rows_of(tmp_path / "qa" / f"{split}_llava_jsonl" / f"{split}_llava.jsonl") == expected
    assert counts(capsys.readouterr().out) == {"no answer": 6, "<image> in a text": 2}


def test_docvqa_without_its_list_is_one_error(tmp_path, capsys):
    raw_sets.write(tmp_path / "train_v1.0_withQT.json", {"dataset_name": "docvqa", "rows": []})
    assert prepare("sp_docvqa", "--dataset_folder", tmp_path) == 1
    assert "has no 'data': its keys are dataset_name, rows" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_dvqa_converts_train_and_both_validation_files(tmp_path):
    assert prepare(*raw_sets.dvqa(tmp_path)) == 0
    for split in ("train", "val_easy", "val_hard"):
        image = f"DVQA/images/bar_{split}_00000001.png"
        assert rows_of(tmp_path / "DVQA" / "qa" / f"{split}_qa_llava_jsonl" / f"{split}_qa_llava.jsonl") == [
            llava("1", image, "What is the value of the largest bar?", "9"),
            llava("2", image, "Are the values percentages?", "no"),
            llava("3", image, "A number?", "9"),
        ]


def test_json_lists_become_lines_with_names_kept(tmp_path, capsys):
    assert prepare(*raw_sets.convert_json2jsonl(tmp_path)) == 0
    target = tmp_path / "in_to_jsonl"
    assert (target / "my_json_a.jsonl").read_text(encoding="utf-8") == '{"id": 1, "text": "é\u2028水"}\n{"id": 2}\n'
    assert (target / "lines.jsonl").read_text(encoding="utf-8") == '{"id": 1}\n{"id": 2.5}\n'
    assert counts(capsys.readouterr().out) == {"not an object": 1, "not JSON": 1}


def test_json_row_with_a_repeated_key_is_counted_and_not_halved(tmp_path, capsys):
    raw_sets.write(tmp_path / "in" / "a.json", '[{"id": 1, "text": "a", "text": "b"}, {"id": 2}]')
    assert prepare("convert_json2jsonl", "--input_dir", tmp_path / "in") == 0
    assert "an object has the key 'text' twice" in capsys.readouterr().out
    assert (tmp_path / "in_to_jsonl" / "a.jsonl").read_text(encoding="utf-8") == '{"id": 2}\n'


def test_one_object_is_not_a_list_of_rows(tmp_path, capsys):
    raw_sets.write(tmp_path / "in" / "a.json", [{"id": 1}])
    raw_sets.write(tmp_path / "in" / "b.json", json.dumps({"id": 1, "x": [2]}, indent=1))
    assert prepare("convert_json2jsonl", "--input_dir", tmp_path / "in") == 1
    assert "b.json holds one object, expected a JSON list of rows" in capsys.readouterr().err
    assert not (tmp_path / "in_to_jsonl").exists()

"""The table of tasks is consistent, finds files and names, and every table of VLMEvalKit is scored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import benchmark_files
import pytest
from tables import RED, base64_of, write_table

from paddlemix.evaluate.tasks import ALIASES, TASKS, task_of
from paddlemix.evaluate.tasks.task import load, scored, without_answer

ROOT = Path(__file__).resolve().parents[3]
CELL = base64_of(RED)
CHOICE = {"A": "cat", "B": "N/A", "answer": "B"}
MMBENCH = {"hint": "", **CHOICE, "category": "ocr", "image": CELL, "source": "x", "l2-category": "logic_reasoning"}
# Task, name of the table, cells beside index and question; the right answer; what the scorer gets of them.
TABLES = [
    ("mmbench_en_dev", "MMBench_DEV_EN", {**MMBENCH, "split": "dev"}, "B", {"options": {"A": "cat", "B": "N/A"}}),
    ("mmbench_en_dev", "mmbench_dev_20230712", MMBENCH, "B.", {"l2-category": "logic_reasoning"}),
    ("mmbench_cn_dev_v11", "MMBench_DEV_CN_V11", MMBENCH, "B", {"category": "ocr"}),
    ("ccbench", "CCBench", {**CHOICE, "category": "food", "image": CELL}, "B", {"category": "food"}),
    ("seed_img", "SEEDBench_IMG", {**CHOICE, "category": "Scene", "image": CELL}, "B", {"category": "Scene"}),
    ("ai2d", "AI2D_TEST", {**CHOICE, "category": "volcano", "image": CELL}, "B", {"answer": "B"}),
    ("mmstar", "MMStar", {**CHOICE, "l2_category": "color", "image": CELL}, "B", {"l2_category": "color"}),
    ("realworldqa", "RealWorldQA", {**CHOICE, "image": CELL}, "B", {"answer": "B"}),
    ("realworldqa", "RealWorldQA", {"answer": "Yes", "image": CELL}, "yes.", {"answer": "Yes"}),
    ("scienceqa", "ScienceQA_TEST", {**CHOICE, "hint": "h", "image": CELL}, "B", {"answer": 1, "hint": "h"}),
    ("gqa", "GQA_TestDev_Balanced", {"answer": "no", "image": CELL}, "No.", {"answer": "no"}),
    ("textvqa", "TextVQA_VAL", {"answer": str(["a b"] * 10), "image": CELL}, "a b", {"answers": ["a b"] * 10}),
    ("vizwiz", "VizWiz", {"answers": str(["a b"] * 10), "image": CELL}, "a b", {"answers": ["a b"] * 10}),
    ("chartqa", "ChartQA_TEST", {"answer": "14", "split": "test_human", "image": CELL}, "14", {"category": "human"}),
    ("docvqa", "DocVQA_VAL", {"answer": "['0.28', '28%']", "image": CELL}, "28%", {"answers": ["0.28", "28%"]}),
    ("infovqa", "InfoVQA_VAL", {"answer": "['x', \"it's\"]", "image": CELL}, "it's", {"answers": ["x", "it's"]}),
    ("ocrbench", "OCRBench", {"answer": "['CENTRE']", "category": "Scene", "image": CELL}, "Centre", {}),
    ("pope", "POPE", {"answer": "yes", "category": "popular, random", "image": CELL}, "Yes", {}),
    ("mmmu", "MMMU_DEV_VAL", {**CHOICE, "category": "Art", "image": CELL}, "B", {"options": ["cat", "N/A"]}),
    ("mmmu", "MMMU_DEV_VAL", {"answer": "['2', 'two']", "category": "Art", "image": CELL}, "two", {"options": []}),
    ("coco_captions", "COCO_VAL", {"answer": "['A man.', 'A boy.']", "image": CELL}, "A man.", {}),
]


def table_of(folder: Path, name: str, *rows: dict) -> None:
    write_table(
        folder / f"{name}.tsv", [{"index": place, "question": "Which?", **row} for place, row in enumerate(rows)]
    )


@pytest.mark.parametrize(("name", "table", "cells", "answer", "fields"), TABLES)
def test_every_table_is_read_and_its_right_answer_is_right(tmp_path, name, table, cells, answer, fields):
    table_of(tmp_path, table, cells)
    task = TASKS[name]
    found = load(task, tmp_path, "vlmevalkit")
    (question,) = found.questions
    assert found.problems == () and question.images[0]() == RED and question.id == "0"
    assert fields.items() <= question.fields.items()
    items = scored(found.questions, {"0": answer})
    if task.scorer.judge is not None:
        assert {task.scorer.judge(item, task.rule).credit for item in items} == {1.0}
    task.scorer.score(items, task.rule)


def test_pope_row_of_two_categories_counts_in_both(tmp_path):
    table_of(tmp_path, "POPE", {"answer": "yes", "category": "popular,random", "image": CELL})
    found = load(TASKS["pope"], tmp_path)
    assert [item["category"] for item in scored(found.questions, {"0": "yes"})] == ["popular", "random"]


def test_mme_table_pairs_rows_by_the_name_of_their_image(tmp_path):
    row = {"category": "existence", "image_path": "existence/1.jpg", "image": CELL}
    table_of(tmp_path, "MME", {**row, "answer": "Yes"}, {**row, "image": "0", "answer": "No"})
    found = load(TASKS["mme"], tmp_path)
    scores = TASKS["mme"].scorer.score(scored(found.questions, {"0": "yes", "1": "no"}), "official")
    assert scores.value("existence") == 200


def test_hallusionbench_leaves_out_rows_without_an_image_and_names_them(tmp_path):
    cells = {"category": "VD", "l2-category": "illusion", "answer": "Yes"}
    rows = [
        {"index": f"VD_illusion_0_0_{place}_0", "question": "Is it?", **cells, "image": image}
        for place, image in enumerate((CELL, ""))
    ]
    write_table(tmp_path / "HallusionBench.tsv", rows)
    found = load(TASKS["hallusionbench"], tmp_path)
    assert [one.id for one in found.questions] == ["VD_illusion_0_0_0_0"]
    assert "VD_illusion_0_0_1_0): the row has no image" in found.summary()
    items = scored(found.questions, {"VD_illusion_0_0_0_0": "Yes."})
    assert TASKS["hallusionbench"].scorer.score(items, "vlmevalkit").value("fAcc") == 1


def test_judged_tables_have_what_the_judge_needs(tmp_path):
    table_of(tmp_path, "MMVet", {"answer": "x<OR>y", "category": "ocr,math", "image": CELL})
    cells = {"category": "conv", "caption": "c", "gpt4_ans": "r", "image": CELL}
    table_of(tmp_path, "LLaVABench", cells)
    (one,) = load(TASKS["mmvet"], tmp_path).questions
    assert one.fields["capabilities"] == ["ocr", "math"]
    (one,) = load(TASKS["llava_bench"], tmp_path).questions
    assert (one.fields["context"], one.fields["reference"], one.fields["category"]) == ("c", "r", "llava_bench_conv")


@pytest.mark.parametrize("cells", [{"answer": "E"}, {"answer": "b"}, {"index": "x7"}])
def test_mmbench_row_that_cannot_be_scored_is_named(tmp_path, cells):
    write_table(tmp_path / "CCBench.tsv", [{"index": "1", "question": "?", **CHOICE, "image": CELL, **cells}])
    found = load(TASKS["ccbench"], tmp_path)
    assert found.questions == () and len(found.problems) == 1


def test_test_set_without_answers_is_asked_and_known_to_have_none(tmp_path):
    cells = {name: text for name, text in MMBENCH.items() if name != "answer"}
    table_of(tmp_path, "MMBench_TEST_EN", cells)
    task = TASKS["mmbench_en_test"]
    found = load(task, tmp_path)
    assert len(found.questions) == 1 and without_answer(task, found.questions) == list(found.questions)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_row_of_the_table_is_consistent(task):
    assert task.rule in task.scorer.rules and task.styles and set(task.styles) <= {"llava", "lmms", "vlmevalkit"}
    assert bool(task.submission) == bool(task.submission_name)
    assert task.name == task.name.lower() and task.description and task.expected()


def test_names_are_found_in_any_case_with_dashes_and_by_alias():
    assert task_of("Seed-IMG").name == "seed_img" and task_of("mmbench").name == "mmbench_en_dev"
    assert set(ALIASES.values()) <= set(TASKS) and not set(ALIASES) & set(TASKS)


@pytest.mark.parametrize(
    ("name", "near"), [("sciencqa", "scienceqa"), ("mmbench_dev", "mmbench_"), ("text-vqa", "textvqa")]
)
def test_unknown_name_is_an_error_that_names_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}"):
        task_of(name)


def test_style_that_a_benchmark_does_not_have_is_an_error_that_names_those_it_has():
    with pytest.raises(ValueError, match="ai2d has no prompt style 'llava'; it has lmms, vlmevalkit"):
        TASKS["ai2d"].style("llava")
    with pytest.raises(ValueError, match="does not know the prompt style 'x'"):
        TASKS["ai2d"].style("x")
    assert TASKS["ai2d"].style() is TASKS["ai2d"].styles["lmms"]


def test_missing_files_are_an_error_that_names_them(tmp_path):
    with pytest.raises(
        ValueError, match=r"problems\.json, pid_splits\.json.*; or llava_test_CQM-A\.json.*; or Science"
    ):
        load(TASKS["scienceqa"], tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        load(TASKS["scienceqa"], tmp_path / "none")


def test_half_of_the_files_of_a_source_is_not_that_source(tmp_path):
    benchmark_files.scienceqa(tmp_path)
    (tmp_path / "scienceqa" / "pid_splits.json").unlink()
    with pytest.raises(ValueError, match="has not the files"):
        load(TASKS["scienceqa"], tmp_path)


def test_file_of_questions_may_be_named_itself(tmp_path):
    benchmark_files.custom(tmp_path)
    (tmp_path / "custom.jsonl").rename(tmp_path / "digits.jsonl")
    found = load(TASKS["custom"], tmp_path / "digits.jsonl")
    assert len(found.questions) == 3 and found.files == (tmp_path / "digits.jsonl",)
    with pytest.raises(ValueError, match="no file of questions"):
        load(TASKS["gqa"], tmp_path / "digits.jsonl")


def test_prompt_with_ocr_tokens_needs_their_file(tmp_path):
    benchmark_files.textvqa(tmp_path)
    (tmp_path / "textvqa" / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    with pytest.raises(ValueError, match=r"there is no TextVQA_Rosetta_OCR_v0\.2_val\.json"):
        load(TASKS["textvqa"], tmp_path)
    assert len(load(TASKS["textvqa"], tmp_path, ocr=False).questions) == 3
    with pytest.raises(ValueError, match="has no prompt with OCR tokens"):
        load(TASKS["textvqa"], tmp_path, "vlmevalkit", ocr=True)
    table_of(tmp_path / "textvqa", "TextVQA_VAL", {"answer": "x", "image": CELL})
    (tmp_path / "textvqa" / "TextVQA_0.5.1_val.json").unlink()
    with pytest.raises(ValueError, match=r"beside TextVQA_VAL\.tsv"):
        load(TASKS["textvqa"], tmp_path, "llava")


def test_tasks_load_no_framework_and_no_workbook_library():
    code = "import sys, paddlemix.evaluate.tasks, paddlemix.evaluate.files.answers\n"
    code += "print([name for name in ('paddle', 'paddlenlp', 'torch', 'numpy', 'openpyxl') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

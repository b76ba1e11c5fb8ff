"""Each benchmark's own files are read to questions with what its scorer, judge and submission file need."""

from __future__ import annotations

import json
import pickle

import benchmark_files
import pytest
from benchmark_files import FOLDERS, touch, write_json, write_lines

from paddlemix.evaluate.tasks import TASKS, task_of
from paddlemix.evaluate.tasks.task import load, scored, without_answer


def loaded(tmp_path, name, **settings):
    """Return the questions of a task by id, from the tiny files, with no problem among them."""
    FOLDERS[name](tmp_path)
    found = load(task_of(name), tmp_path, **settings)
    return {question.id: question for question in found.questions}, [str(one) for one in found.problems]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("has_mark", [False, True], ids=["plain", "byte order mark and CRLF"])
def test_tiny_files_of_every_benchmark_are_read_and_scored(tmp_path, name, has_mark):
    task = TASKS[name]
    FOLDERS[name](tmp_path)
    for path in tmp_path.rglob("*.json*") if has_mark else ():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    found = load(task, tmp_path)
    problems = [str(one) for one in found.problems if "folder is missing" not in str(one)]
    assert found.questions and problems == [] and without_answer(task, found.questions) == []
    assert all(image().is_file() for question in found.questions for image in question.images)
    if not task.has_judge:
        items = scored(found.questions, {question.id: "yes" for question in found.questions})
        assert task.scorer.score(items, task.rule).num_items == len(items) > 0
        assert task.scorer.judge is None or task.scorer.judge(items[0], task.rule).credit in (0, 0.3, 0.9, 1)


def test_vqav2_has_ten_answers_and_types(tmp_path):
    questions, problems = loaded(tmp_path, "vqav2")
    one = questions["262148000"]
    assert problems == [] and one.fields["answers"] == ["yes"] * 10
    assert (one.fields["answer_type"], one.fields["question_type"]) == ("yes/no", "is it")
    assert one.images[0]().name == "COCO_val2014_000000262148.jpg"


def test_vqav2_question_without_an_annotation_is_named(tmp_path):
    benchmark_files.vqav2(tmp_path)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    annotations = json.loads(path.read_text())["annotations"]
    write_json(path, {"annotations": annotations[1:]})
    found = load(TASKS["vqav2"], tmp_path)
    assert [one.id for one in found.questions] == ["393225001"]
    assert "questions.json row 1 (262148000): there is no annotation" in found.summary()


def test_vqav2_of_test_dev_has_no_answers_and_images_of_test2015(tmp_path):
    rows = [{"image_id": 1, "question": "What?", "question_id": 1000}]
    write_json(tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": rows})
    touch(tmp_path / "test2015", "COCO_test2015_000000000001.jpg")
    found = load(TASKS["vqav2"], tmp_path)
    assert without_answer(TASKS["vqav2"], found.questions) == list(found.questions) and len(found.questions) == 1


def test_llava_question_file_gives_back_its_own_prompts(tmp_path):
    text = "What is it?\nAnswer the question using a single word or phrase."
    rows = [{"question_id": 7, "image": "COCO_test2015_000000000001.jpg", "text": text, "category": "default"}]
    write_lines(tmp_path / "llava_vqav2_mscoco_test-dev2015.jsonl", rows)
    touch(tmp_path / "test2015", "COCO_test2015_000000000001.jpg")
    (one,) = load(TASKS["vqav2"], tmp_path).questions
    assert one.prompt == f"<image>\n{text}" and one.id == "7"


def test_textvqa_tokens_are_those_of_the_image_and_may_be_none(tmp_path):
    questions, problems = loaded(tmp_path, "textvqa")
    line = "\nReference OCR token: "
    assert problems == [] and f"what brand is IT?{line}NOKIA, 3,1\nAnswer" in questions["34602"].prompt
    assert f"who?{line}\nAnswer" in questions["34604"].prompt
    assert all(one.has_ocr for one in questions.values())


def test_textvqa_takes_the_tokens_of_llavas_question_file_too(tmp_path):
    benchmark_files.textvqa(tmp_path)
    folder = tmp_path / "textvqa"
    prompts = [question.pieces[1].strip() for question in load(TASKS["textvqa"], tmp_path).questions]
    names = ["003a8ae2ef43b901", "003a8ae2ef43b901", "00685bc495504d61"]
    rows = [
        {"question_id": name, "image": f"{name}.jpg", "text": text} for name, text in zip(names, prompts, strict=True)
    ]
    (folder / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    write_lines(folder / "llava_textvqa_val_v051_ocr.jsonl", rows)
    found = load(TASKS["textvqa"], tmp_path)
    assert [question.pieces[1].strip() for question in found.questions] == prompts


def test_pope_questions_have_ids_by_category_and_llavas_beside_them(tmp_path):
    questions, _ = loaded(tmp_path, "pope")
    assert list(questions)[:3] == ["adversarial/1", "adversarial/2", "popular/1"] and len(questions) == 6
    assert questions["popular/2"].other_ids == ("20000002",) and questions["random/1"].other_ids == ("10000001",)


def test_mme_reads_both_kinds_of_folders_and_names_missing_categories(tmp_path):
    questions, problems = loaded(tmp_path, "mme")
    assert list(questions) == [
        "existence/000000006040.jpg/1",
        "existence/000000006040.jpg/2",
        "artwork/10002.jpg/1",
        "artwork/10002.jpg/2",
    ]
    assert len(problems) == 12 and any("posters" in one for one in problems)
    assert questions["artwork/10002.jpg/2"].fields == {"answer": "No", "category": "artwork", "image": "10002.jpg"}


@pytest.mark.parametrize("content", ["Is it?\tYes\n", "Is it?\tYes\nIs it?\tNo\nIs it?\tNo\n", "A Yes\nB No\n", "\xff"])
def test_mme_file_without_two_questions_is_named(tmp_path, content):
    benchmark_files.mme(tmp_path)
    root = tmp_path / "MME" / "MME_Benchmark_release_version"
    (root / "existence" / "000000006040.txt").write_text(content, encoding="latin-1")
    found = load(TASKS["mme"], tmp_path)
    assert len(found.questions) == 2 and any("existence/000000006040.txt" in str(one) for one in found.problems)


def test_scienceqa_follows_the_order_of_the_split(tmp_path):
    questions, problems = loaded(tmp_path, "scienceqa")
    assert list(questions) == ["5", "4"] and problems == []
    assert questions["5"].fields["hint"] == "Look." and questions["4"].images == ()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"answer": 2}, "the answer is 2 of 2 choices"),
        ({"choices": list("abcdef")}, "5 are the most"),
        ({"image": "none.png"}, "there is no image"),
        ({"image": "../../problems.json"}, "not in the image folder"),
        ({"choices": []}, "'choices' is []"),
    ],
)
def test_scienceqa_bad_problem_is_named(tmp_path, values, text):
    benchmark_files.scienceqa(tmp_path)
    path = tmp_path / "scienceqa" / "problems.json"
    problems = json.loads(path.read_text())
    problems["4"].update(values)
    write_json(path, problems)
    found = load(TASKS["scienceqa"], tmp_path)
    assert [one.id for one in found.questions] == ["5"] and text in str(found.problems[0])


def test_scienceqa_problem_that_only_the_split_knows_is_named(tmp_path):
    benchmark_files.scienceqa(tmp_path)
    write_json(tmp_path / "scienceqa" / "pid_splits.json", {"test": ["4", "77"]})
    assert "77 is in the split, but not in the problems" in load(TASKS["scienceqa"], tmp_path).summary()


def test_llavas_form_of_scienceqa_gives_the_same_questions_as_problems(tmp_path):
    benchmark_files.scienceqa(tmp_path)
    expected = load(TASKS["scienceqa"], tmp_path).questions
    texts = ["<image>\nContext: Look.\nWhich is north?\nA. Ohio\nB. Maine", "Which is north?\nA. Ohio\nB. Maine"]
    rows = []
    for name, text in zip(("5", "4"), texts, strict=True):
        turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "B"}]
        rows.append(
            {"id": name, "image": "5/image.png", "conversations": turns}
            if name == "5"
            else {"id": name, "conversations": turns}
        )
    (tmp_path / "scienceqa" / "problems.json").unlink()
    write_json(tmp_path / "scienceqa" / "llava_test_CQM-A.json", rows)
    found = load(TASKS["scienceqa"], tmp_path)
    assert found.problems == () and [one.prompt for one in found.questions] == [one.prompt for one in expected]
    assert [one.fields["answer"] for one in found.questions] == [1, 1]


def test_options_of_llavas_form_start_at_the_last_line_of_an_a(tmp_path):
    text = "Read:\nA. first\nWhich?\nA. one\nand more\nB. two"
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "A"}]
    write_json(tmp_path / "llava_test_CQM-A.json", [{"id": "1", "conversations": turns}])
    (one,) = load(TASKS["scienceqa"], tmp_path).questions
    assert one.fields["choices"] == ["one\nand more", "two"] and one.prompt.startswith(text)


def test_seed_keeps_options_that_look_missing_and_finds_frames(tmp_path):
    questions, problems = loaded(tmp_path, "seed")
    assert problems == [] and "\nA. None\n" in questions["101669"].prompt and "\nD. N/A\n" in questions["v1"].prompt
    assert questions["v1"].images[0]().name == "v1.png"
    assert questions["v1"].fields["question_type"] == "Action Recognition"


def test_judge_gets_context_and_reference(tmp_path):
    questions, _ = loaded(tmp_path, "llava_bench")
    fields = questions["0"].fields
    assert (fields["context"], fields["reference"]) == ("A volcano.", "Diamond Head.")
    assert fields["category"] == "llava_bench_conv" and fields["question"] == "What is its name?"


def test_context_of_the_gpt_review_is_captions_then_boxes(tmp_path):
    questions, _ = loaded(tmp_path, "gpt_review")
    box = "suitcase: [0.1, 0.2, 0.3, 0.4]"
    assert questions["0"].fields["context"] == f"Two cases.\nOld cases.\n\n{box}\n{box}"


def test_karpathys_file_gives_its_test_split(tmp_path):
    questions, _ = loaded(tmp_path, "flickr30k")
    assert list(questions) == ["test.jpg"] and questions["test.jpg"].fields["references"] == ["Two dogs."]


def test_boxes_are_fractions_of_the_image_and_of_the_padded_square_for_llava(tmp_path):
    questions, _ = loaded(tmp_path, "refcoco_val", style="lmms")
    assert list(questions) == ["9/1", "9/2"] and questions["9/1"].fields["box"] == (0.25, 0.25, 0.75, 0.75)
    (one, _) = load(TASKS["refcoco_val"], tmp_path, "llava").questions
    assert one.fields["box"] == (0.25, 0.375, 0.75, 0.625)  # 400 x 200 in a square of 400, 100 px above


def test_pickle_that_wants_to_run_code_is_refused(tmp_path):
    benchmark_files.refcoco_val(tmp_path)
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([print]))
    with pytest.raises(ValueError, match=r"wants to load builtins\.print"):
        load(TASKS["refcoco_val"], tmp_path)


def test_custom_rows_have_the_lines_number_as_id_and_every_kind_of_answer(tmp_path):
    questions, problems = loaded(tmp_path, "custom")
    assert problems == [] and list(questions) == ["1", "q2", "q3"]
    assert questions["q2"].prompt.startswith("<image>\n<image>\nWhich?\nA. None\nB. two\n")
    assert questions["q3"].prompt == "Two and two?" and questions["q3"].fields["answers"] == ["4"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"question": "?", "anwser": "3"}, "unknown key 'anwser' (did you mean 'answer'?); known: id, "),
        ({"prompt": "?", "label": "3"}, "'prompt' (did you mean 'question'?), 'label' (did you mean 'answer'?); known"),
        ({"question": "?", "answer": "3", "answers": ["3"]}, "'answer' and 'answers'"),
        ({"answer": "3"}, "no 'question'"),
        ({"question": 3, "answer": "3"}, "'question' is 3"),
        ({"question": "?", "answers": []}, "'answers' is []"),
        ({"question": "?", "answer": "3", "image": "none.png"}, "there is no image"),
        ({"question": "?", "answer": "3", "image": "/etc/hosts"}, "not in the image folder"),
        ({"question": "?", "answer": "3", "id": "q3"}, "the id occurs before"),
        ({"question": "?", "answer": "3", "options": {"AB": "x"}}, "'options' is"),
    ],
)
def test_bad_custom_row_is_named_and_the_others_are_asked(tmp_path, row, text):
    benchmark_files.custom(tmp_path)
    with (tmp_path / "custom.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    found = load(TASKS["custom"], tmp_path)
    assert len(found.questions) == 3 and text in str(found.problems[0]) and "custom.jsonl line 4" in found.summary()


@pytest.mark.parametrize("line", ["{not json", '"a text"', '{"question": "\\', "\x00"])
def test_line_that_is_no_object_is_named(tmp_path, line):
    benchmark_files.custom(tmp_path)
    path = tmp_path / "custom.jsonl"
    path.write_text(line + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    found = load(TASKS["custom"], tmp_path)
    assert len(found.questions) == 3 and "custom.jsonl line 1" in str(found.problems[0])


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        ("gqa", "gqa/data/testdev_balanced_questions.json", "[]"),
        ("gqa", "gqa/data/testdev_balanced_questions.json", ""),
        ("textvqa", "textvqa/TextVQA_0.5.1_val.json", '{"rows": []}'),
        ("vizwiz", "vizwiz/val.json", '{"data": []}'),
        ("pope", "pope/coco/coco_pope_random.json", ""),
        ("pope", "pope/coco/coco_pope_random.json", "<html>"),
        ("mmvet", "mm-vet/mm-vet.json", "\ufeff{"),
        ("docvqa", "val_v1.0_withQT.json", '{"data": {}}'),
        ("coco_captions", "annotations/captions_val2014.json", '{"images": []}'),
        ("refcoco_val", "refcoco/refs(unc).p", "text"),
    ],
)
def test_wrong_file_is_an_error_with_its_name(tmp_path, name, path, content):
    FOLDERS[name](tmp_path)
    (tmp_path / path).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        load(TASKS[name], tmp_path)
    assert str(tmp_path / path) in str(error.value)

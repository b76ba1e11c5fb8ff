"""LLaVA's scripts: model_vqa, model_vqa_loader, model_vqa_science and eval_science_qa, over the engine."""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import uuid
from itertools import chain
from pathlib import Path

import pytest
import tiny_folder

from paddlemix import cli
from paddlemix.evaluate import runner
from paddlemix.evaluate.files.question_file import (
    ANSWER_LEAD,
    REASONING_END,
    chunk_of,
    model_id_of,
    read_conversations,
    read_questions,
    short_id,
)
from paddlemix.generate.requests import Request, answer_all
from paddlemix.generate.sampling import SamplingParams
from paddlemix.terminal import log

SCRIPTS = Path(__file__).parents[2] / "paddlemix" / "examples" / "llava" / "eval"
GOLDEN = json.loads((Path(__file__).parents[1] / "assets" / "golden_scores.json").read_text("utf-8"))["groups"]
TEXTS = ("What is this?", "How many shapes?", "What colour is it?", "Where is the star?", "What is this?")
LETTER = "\nAnswer with the option's letter from the given choices directly."
TOKENS = 5


@pytest.fixture(scope="module")
def parts():
    return tiny_folder.load("pad")


@pytest.fixture
def files(tmp_path):
    """Return a folder with questions.jsonl and two images; two questions have the same id and text."""
    for seed in (0, 1):
        tiny_folder.save_image(tmp_path / "images" / f"{seed}.png", seed)
    rows = [
        {"question_id": place % 4, "image": f"{place % 2}.png", "text": text, "category": "x"}
        for place, text in enumerate(TEXTS)
    ]
    rows[4]["image"] = "1.png"
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    conversations = [
        {"id": "11", "image": "0.png", "conversations": [{"from": "human", "value": "<image>\nWhich?\nA. x\nB. y"}]},
        {
            "id": "12",
            "conversations": [{"from": "human", "value": "Which?\nA. x\nB. y"}, {"from": "gpt", "value": "A"}],
        },
    ]
    (tmp_path / "science.json").write_text(json.dumps(conversations), "utf-8")
    return tmp_path


@pytest.fixture
def script(files, monkeypatch, capsys):
    """Return a function that runs a script on the files and returns (exit code, output, errors)."""
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})  # it would stay set in later tests

    def run(name, *options, questions="questions.jsonl", answers="out/a.jsonl", model="--model-path"):
        words = [model, str(tiny_folder.folder("pad")), "--image-folder", str(files / "images")]
        words += ["--question-file", str(files / questions), "--answers-file", str(files / answers)]
        words += ["--temperature", "0", "--device", "cpu", *options]
        return start(name, words, monkeypatch, capsys)

    return run


def start(name, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.setattr(log, "_is_paddles", lambda handler: True)  # pytest has handlers of its own
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return ended.value.code, captured.out, captured.err


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def alone(parts, files, num_tokens=TOKENS) -> list[str]:
    """Return the answers of the model to the questions of the file, asked without the scripts."""
    rows = rows_of(files / "questions.jsonl")
    requests = [Request(("", "\n" + row["text"]), [str(files / "images" / row["image"])]) for row in rows]
    return [one.text.strip() for one in answer_all(*parts, requests, SamplingParams(max_new_tokens=num_tokens))]


def limited(*options):
    return ("--max_new_tokens", str(TOKENS), *options)


def test_answers_have_llavas_keys_in_the_order_of_the_questions(parts, files, script):
    code, _, errors = script("model_vqa", *limited("--num_beams", "1"))
    assert code == 0 and "unlike in LLaVA's script" in errors
    rows = rows_of(files / "out" / "a.jsonl")
    assert [list(row) for row in rows] == [["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]] * 5
    assert [row["question_id"] for row in rows] == [0, 1, 2, 3, 0]
    assert [row["prompt"] for row in rows] == list(TEXTS)
    assert [row["text"] for row in rows] == alone(parts, files)
    assert {row["model_id"] for row in rows} == {"pad"} and [row["metadata"] for row in rows] == [{}] * 5
    assert len({row["answer_id"] for row in rows}) == 5 and {len(row["answer_id"]) for row in rows} == {22}


def test_first_versions_names_and_abbreviations_work(parts, files, script):
    code, _, _ = script("model_vqa", "--max_new", str(TOKENS), "--num-c", "1", model="--model-name")
    assert code == 0 and [row["text"] for row in rows_of(files / "out" / "a.jsonl")] == alone(parts, files)


def test_loader_answers_in_128_tokens_unless_told_otherwise(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "run_command", lambda name, words: seen.append(words) or 0)
    monkeypatch.setattr(sys, "argv", ["model_vqa_loader", "--temperature", "0"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPTS / "model_vqa_loader.py"), run_name="__main__")
    parsed = [cli.command_parser("llava-vqa").parse(words) for words in (seen[0], [*seen[0], "--max_new_tokens", "9"])]
    assert [one.max_new_tokens for one in parsed] == [128, 9]
    assert cli.command_parser("llava-vqa").parse([]).max_new_tokens == 1024


@pytest.mark.parametrize("num_lines", [0, 2, 5])
def test_file_that_was_cut_by_a_kill_is_continued_to_the_same_answers(files, script, num_lines):
    script("model_vqa", *limited(), answers="whole.jsonl")
    lines = (files / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (files / "cut.jsonl").write_bytes(b"".join(lines[:num_lines]) + (lines[num_lines][:30] if num_lines < 5 else b""))
    code, _, errors = script("model_vqa", *limited(), answers="cut.jsonl")
    assert code == 0 and (f"{num_lines} of 5 answers" in errors) == (num_lines > 0)
    assert (files / "cut.jsonl").read_bytes().splitlines()[:num_lines] == [one.strip() for one in lines[:num_lines]]
    shown = [
        [(row["question_id"], row["text"]) for row in rows_of(files / name)] for name in ("whole.jsonl", "cut.jsonl")
    ]
    assert shown[0] == shown[1]


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_run_keeps_its_answers_and_goes_on(files, script, monkeypatch, number, expected):
    asked = runner.answer_each

    def stopped(*values, **options):
        for index, found in enumerate(asked(*values, **options)):
            if index == 3:
                os.kill(os.getpid(), number)
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(runner, "answer_each", stopped)
        code, _, errors = script("model_vqa", *limited())
    kept = rows_of(files / "out" / "a.jsonl")
    assert code == expected and len(kept) < 5 and "the answers so far are kept" in errors
    assert script("model_vqa", *limited())[0] == 0
    rows = rows_of(files / "out" / "a.jsonl")
    assert rows[: len(kept)] == kept and [row["question_id"] for row in rows] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("content", ["my notes", "my notes\n", '{"question_id": 77, "text": "x"}\n', "{}\n", '{"a"'])
def test_file_that_holds_anything_else_is_left_as_it_is(files, script, content):
    (files / "a.jsonl").write_text(content, "utf-8")
    code, _, errors = script("model_vqa", *limited(), answers="a.jsonl")
    assert code == 1 and "name another --answers-file" in errors
    assert (files / "a.jsonl").read_text("utf-8") == content


def test_answers_of_another_model_are_not_continued(files, script):
    script("model_vqa", *limited())
    path = files / "out" / "a.jsonl"
    path.write_text(path.read_text("utf-8").replace('"model_id": "pad"', '"model_id": "other"'), "utf-8")
    code, _, errors = script("model_vqa", *limited())
    assert code == 1 and "line 1: the model is 'other'" in errors


def test_question_that_cannot_be_asked_is_named_and_asked_again_later(files, script):
    good = (files / "images" / "1.png").read_bytes()
    (files / "images" / "1.png").write_bytes(b"no image")
    code, _, errors = script("model_vqa", *limited())
    assert code == 1 and "3 questions could not be asked" in errors
    assert [row["question_id"] for row in rows_of(files / "out" / "a.jsonl")] == [0, 2]
    (files / "images" / "1.png").write_bytes(good)
    assert script("model_vqa", *limited())[0] == 0
    assert [row["question_id"] for row in rows_of(files / "out" / "a.jsonl")] == [0, 1, 2, 3, 0]


def test_chunks_joined_are_the_whole_and_a_chunk_may_be_empty(files, script):
    script("model_vqa", *limited(), answers="whole.jsonl")
    found = []
    for index in range(4):  # of ceil(5 / 4) = 2 questions: 2, 2, 1 and none
        code, _, _ = script(
            "model_vqa", *limited("--num-chunks", "4", "--chunk-idx", str(index)), answers=f"{index}.jsonl"
        )
        assert code == 0
        found.append([row["text"] for row in rows_of(files / f"{index}.jsonl")])
    assert [len(one) for one in found] == [2, 2, 1, 0]
    assert list(chain(*found)) == [row["text"] for row in rows_of(files / "whole.jsonl")]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--num_beams", "2"), "--num_beams is 2: there is no beam search"),
        (("--vision-tower", "openai/clip"), "--vision-tower is not used"),
        (("--mm-projector", "p.bin", "--model-base", "b"), "--mm-projector replaces the projector of --model-path"),
        (("--chunk-idx", "1"), "--chunk-idx is 1 and --num-chunks 1"),
        (("--top_p", "0"), "top_p is 0"),
        (("--temperature", "-1"), "temperature is -1"),
        (("--batch-size", "0"), "--batch-size is 0"),
        (("--conv-mode", "vicuna_v2"), "unknown chat template 'vicuna_v2'"),
        (("--answers-file", "{questions}"), "is an input"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(files, script, options, text):
    options = [one.replace("{questions}", str(files / "questions.jsonl")) for one in options]
    code, _, errors = script("model_vqa", *options)
    assert code == 1 and text in errors


def test_bad_rows_and_missing_images_are_named_before_anything_is_written(files, script):
    rows = [{"question_id": 1, "image": "9.png", "text": "x"}, {"question_id": 2, "image": "../0.png", "text": "x"}]
    lines = [json.dumps(row) for row in [*rows, {"question_id": 3}]] + ["{broken"]
    (files / "bad.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    code, _, errors = script("model_vqa", questions="bad.jsonl")
    assert code == 1 and "4 problems" in errors and not (files / "out").exists()
    for part in (
        "line 1 (1): there is no image",
        "line 2 (2): the image",
        "line 3 (3): the row has no 'text'",
        "line 4",
    ):
        assert part in errors


def test_projector_file_replaces_the_projector_of_the_model(files, script, tmp_path):
    tiny_folder.make_folder(tmp_path / "other", "pad", seed=5)
    projector = str(tmp_path / "projector.safetensors")
    assert cli.main(["extract-projector", str(tmp_path / "other"), "--output", projector]) == 0
    script("model_vqa", *limited(), answers="own.jsonl")
    code, _, errors = script("model_vqa", *limited("--mm-projector", projector), answers="other.jsonl")
    assert code == 0, errors
    texts = [[row["text"] for row in rows_of(files / name)] for name in ("own.jsonl", "other.jsonl")]
    assert texts[0] != texts[1]


def test_science_questions_have_the_scripts_prompts(files, script):
    code, _, errors = script("model_vqa_science", *limited("--single-pred-prompt"), questions="science.json")
    assert code == 0, errors
    rows = rows_of(files / "out" / "a.jsonl")
    question = "Which?\nA. x\nB. y" + LETTER
    assert [(row["question_id"], row["prompt"]) for row in rows] == [("11", "<image>\n" + question), ("12", question)]
    plain = read_conversations(files / "science.json", files / "images")
    assert [one.row["prompt"] for one in plain] == ["<image>\nWhich?\nA. x\nB. y", "Which?\nA. x\nB. y"]


def test_answer_prompter_generates_the_answer_after_the_reasoning(parts, files, script):
    code, _, errors = script("model_vqa_science", *limited("--answer-prompter"), questions="science.json")
    assert code == 0, errors
    model, processor = parts
    image = str(files / "images" / "0.png")
    requests = [Request(("", "\nWhich?\nA. x\nB. y"), [image]), Request(("Which?\nA. x\nB. y",))]
    first = answer_all(model, processor, requests, SamplingParams(max_new_tokens=TOKENS))
    starts = [one.text.strip() + REASONING_END for one in first]
    again = [Request(one.text, one.images, answer_start=start) for one, start in zip(requests, starts, strict=True)]
    second = answer_all(model, processor, again, SamplingParams(max_new_tokens=64))
    expected = [a.text.strip() + ANSWER_LEAD + b.text.strip() for a, b in zip(first, second, strict=True)]
    assert [row["text"] for row in rows_of(files / "out" / "a.jsonl")] == expected
    assert second[0].num_prompt_tokens > first[0].num_prompt_tokens


def science_files(tmp_path, texts) -> list[str]:
    """Write problems of 3 choices with the answer B, as those of the golden values, and answers to all but the last."""
    problem = {"choices": ["x", "y", "z"], "answer": 1, "hint": "", "question": "q"}
    names = [str(place) for place in range(len(texts) + 1)]
    (tmp_path / "problems.json").write_text(json.dumps(dict.fromkeys(names, problem)), "utf-8")
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": names}), "utf-8")
    answers = zip(names, texts, strict=False)
    rows = [{"question_id": name, "prompt": "<image>\nq", "text": text} for name, text in answers]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    words = ["--base-dir", str(tmp_path), "--result-file", str(tmp_path / "a.jsonl")]
    return [*words, "--output-file", str(tmp_path / "o.json"), "--output-result", str(tmp_path / "r.json")]


def test_science_scores_are_those_of_llavas_script(tmp_path, monkeypatch, capsys):
    *cases, printed = GOLDEN["scienceqa"]["cases"]
    texts = [case["pred"] for case in cases]
    texts += ["FAILED"] * (printed["count"] - 1 - len(texts))  # wrong answers that are not in the file
    code, output, _ = start("eval_science_qa", science_files(tmp_path, texts), monkeypatch, capsys)
    assert (code, output) == (0, printed["script_printed"] + "\n")
    result = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert list(result) == ["acc", "correct", "count", "results", "outputs"]
    assert [result[name] for name in ("acc", "correct", "count")] == [
        printed[name] for name in ("acc", "correct", "count")
    ]
    assert list(result["results"].values())[: len(cases)] == [case["llava_idx"] for case in cases]
    assert result["outputs"][str(len(texts))] == printed["missing_prediction_output"]
    analyses = json.loads((tmp_path / "o.json").read_text("utf-8"))
    parsed = {one["question_id"]: one["parsed_ans"] for members in analyses.values() for one in members}
    assert [parsed[str(place)] for place in range(len(cases))] == [case["llava_parsed"] for case in cases]
    assert len(analyses["correct"]) == printed["correct"]
    assert analyses["incorrect"][-1] == {
        "question_id": str(len(texts)),
        "parsed_ans": "FAILED",
        "ground_truth": "B",
        "question": "Unknown",
        "pred": "FAILED",
        "is_multimodal": False,
    }


def test_science_without_images_prints_the_first_versions_line(tmp_path, monkeypatch, capsys):
    words = science_files(tmp_path, ["B"])
    path = tmp_path / "a.jsonl"
    path.write_text(path.read_text("utf-8").replace("<image>", ""), "utf-8")
    assert start("eval_science_qa", words, monkeypatch, capsys)[1] == "Total: 2, Correct: 1, Accuracy: 50.00%\n"


@pytest.mark.parametrize(
    ("options", "text"),
    [(("--split", "tset"), "no split 'tset'"), (("--output-result", "{o}"), "are the same file")],
)
def test_mistakes_at_scoring_are_one_error(tmp_path, monkeypatch, capsys, options, text):
    words = science_files(tmp_path, ["B"])
    words += [one.replace("{o}", str(tmp_path / "o.json")) for one in options]
    code, _, errors = start("eval_science_qa", words, monkeypatch, capsys)
    assert code == 1 and text in errors and not (tmp_path / "o.json").exists()


def test_chunks_are_divided_as_in_llavas_scripts():
    for count in range(12):
        for num_chunks in range(1, 9):
            found = [list(chunk_of(range(count), num_chunks, index)) for index in range(num_chunks)]
            size = -(-count // num_chunks)
            assert list(chain(*found)) == list(range(count)) and all(
                len(one) in (size, 0) for one in found[: count // (size or 1)]
            )


def test_names_of_models_and_answers_are_made_as_there():
    assert [model_id_of(path) for path in ("a/llava-v1.5-7b/", "out/checkpoint-20", "/m")] == [
        "llava-v1.5-7b",
        "out_checkpoint-20",
        "m",
    ]
    known = uuid.UUID("6ca4f0f8-2508-4bac-b8f1-5d1e3da2247a")  # of shortuuid's own documentation
    assert short_id(known.int) == "MLpZDiEXM4VsUryR9oE8uc"
    assert short_id(0) == "2" * 22 and short_id(57) == "2" * 20 + "32"
    marks = set(short_id(uuid.uuid4().int)) | set(short_id())
    assert not marks & set("01IOl") and len(short_id(2**128 - 1)) == 22


def test_ids_that_occur_twice_are_kept_apart_by_their_places(files):
    questions = read_questions(files / "questions.jsonl", files / "images")
    assert [one.id for one in questions] == ["0", "1", "2", "3", "4"]
    assert questions[0].row == questions[4].row and questions[0].images != questions[4].images

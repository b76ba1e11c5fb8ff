"""Small inputs in the exact layout of each data set, with rows that its converter has to survive."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image


def image_bytes(kind: str, mode: str = "RGB", color: Any = (200, 30, 40), size: tuple[int, int] = (20, 16)) -> bytes:
    """Return the content of an image file of one color."""
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, kind)
    return buffer.getvalue()


def write(path: Path, content: Any) -> None:
    """Write bytes, text, or a value as JSON, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content, ensure_ascii=False)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


def ai2d(folder: Path) -> list[str]:
    """Make AI2D's questions; return the command line."""
    questions = folder / "ai2d" / "questions"
    root = {"abcLabel": False, "answerTexts": ["leaf", "root", "stem", "soil"], "correctAnswer": 1}
    after = {"abcLabel": True, "answerTexts": ["A", "C", "D", "E"], "correctAnswer": 1, "questionId": "0.png-1"}
    asked = {"Which label shows the root?": {**root, "questionId": "0.png-0"}, "What comes after B?": after}
    write(questions / "0.png.json", {"imageName": "0.png", "questions": asked})
    write(questions / "1.png.json", {"imageName": "1.png", "questions": {}})
    five = {"abcLabel": False, "answerTexts": ["a", "b", "c", "d", "e"], "correctAnswer": 4, "questionId": "2.png-0"}
    outside = {"abcLabel": False, "answerTexts": ["a"], "correctAnswer": 3, "questionId": "2.png-1"}
    negative = {"abcLabel": False, "answerTexts": ["a"], "correctAnswer": -1, "questionId": "2.png-2"}
    asked = {"Q?": five, 'R? "x" 水': outside, "S?": negative, "T?": None}
    write(questions / "2.png.json", {"imageName": "2.png", "questions": asked})
    write(questions / "10.png.json", '{"imageName": "10.png", "questions": {}}'.replace("{}", _twice("10.png")))
    write(questions / "3.png.json", '{"imageName": "3.png", "questions": {"cut')
    write(questions / "4.png.json", {"imageName": "../4.png", "questions": {"Q?": five}})
    write(questions / "5.png.json", [1])
    write(questions / "readme.txt", "no JSON")
    write(questions / "._0.png.json", b"\0\5\x16\7")
    return ["ai2d", "--question_dir", str(questions), "--output_jsonl_dir", str(folder / "out")]


def _twice(name: str) -> str:
    """Return two questions with the same text, which JSON libraries make one of."""
    one = '"Same?": {"answerTexts": ["%s"], "correctAnswer": 0, "questionId": "%s-%d", "abcLabel": false}'
    return "{" + ", ".join(one % (answer, name, number) for number, answer in enumerate(("yes", "no"))) + "}"


def arxivqa(folder: Path) -> list[str]:
    """Make arxivqa.jsonl; return the command line."""
    base = {"image": "images/0805.4509_1.jpg", "question": "Which?", "rationale": "Because."}
    four = ["A) Ising", "B) Potts", "C) XY", "D) Heisenberg"]
    colors = ["Blue line", "Red line", "Decreasing", "Increasing"]
    labels: list[tuple[Any, Any]] = [
        *[(label, four) for label in ("B", "[A]", "b", " B", "(B)", "C.", "D) Heisenberg", "Potts", "I", "B Potts")],
        *[(label, colors) for label in ("Blue", "Decreasing", "A sharp peak", "Green", "", None)],
        ("B", []),
        ("Something", []),
        ("C", ["Yes", "No"]),
    ]
    rows = [{**base, "id": f"q-{n}", "options": options, "label": label} for n, (label, options) in enumerate(labels)]
    rows.append({**base, "id": "yes", "options": ["Yes ", "No"], "label": "A) Yes", "rationale": ""})
    rows.append({**base, "id": "empty", "options": four, "label": "", "rationale": " "})
    rows.append({**base, "id": "null", "options": four, "label": "A", "rationale": None, "extra": {"x": 1}})
    rows.append({**base, "id": "up", "options": four, "label": "A", "image": "images/../../x.jpg"})
    rows.append({**base, "id": "half", "options": four, "label": "A", "rationale": "\ud800"})
    lines = [json.dumps(row) for row in rows]
    text = "\ufeff" + "\r\n".join([*lines[:2], "", "  ", *lines[2:], "[1]", '{"id": "cut", "image": "images/x.jp'])
    write(folder / "ArxivQA" / "arxivqa.jsonl", text)
    file = str(folder / "ArxivQA" / "arxivqa.jsonl")
    return ["arxivqa", "--input_file", file, "--output_jsonl_dir", str(folder / "out")]


def chartqa(folder: Path) -> list[str]:
    """Make ChartQA's folder without test_human.json; return the command line."""
    root = folder / "ChartQA_Dataset"
    rows = [
        {"imgname": "41699051005347.png", "query": "How many food item is shown in the bar graph?", "label": "14"},
        {"imgname": "x.png", "query": "None?", "label": ""},
        {"imgname": "two_col_103562.png", "query": "What was\nthe value?", "label": "['a', 'b']"},
        {"imgname": "x.png", "query": "How much <image>?", "label": "5"},
        {"imgname": "not there.png", "query": "How much?", "label": 3},
        {"imgname": "x.png", "query": "Number?", "label": float("nan")},
        {"imgname": "x.png", "label": "1"},
        {"imgname": "é水.png", "query": "Größe?", "label": "0.5%"},
        None,
    ]
    for split in ("train", "val", "test"):
        for subset in ("human", "augmented"):
            if (split, subset) != ("test", "human"):
                write(root / split / f"{split}_{subset}.json", rows[: 3 if split == "val" else None])
    return ["chartqa", "--dataset_folder", str(root)]


def docvqa_rows(key: str, folder: str) -> dict:
    """Return the content of a file of DocVQA or InfographicsVQA. key, folder: of the images' paths."""
    asked = [
        {"questionId": 49153, "question": "What is the 'actual' value per 1000?", "answers": ["0.28"]},
        {"questionId": 49154, "question": "Where?", "answers": ["university of california, san diego", "UCSD"]},
        {"questionId": 1, "question": "No answers?", "answers": []},
        {"questionId": 2, "question": "No key?"},
        {"questionId": 3, "question": "Empty?", "answers": [""]},
        {"questionId": 4, "question": "<image> what?", "answers": ["x"]},
        {"questionId": 5, "question": "A blank?", "answers": ["7"]},
    ]
    names = ["pybv0228_81.png"] * 6 + ["a b.png"]
    rows = [{**row, key: folder + name, "docId": 1} for row, name in zip(asked, names, strict=True)]
    return {"dataset_name": "docvqa", "dataset_split": "train", "data": rows, "dataset_version": "1.0"}


def sp_docvqa(folder: Path) -> list[str]:
    """Make SP-DocVQA's files; return the command line."""
    write(folder / "qa" / "train_v1.0_withQT.json", docvqa_rows("image", "documents/"))
    write(folder / "qa" / "val_v1.0_withQT.json", docvqa_rows("image", "documents/"))
    write(folder / "qa" / "test_v1.0.json", {"data": [{"questionId": 9, "question": "?", "image": "documents/x.png"}]})
    return ["sp_docvqa", "--dataset_folder", str(folder / "qa")]


def infographics_docvqa(folder: Path) -> list[str]:
    """Make InfographicsVQA's files; return the command line."""
    write(folder / "qa" / "infographicsVQA_train_v1.0.json", docvqa_rows("image_local_name", ""))
    value = docvqa_rows("image_local_name", "")
    value["data"] = [{**row, "evidence": ["Text"], "answer_type": ["single span"]} for row in value["data"]]
    write(folder / "qa" / "infographicsVQA_val_v1.0_withQT.json", value)
    return ["infographics_docvqa", "--dataset_folder", str(folder / "qa")]


def dvqa(folder: Path) -> list[str]:
    """Make DVQA's files; return the command line."""
    for split in ("train", "val_easy", "val_hard"):
        image = f"bar_{split}_00000001.png"
        asked = [
            {"question": "What is the value of the largest bar?", "question_id": 1, "answer": "9", "answer_bbox": []},
            {"question": "Are the values percentages?", "question_id": 2, "answer": "no", "template_id": "structure"},
            {"question": "A number?", "question_id": 3, "answer": 9},
            {"question": "Empty?", "question_id": 4, "answer": ""},
        ]
        write(folder / "DVQA" / "qa" / f"{split}_qa.json", [{**row, "image": image} for row in asked])
    return ["dvqa", "--dataset_folder", str(folder / "DVQA" / "qa")]


def convert_json2jsonl(folder: Path) -> list[str]:
    """Make a folder of JSON lists; return the command line."""
    write(folder / "in" / "my_json_a.json", [{"id": 1, "text": "é\u2028水"}, {"id": 2}, 3, {"x": float("inf")}])
    write(folder / "in" / "lines.json", '{"id": 1}\n{"id": 2.50}\n')
    write(folder / "in" / "other.txt", "no JSON")
    return ["convert_json2jsonl", "--input_dir", str(folder / "in")]


JPEG = image_bytes("JPEG")
JPEG_2 = image_bytes("JPEG", color=(1, 200, 3))


def _figure(caption: str | None, *parts: tuple[str, bytes | None]) -> dict:
    pairs = [
        {"sub_caption": "", "image_file": name, "image": {"bytes": content, "path": None}, "image_ocr": []}
        for name, content in parts
    ]
    return {"caption": caption, "cil_pairs": pairs}


def arxivcap(folder: Path) -> list[str]:
    """Make ArxivCap's files; return the command line."""
    name = "hep-th0003001/hep-th0003001_%d.jpg"
    figures = [
        _figure("Energy vs. time.", (name % 0, JPEG)),
        _figure("Two panels", (name % 1, JPEG), (name % 2, JPEG)),
        _figure("none"),
        _figure("", (name % 3, JPEG)),
        _figure(None, (name % 4, JPEG)),
        _figure("flat", ("a.jpg", JPEG_2)),
        _figure("up", ("../../x.jpg", JPEG)),
        _figure("clear", (name % 5, image_bytes("PNG", "RGBA", (0, 0, 0, 0)))),
        _figure("cut", (name % 6, JPEG[:-200])),
        _figure("null", (name % 7, None)),
        _figure("plot", ("p/x.y.png", image_bytes("PNG"))),
        _figure("vector", ("p/x.svg", b"<svg/>")),
        _figure("水\n$x$", (name % 8, JPEG)),
    ]
    papers = [
        {"src": "arXiv_src_0003_001/a", "arxiv_id": "hep-th/0003001", "title": "T", "caption_images": figures},
        {"src": "arXiv_src_0003_001/b", "arxiv_id": "b", "title": "T", "caption_images": []},
        {
            "src": "arXiv_src_0003_001/c",
            "arxiv_id": "c",
            "title": "T",
            "caption_images": [_figure("x", ("a.jpg", JPEG))],
        },
    ]
    data = folder / "ArxivCap" / "data"
    data.mkdir(parents=True)
    for file in ("arXiv_src_0003_001", "arXiv_src_0011_001", "README_x"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(papers), data / f"{file}.parquet")
    more = [{"caption_images": [_figure(f"c{n}", (f"m/m_{n}.jpg", JPEG))]} for n in range(40)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(more), data / "arXiv_src_0004_002.parquet")
    return ["arxivcap", *_parquet_words(folder, "ArxivCap")]


def synthdog_en(folder: Path) -> list[str]:
    """Make SynthDog's files; return the command line."""
    texts = [
        r'{"gt_parse": {"text_sequence": "the quick \"brown\" fox\u2019s"}}',
        '{"gt_parse": {"text_sequence": null}}',
        "{}",
        '__import__("os").system("touch /")',
        '{"gt_parse": {"text_sequence": "two\\nlines", "other": true}}',
        '{"gt_parse": {"text_sequence": "lost"}}',
        "",
    ]
    images = [JPEG, JPEG, JPEG, JPEG, image_bytes("PNG"), None, JPEG]
    rows = [
        {"image": {"bytes": one, "path": "x"}, "ground_truth": text} for one, text in zip(images, texts, strict=True)
    ]
    data = folder / "synthdog-en" / "data"
    data.mkdir(parents=True)
    for file in ("train-00003-of-00084-0ab1", "validation-00003-of-00004-9", "train-00011-of-00084-0ab1"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data / f"{file}.parquet")
    return ["synthdog_en", *_parquet_words(folder, "synthdog-en")]


def _parquet_words(folder: Path, name: str) -> list[str]:
    root = folder / name
    return [
        f"--input_dir={root}/data",
        f"--output_jsonl_dir={root}/llava_processed_jsons",
        f"--output_parquet_dir={root}/llava_processed_parquet",
        *("--parquet_range", "3", "11"),
        f"--output_image_dir={root}/images",
        f"--image_prefix={name}/images",
    ]


SETS: dict[str, Callable[[Path], list[str]]] = {
    make.__name__: make
    for make in (
        ai2d,
        arxivcap,
        arxivqa,
        chartqa,
        sp_docvqa,
        infographics_docvqa,
        dvqa,
        synthdog_en,
        convert_json2jsonl,
    )
}

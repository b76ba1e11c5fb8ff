"""Measure every converter of a data set on generated rows: rows a second of processor time, and peak memory.

    python benchmarks/prepare_sets.py [--rows 50000] [--folder DIR]

DVQA's list of a gigabyte, ArxivQA and the writing of images are in prepare.py, the tools for rows in prepare_rows.py.
A file of AI2D holds one image's questions; a hundredth of the rows is enough there, and for ArxivCap, whose figures are
images that are written.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from children import run_child
from prepare import MEGABYTE, QUESTION, run

ANSWER = "The answer is a sentence of about a dozen words, as many of them are."
Made = tuple[list[str], int]  # words of the command line, and the number of rows


def main() -> int:
    if sys.argv[1:2] == ["child"]:  # as the parent must stay small, see children.py
        print(json.dumps(SETS[sys.argv[2]](Path(sys.argv[3]), int(sys.argv[4]))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--folder", default=None, help="for the generated files (default: a temporary one)")
    arguments = parser.parse_args()
    from paddlemix.doctor.machine import processor

    print(processor())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name in SETS:
            made = run_child(__file__, "child", name, str(Path(folder) / name), str(arguments.rows))
            words, num_rows = json.loads(made.output)
            cost = run("prepare", [name, *words])
            speed, peak = num_rows / (cost["processor"] - cost["start"]), cost["peak"] / MEGABYTE
            print(f"{name:20} {num_rows:7,} rows  {speed:9,.0f} rows/s  peak {peak:5,.0f} MB", flush=True)
    return 0


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def ai2d(folder: Path, num_rows: int) -> Made:
    for number in range(num_rows // 100):
        asked = {"abcLabel": False, "answerTexts": ["leaf", "root", "stem", "soil"], "correctAnswer": 1}
        questions = {QUESTION.format(number=place): {**asked, "questionId": f"{place}"} for place in range(3)}
        write(folder / "questions" / f"{number}.png.json", {"imageName": f"{number}.png", "questions": questions})
    words = ["--question_dir", str(folder / "questions"), "--output_jsonl_dir", str(folder / "out")]
    return words, num_rows // 100 * 3


def arxivcap(folder: Path, num_rows: int) -> Made:
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    buffer = io.BytesIO()
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    small.resize((640, 480)).save(buffer, "JPEG")
    figures = [
        {"caption": ANSWER, "cil_pairs": [{"image_file": f"p/{number}.jpg", "image": {"bytes": buffer.getvalue()}}]}
        for number in range(num_rows // 100)
    ]
    (folder / "data").mkdir(parents=True)
    table = pyarrow.Table.from_pylist([{"arxiv_id": "p", "caption_images": figures}])
    pyarrow.parquet.write_table(table, folder / "data" / "arXiv_src_0003_001.parquet")
    words = ["--input_dir", str(folder / "data"), "--output_jsonl_dir", str(folder / "out"), "--parquet_range", "0003"]
    words += ["0004", "--output_image_dir", str(folder / "images"), "--image_prefix", "images", "--workers", "1"]
    return words, num_rows // 100


def chartqa(folder: Path, num_rows: int) -> Made:
    rows = [{"imgname": f"{n}.png", "query": QUESTION.format(number=n), "label": str(n)} for n in range(num_rows)]
    write(folder / "train" / "train_human.json", rows)
    return ["--dataset_folder", str(folder)], num_rows


def sp_docvqa(folder: Path, num_rows: int) -> Made:
    write(folder / "train_v1.0_withQT.json", {"data": _documents("image", "documents/", num_rows)})
    return ["--dataset_folder", str(folder)], num_rows


def infographics_docvqa(folder: Path, num_rows: int) -> Made:
    write(folder / "infographicsVQA_train_v1.0.json", {"data": _documents("image_local_name", "", num_rows)})
    return ["--dataset_folder", str(folder)], num_rows


def _documents(key: str, start: str, num_rows: int) -> list[dict]:
    return [
        {"questionId": n, "question": QUESTION.format(number=n), "answers": [ANSWER], key: f"{start}{n}.png"}
        for n in range(num_rows)
    ]


def dvqa(folder: Path, num_rows: int) -> Made:
    rows = [
        {"question": QUESTION.format(number=n), "question_id": n, "answer": str(n), "image": f"bar_train_{n:08d}.png"}
        for n in range(num_rows)
    ]
    write(folder / "train_qa.json", rows)
    return ["--dataset_folder", str(folder)], num_rows


def convert_json2jsonl(folder: Path, num_rows: int) -> Made:
    write(folder / "rows.json", _rows(num_rows))
    return ["--input_dir", str(folder)], num_rows


def scienceqa(folder: Path, num_rows: int) -> Made:
    problem = {"question": QUESTION, "choices": ["leaf", "root", "stem"], "answer": 1, "hint": ANSWER, "image": None}
    problem |= {"lecture": ANSWER * 5, "solution": ANSWER * 3, "split": "train", "subject": "natural science"}
    write(folder / "problems.json", {str(number): problem for number in range(num_rows)})
    write(folder / "pid_splits.json", {"train": [str(number) for number in range(num_rows)]})
    return ["--base_dir", str(folder), "--split", "train", "--prompt_format", "QCM-LEPA"], num_rows


def _rows(num_rows: int) -> list[dict]:
    turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": ANSWER}]
    return [{"id": str(n), "image": f"coco/train2017/{n:012d}.jpg", "conversations": turns} for n in range(num_rows)]


def llava_pretrain(folder: Path, num_rows: int) -> Made:
    write(folder / "blip_laion_cc_sbu_558k.json", _rows(num_rows))
    return ["--input_file", str(folder / "blip_laion_cc_sbu_558k.json")], num_rows


def llava_instruct(folder: Path, num_rows: int) -> Made:
    write(folder / "llava_v1_5_mix665k.json", _rows(num_rows))
    return ["--input_file", str(folder / "llava_v1_5_mix665k.json")], num_rows


def sharegpt4v(folder: Path, num_rows: int) -> Made:
    write(folder / "sharegpt4v_instruct.json", _rows(num_rows))
    return ["--input_file", str(folder / "sharegpt4v_instruct.json")], num_rows


def refcoco(folder: Path, num_rows: int) -> Made:
    references, annotations, images = [], [], []
    for number in range(num_rows // 10):
        sentences = [{"sent": "the man on the left", "raw": "the man on the left", "sent_id": number}]
        references.append({"ref_id": number, "ann_id": number, "image_id": number, "split": "train", "category_id": 1})
        references[-1] |= {"sentences": sentences, "file_name": f"COCO_train2014_{number:012d}_{number}.jpg"}
        annotations.append({"id": number, "image_id": number, "bbox": [10, 20, 30, 40], "category_id": 1})
        images.append({"id": number, "file_name": f"COCO_train2014_{number:012d}.jpg", "width": 640, "height": 480})
    write(folder / "instances.json", {"images": images, "annotations": annotations})
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    return ["--dataset_folder", str(folder), "--splits", "train"], num_rows // 10


def pairs2llava(folder: Path, num_rows: int) -> Made:
    rows = [{"image": f"{n}.jpg", "conversations": [[f"<image>\n{QUESTION}", ANSWER]]} for n in range(num_rows)]
    write(folder / "pairs.json", rows)
    return ["--input_file", str(folder / "pairs.json")], num_rows


def llava2pairs(folder: Path, num_rows: int) -> Made:
    write(folder / "rows.json", _rows(num_rows))
    return ["--input_file", str(folder / "rows.json")], num_rows


SETS: dict[str, Callable[[Path, int], Made]] = {
    make.__name__: make
    for make in (
        ai2d,
        arxivcap,
        chartqa,
        sp_docvqa,
        infographics_docvqa,
        dvqa,
        convert_json2jsonl,
        scienceqa,
        llava_pretrain,
        llava_instruct,
        sharegpt4v,
        refcoco,
        pairs2llava,
        llava2pairs,
    )
}


if __name__ == "__main__":
    sys.exit(main())

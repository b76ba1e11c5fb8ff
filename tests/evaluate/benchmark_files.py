"""Tiny files of benchmarks in their exact forms. Each function fills a folder as if it had been downloaded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def vqav2(folder: Path) -> None:
    names = [(262148000, 262148, "Is it sunny?"), (393225001, 393225, "How many?")]
    rows = [{"image_id": image, "question": text, "question_id": name} for name, image, text in names]
    write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"data_subtype": "val2014", "questions": rows})
    answers = [{"answer": "yes", "answer_confidence": "yes", "answer_id": place} for place in range(1, 11)]
    annotations = [
        {"question_id": name, "image_id": image, "question_type": "is it", "answer_type": "yes/no", "answers": answers}
        for name, image, _ in names
    ]
    write_json(folder / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    touch(folder, "val2014/COCO_val2014_000000262148.jpg", "val2014/COCO_val2014_000000393225.jpg")


def textvqa(folder: Path) -> None:
    rows = [
        {"question_id": 34602, "question": "what brand is IT?", "image_id": "003a8ae2ef43b901"},
        {"question_id": 34603, "question": "what is written?", "image_id": "003a8ae2ef43b901"},
        {"question_id": 34604, "question": "who?", "image_id": "00685bc495504d61"},
    ]
    rows = [{**row, "answers": ["nokia"] * 9 + ["toshiba"], "image_classes": []} for row in rows]
    write_json(folder / "textvqa" / "TextVQA_0.5.1_val.json", {"data": rows})
    tokens = [
        {"image_id": "003a8ae2ef43b901", "ocr_tokens": ["NOKIA", "3,1"], "ocr_info": []},
        {"image_id": "00685bc495504d61", "ocr_tokens": [], "ocr_info": []},
    ]
    write_json(folder / "textvqa" / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": tokens})
    touch(folder / "textvqa" / "train_images", "003a8ae2ef43b901.jpg", "00685bc495504d61.jpg")


def gqa(folder: Path) -> None:
    question = {
        "question": "Is it indoors?",
        "answer": "no",
        "imageId": "n161313",
        "isBalanced": True,
        "types": {"structural": "verify", "semantic": "global", "detailed": "place"},
    }
    write_json(folder / "gqa" / "data" / "testdev_balanced_questions.json", {"201307251": question})
    touch(folder / "gqa" / "data" / "images", "n161313.jpg")


def pope(folder: Path) -> None:
    for category in ("adversarial", "popular", "random"):
        rows = [
            {"question_id": name, "image": "COCO_val2014_000000310196.jpg", "text": text, "label": label}
            for name, text, label in ((1, "Is there a cat in the image?", "yes"), (2, "Is there an ox?", "no"))
        ]
        write_lines(folder / "pope" / "coco" / f"coco_pope_{category}.json", rows)
    touch(folder / "pope" / "val2014", "COCO_val2014_000000310196.jpg")


def mme(folder: Path) -> None:
    root = folder / "MME" / "MME_Benchmark_release_version"
    touch(root, "existence/000000006040.jpg", "artwork/images/10002.jpg")
    lines = (
        "Is there an elephant? Please answer yes or no.\tYes\nIs there a hair drier?  Please answer yes or no.\tNo\n"
    )
    (root / "existence" / "000000006040.txt").write_text(lines, encoding="utf-8")
    (root / "artwork" / "questions_answers_YN").mkdir()
    (root / "artwork" / "questions_answers_YN" / "10002.txt").write_text(lines, encoding="utf-8")


def problem(**values) -> dict:
    return {
        "question": "Which is north?",
        "choices": ["Ohio", "Maine"],
        "answer": 1,
        "hint": "",
        "image": None,
        "task": "closed choice",
        "grade": "grade2",
        "subject": "social science",
        "lecture": "",
        "solution": "",
        "split": "test",
        **values,
    }


def scienceqa(folder: Path) -> None:
    problems = {"4": problem(), "5": problem(hint="Look.", image="image.png"), "6": problem(split="train")}
    write_json(folder / "scienceqa" / "problems.json", problems)
    write_json(folder / "scienceqa" / "pid_splits.json", {"train": ["6"], "test": ["5", "4"]})
    touch(folder / "scienceqa" / "images" / "test", "5/image.png")


def seed(folder: Path) -> None:
    shared = {"choice_a": "None", "choice_b": "Two", "choice_c": "Three", "choice_d": "N/A", "answer": "A"}
    image = {"question_id": "101669", "question_type_id": 1, "data_type": "image", "data_id": "1454426_2591111986"}
    video = {"question_id": "v1", "question_type_id": 10, "data_type": "video", "data_id": "a.mp4", "segment": [1, 2]}
    rows = [{**row, **shared, "question": "How many?"} for row in (image, video)]
    types = {"Instances Counting": 1, "Action Recognition": 10}
    write_json(folder / "seed_bench" / "SEED-Bench.json", {"questions": rows, "question_type": types})
    touch(folder / "seed_bench", "SEED-Bench-image/1454426_2591111986", "SEED-Bench-video-image/v1.png")


def llava_bench(folder: Path) -> None:
    folder = folder / "llava-bench-in-the-wild"
    question = {"question_id": 0, "image": "001.jpg", "text": "What is its name?", "category": "conv"}
    write_lines(folder / "questions.jsonl", [question])
    write_lines(folder / "context.jsonl", [{"id": "001", "image": "001.jpg", "caption": "A volcano."}])
    write_lines(folder / "answers_gpt4.jsonl", [{"question_id": 0, "text": "Diamond Head.", "category": "conv"}])
    touch(folder / "images", "001.jpg")


def gpt_review(folder: Path) -> None:
    question = {"question_id": 0, "image": "000000441147.jpg", "text": "What color?", "category": "detail"}
    write_lines(folder / "qa90_questions.jsonl", [question])
    box = {"category": "suitcase", "bbox": [0.1, 0.2, 0.3, 0.4]}
    context = {"id": 0, "image": "000000441147.jpg", "captions": ["Two cases.", "Old cases."], "instances": [box, box]}
    write_lines(folder / "caps_boxes_coco2014_val_80.jsonl", [context])
    write_lines(folder / "qa90_gpt4_answer.jsonl", [{"question_id": 0, "text": "Brown.", "category": "detail"}])
    touch(folder / "val2014", "COCO_val2014_000000441147.jpg")


def mmvet(folder: Path) -> None:
    row = {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]}
    write_json(folder / "mm-vet" / "mm-vet.json", {"v1_0": row})
    touch(folder / "mm-vet" / "images", "v1_0.png")


def vizwiz(folder: Path) -> None:
    answers = [{"answer": "unanswerable", "answer_confidence": "yes"}] * 10
    row = {"image": "VizWiz_val_00000000.jpg", "question": "What is it?", "answers": answers, "answer_type": "other"}
    write_json(folder / "vizwiz" / "val.json", [row])
    touch(folder / "vizwiz" / "val", "VizWiz_val_00000000.jpg")


def docvqa(folder: Path) -> None:
    row = {"questionId": 49153, "question": "What?", "image": "documents/a b.png", "answers": ["0.28", "28%"]}
    write_json(folder / "val_v1.0_withQT.json", {"dataset_name": "docvqa", "data": [row]})
    touch(folder / "images", "a b.png")


def infovqa(folder: Path) -> None:
    row = {"questionId": 65718, "question": "Which font?", "image_local_name": "20471.jpeg", "answers": ["serif"]}
    write_json(folder / "infographicsVQA_val_v1.0_withQT.json", {"data": [row]})
    touch(folder / "images", "20471.jpeg")


def chartqa(folder: Path) -> None:
    write_json(folder / "test" / "test_human.json", [{"imgname": "4169.png", "query": "How many?", "label": "14"}])
    write_json(folder / "test" / "test_augmented.json", [{"imgname": "two.png", "query": "Which?", "label": 3}])
    touch(folder / "test" / "png", "4169.png", "two.png")


def coco_captions(folder: Path) -> None:
    images = [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}]
    captions = [{"image_id": 391895, "id": place, "caption": f"A man {place}."} for place in range(5)]
    write_json(folder / "annotations" / "captions_val2014.json", {"images": images, "annotations": captions})
    touch(folder / "val2014", "COCO_val2014_000000391895.jpg")


def flickr30k(folder: Path) -> None:
    sentences = [{"raw": "Two dogs.", "tokens": ["two", "dogs"]}]
    images = [{"filename": f"{split}.jpg", "split": split, "sentences": sentences} for split in ("train", "test")]
    write_json(folder / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    touch(folder / "flickr30k-images", "test.jpg")


def refcoco_val(folder: Path) -> None:
    sentences = [{"sent_id": 1, "sent": "the left man", "raw": "The left man"}, {"sent_id": 2, "sent": "man"}]
    refs = [
        {"ref_id": 9, "ann_id": 7, "image_id": 5, "split": split, "file_name": "x", "sentences": sentences}
        for split in ("train", "val")
    ]
    (folder / "refcoco").mkdir(parents=True)
    (folder / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs))
    image = {"id": 5, "file_name": "COCO_train2014_000000000005.jpg", "width": 400, "height": 200}
    instances = {"images": [image], "annotations": [{"id": 7, "image_id": 5, "bbox": [100, 50, 200, 100]}]}
    write_json(folder / "refcoco" / "instances.json", instances)
    touch(folder / "train2014", "COCO_train2014_000000000005.jpg")


def custom(folder: Path) -> None:
    rows = [
        {"question": "Which digit?", "image": "a.png", "answers": ["3", "three"], "category": "digits"},
        {"id": "q2", "question": "Which?", "images": ["a.png", "b.png"], "answer": "A", "options": ["None", "two"]},
        {"id": "q3", "question": "Two and two?", "answer": 4},
    ]
    write_lines(folder / "custom.jsonl", rows)
    touch(folder / "images", "a.png", "b.png")


FOLDERS = {
    maker.__name__: maker
    for maker in (
        vqav2,
        textvqa,
        gqa,
        pope,
        mme,
        scienceqa,
        seed,
        llava_bench,
        gpt_review,
        mmvet,
        vizwiz,
        docvqa,
        infovqa,
        chartqa,
        coco_captions,
        flickr30k,
        refcoco_val,
        custom,
    )
}

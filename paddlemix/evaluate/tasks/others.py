"""Tasks with yes or no, boxes and captions, tasks that a judge reads, and one's own questions."""

from __future__ import annotations

from functools import partial

from .. import submission
from ..prompt_texts import BOX_LLAVA, BOX_LMMS, CAPTION_LMMS, CAPTION_VLMEVALKIT, REASONING_MMVET, SINGLE_WORD
from ..prompts import Style, ending, fixed, mme, mme_lmms, plain, spaced_first, starting
from ..prompts import custom as custom_text
from ..readers import boxes, captions, custom, folders, judged, pope, tables
from ..scores import boxes as box_scores
from ..scores import captions as caption_scores
from ..scores import custom as custom_scores
from ..scores import gpt_review, hallusion, mmvet
from ..scores import mme as mme_scores
from ..scores import pope as pope_scores
from .short_answers import ASSISTANT, LLAVA_TOKENS, LMMS_TOKENS, VLMEVALKIT_TOKENS
from .task import Scorer, Source, Task

_VLMEVALKIT = Style(plain, VLMEVALKIT_TOKENS, place=spaced_first)
_POPE_FILES = {
    name: (f"coco_pope_{name}.json", f"coco/coco_pope_{name}.json", f"output/coco/coco_pope_{name}.json")
    for name in pope.LLAVA_IDS
}
_REVIEW = Scorer.of(gpt_review, has_judge=False)
_BOX_STYLES = {
    "llava": Style(starting(BOX_LLAVA, "."), LLAVA_TOKENS, box="padded_box"),
    "lmms": Style(starting(BOX_LMMS), LMMS_TOKENS, stop=ASSISTANT),
}


def _table(name: str, fields) -> Source:
    return Source(tables.reader(fields), {"questions": (f"{name}.tsv",)}, images=("images",))


def _refcoco(set_name: str, file: str, split: str) -> Task:
    """Return a split of RefCOCO, RefCOCO+ or RefCOCOg.

    NOTE: LLaVA 1.5 was trained on boxes in the padded square, so its style compares with those.
    """
    name = f"{set_name.replace('+', '_plus')}_{split.lower()}"
    return Task(
        name,
        f"{set_name}, {split}: the box of what a phrase describes, Acc@0.5",
        (
            Source(
                partial(boxes.read_refer, split=split),
                {
                    "questions": (f"{set_name}/{file}", file),
                    "instances": (f"{set_name}/instances.json", "instances.json"),
                },
                images=("train2014", "coco/train2014", "images"),
            ),
            Source(
                boxes.read_rows,
                {"questions": (f"eval_{name}.json", f"{name}.json")},
                images=("train2014", "coco/train2014", "images"),
            ),
        ),
        _BOX_STYLES,
        Scorer.of(box_scores),
        "strict",
        "box",
        ("refcoco",),
    )


def _captions(name: str, description: str, *files: str, has_vlmevalkit: bool = False) -> Task:
    styles = {"lmms": Style(fixed(CAPTION_LMMS), 64)}
    sources = [
        Source(captions.read, {"questions": files}, images=("val2014", "images", "flickr30k-images", "validation"))
    ]
    if has_vlmevalkit:
        styles["vlmevalkit"] = Style(fixed(CAPTION_VLMEVALKIT), VLMEVALKIT_TOKENS, place=spaced_first)
        sources.append(_table("COCO_VAL", tables.captions))
    return Task(
        name,
        description,
        tuple(sources),
        styles,
        Scorer.of(caption_scores, has_judge=False),
        "ptb",
        "references",
        ("annotations",),
        submission=submission.captions,
        submission_name=f"{name}_results.json",
    )


TASKS = (
    Task(
        "pope",
        "POPE: is an object in the image? F1 of three ways to choose objects that are not",
        (
            Source(
                pope.read,
                _POPE_FILES,
                images=("val2014", "coco/val2014", "images"),
            ),
            _table("POPE", tables.pope),
        ),
        {
            "llava": Style(ending(SINGLE_WORD), LLAVA_TOKENS),
            "lmms": Style(ending(SINGLE_WORD), 128),
            "vlmevalkit": _VLMEVALKIT,
        },
        Scorer.of(pope_scores),
        "llava",
        "answer",
        submission=submission.llava,
        submission_name="pope.jsonl",
    ),
    Task(
        "mme",
        "MME: 2,374 questions with yes or no, two an image",
        (
            Source(
                folders.read_mme,
                {"existence": ("existence/", "MME_Benchmark_release_version/existence/")},
            ),
            _table("MME", tables.mme),
        ),
        {"llava": Style(mme, LLAVA_TOKENS), "lmms": Style(mme_lmms, 16), "vlmevalkit": _VLMEVALKIT},
        Scorer.of(mme_scores),
        "official",
        "answer",
        ("MME", "MME_Benchmark_release_version", "MME_Benchmark"),
        submission=submission.mme,
        submission_name="mme.txt",
    ),
    Task(
        "hallusionbench",
        "HallusionBench: yes or no on images that mislead; its questions without an image are left out",
        (_table("HallusionBench", tables.hallusion),),
        {"vlmevalkit": _VLMEVALKIT, "lmms": Style(plain, 128)},
        Scorer.of(hallusion),
        "vlmevalkit",
        "answer",
    ),
    Task(
        "llava_bench",
        "LLaVA-Bench (In-the-Wild): 60 questions whose answers a judge compares with GPT-4's",
        (
            Source(
                judged.read_llava_bench,
                {
                    "questions": ("questions.jsonl",),
                    "context": ("context.jsonl",),
                    "reference": ("answers_gpt4.jsonl",),
                },
                images=("images",),
            ),
            _table("LLaVABench", tables.llava_bench),
        ),
        {"llava": Style(plain, 1024), "lmms": Style(plain, 4096), "vlmevalkit": _VLMEVALKIT},
        _REVIEW,
        "strict",
        "reference",
        ("llava-bench-in-the-wild",),
        has_judge=True,
    ),
    Task(
        "gpt_review",
        "The GPT review of LLaVA's first version: 90 questions on 30 images of COCO",
        (
            Source(
                judged.read_gpt_review,
                {
                    "questions": ("qa90_questions.jsonl",),
                    "context": ("caps_boxes_coco2014_val_80.jsonl",),
                    "reference": ("qa90_gpt4_answer.jsonl",),
                },
                images=("val2014", "images"),
            ),
        ),
        {"llava": Style(plain, 1024)},
        _REVIEW,
        "strict",
        "reference",
        ("coco2014_val_qa_eval",),
        has_judge=True,
    ),
    Task(
        "mmvet",
        "MM-Vet: 218 questions that need several abilities; a judge grades the answers",
        (Source(judged.read_mmvet, {"questions": ("mm-vet.json",)}, images=("images",)), _table("MMVet", tables.mmvet)),
        {"llava": Style(plain, 1024), "lmms": Style(starting(REASONING_MMVET), 1024, 0.2), "vlmevalkit": _VLMEVALKIT},
        Scorer.of(mmvet),
        "official",
        "answer",
        ("mm-vet",),
        has_judge=True,
        submission=submission.mmvet,
        submission_name="mm-vet.json",
    ),
    _captions(
        "coco_captions",
        "COCO captions: BLEU, CIDEr and ROUGE-L",
        "dataset_coco.json",
        "captions_val2014.json",
        "captions_val2017.json",
        has_vlmevalkit=True,
    ),
    _captions("flickr30k", "Flickr30k captions, Karpathy's test split", "dataset_flickr30k.json"),
    _captions("nocaps", "nocaps: captions of objects that COCO does not have", "nocaps_val_4500_captions.json"),
    *(_refcoco("refcoco", "refs(unc).p", split) for split in ("val", "testA", "testB")),
    *(_refcoco("refcoco+", "refs(unc).p", split) for split in ("val", "testA", "testB")),
    *(_refcoco("refcocog", "refs(umd).p", split) for split in ("val", "test")),
    Task(
        "custom",
        "your own questions: JSON lines with question, image and answers",
        (Source(custom.read, {"questions": ("custom.jsonl", "questions.jsonl")}, images=("images",)),),
        {"llava": Style(custom_text, LLAVA_TOKENS)},
        Scorer.of(custom_scores),
        "exact",
        "answers",
        submission=submission.llava,
        submission_name="custom.jsonl",
        check=custom_scores.check,
        unanswered="have no 'answer' in the file; they are not in the figures",
    ),
)

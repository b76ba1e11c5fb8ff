"""Tasks with short answers: VQAv2, GQA, TextVQA, VizWiz, ChartQA, DocVQA, InfographicVQA, OCRBench."""

from __future__ import annotations

from .. import submission
from ..prompt_texts import SINGLE_WORD, SINGLE_WORD_CHARTQA, UNANSWERABLE
from ..prompts import Style, capitalized, ending, plain, spaced_first, with_ocr
from ..readers import documents, llava_questions, tables, vqa
from ..scores import anls, gqa, ocrbench, relaxed
from ..scores import vqa as vqa_scores
from .task import Scorer, Source, Task

LLAVA_TOKENS, VLMEVALKIT_TOKENS, LMMS_TOKENS = 128, 2048, 1024  # where the task sets no limit of its own
ASSISTANT = ("ASSISTANT:",)
_SINGLE_WORD = ending(SINGLE_WORD)
_VLMEVALKIT = Style(_SINGLE_WORD, VLMEVALKIT_TOKENS, place=spaced_first)
_VIZWIZ = ending(UNANSWERABLE + SINGLE_WORD)


def _table(name: str, fields, **settings) -> Source:
    return Source(tables.reader(fields, **settings), {"questions": (f"{name}.tsv",)}, images=("images",))


TASKS = (
    Task(
        "vqav2",
        "VQAv2: open questions on COCO's images; ten human answers each",
        (
            Source(
                vqa.read_vqav2,
                {"questions": ("v2_OpenEnded_mscoco_val2014_questions.json",)},
                {"annotations": ("v2_mscoco_val2014_annotations.json",)},
                images=("val2014", "images"),
            ),
            Source(
                vqa.read_vqav2,
                {
                    "questions": (
                        "v2_OpenEnded_mscoco_test-dev2015_questions.json",
                        "v2_OpenEnded_mscoco_test2015_questions.json",
                    )
                },
                images=("test2015", "images"),
            ),
            Source(
                llava_questions.read,
                {"questions": ("llava_vqav2_mscoco_test-dev2015.jsonl",)},
                images=("test2015", "images"),
            ),
        ),
        {"llava": Style(_SINGLE_WORD, LLAVA_TOKENS), "lmms": Style(_SINGLE_WORD, 16)},
        Scorer.of(vqa_scores),
        "official",
        "answers",
        submission=submission.vqav2,
        submission_name="vqav2.json",
    ),
    Task(
        "gqa",
        "GQA: compositional questions on scene graphs, one answer each",
        (
            Source(vqa.read_gqa, {"questions": ("testdev_balanced_questions.json",)}, images=("images",)),
            _table("GQA_TestDev_Balanced", tables.answer),
        ),
        {"llava": Style(_SINGLE_WORD, LLAVA_TOKENS), "lmms": Style(_SINGLE_WORD, 16), "vlmevalkit": _VLMEVALKIT},
        Scorer.of(gqa),
        "llava",
        "answer",
        ("gqa/data",),
        submission=submission.gqa,
        submission_name="testdev_balanced_predictions.json",
    ),
    Task(
        "textvqa",
        "TextVQA: questions on texts in images; the prompt may hold OCR tokens",
        (
            Source(
                vqa.read_textvqa,
                {"questions": ("TextVQA_0.5.1_val.json",)},
                {"ocr": ("TextVQA_Rosetta_OCR_v0.2_val.json", "llava_textvqa_val_v051_ocr.jsonl")},
                images=("train_images", "images"),
            ),
            _table("TextVQA_VAL", tables.answers),
        ),
        {
            "llava": Style(_SINGLE_WORD, LLAVA_TOKENS, ocr_text=with_ocr(_SINGLE_WORD), has_ocr=True),
            "lmms": Style(capitalized, LMMS_TOKENS, stop=ASSISTANT, ocr_text=with_ocr(capitalized)),
            "vlmevalkit": _VLMEVALKIT,
        },
        Scorer.of(vqa_scores),
        "llava_textvqa",
        "answers",
        submission=submission.textvqa,
        submission_name="textvqa.json",
    ),
    Task(
        "vizwiz",
        "VizWiz: questions of blind people on their own images; some cannot be answered",
        (
            Source(vqa.read_vizwiz, {"questions": ("val.json",)}, images=("val", "images")),
            Source(vqa.read_vizwiz, {"questions": ("test.json",)}, images=("test", "images")),
            Source(llava_questions.read, {"questions": ("llava_test.jsonl",)}, images=("test", "images")),
            _table("VizWiz", tables.answers),
        ),
        {
            "llava": Style(_VIZWIZ, LLAVA_TOKENS),
            "lmms": Style(_VIZWIZ, LMMS_TOKENS, stop=ASSISTANT),
            "vlmevalkit": Style(plain, VLMEVALKIT_TOKENS, place=spaced_first),
        },
        Scorer.of(vqa_scores),
        "lmms_vizwiz",
        "answers",
        submission=submission.vizwiz,
        submission_name="vizwiz.json",
    ),
    Task(
        "chartqa",
        "ChartQA: questions on charts, by people and augmented; numbers within 5% are right",
        (
            Source(
                documents.read_chartqa,
                {"human": ("test_human.json",), "augmented": ("test_augmented.json",)},
                images=("png", "images"),
            ),
            _table("ChartQA_TEST", tables.chartqa),
        ),
        {"lmms": Style(ending(SINGLE_WORD_CHARTQA), 16), "vlmevalkit": _VLMEVALKIT},
        Scorer.of(relaxed),
        "lmms",
        "answer",
        ("test", "ChartQA Dataset/test", "ChartQA_Dataset/test"),
    ),
    Task(
        "docvqa",
        "DocVQA: questions on scanned pages",
        (
            Source(documents.read_docvqa, {"questions": ("val_v1.0_withQT.json",)}, images=("images", "documents")),
            Source(documents.read_docvqa, {"questions": ("test_v1.0.json",)}, images=("images", "documents")),
            _table("DocVQA_VAL", tables.answers),
        ),
        {"lmms": Style(_SINGLE_WORD, 32), "vlmevalkit": _VLMEVALKIT},
        Scorer.of(anls),
        "official",
        "answers",
        ("sp_docvqa", "DocVQA/sp_docvqa"),
        submission=submission.docvqa,
        submission_name="docvqa.json",
    ),
    Task(
        "infovqa",
        "InfographicVQA: questions on infographics",
        (
            Source(
                documents.read_docvqa,
                {"questions": ("infographicsVQA_val_v1.0_withQT.json",)},
                images=("images", "infographicsvqa_images"),
            ),
            Source(
                documents.read_docvqa,
                {"questions": ("infographicsVQA_test_v1.0.json",)},
                images=("images", "infographicsvqa_images"),
            ),
            _table("InfoVQA_VAL", tables.answers),
        ),
        {"lmms": Style(_SINGLE_WORD, 32), "vlmevalkit": _VLMEVALKIT},
        Scorer.of(anls),
        "official",
        "answers",
        ("infographics_docvqa", "DocVQA/Infographicsvqa"),
        submission=submission.docvqa,
        submission_name="infovqa.json",
    ),
    Task(
        "ocrbench",
        "OCRBench: 1,000 questions on texts, from recognition to key information",
        (_table("OCRBench", tables.answers),),
        {"lmms": Style(plain, 128), "vlmevalkit": Style(plain, VLMEVALKIT_TOKENS, place=spaced_first)},
        Scorer.of(ocrbench),
        "lmms",
        "answers",
    ),
)

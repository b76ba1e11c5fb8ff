"""Prompts are those of the projects to the letter: instructions, order of the parts, spaces, places of images.

Expected texts are written out here, as the projects' files have them, not put together from the package's parts.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from paddlemix.evaluate.item import ImageFile, Question, Record
from paddlemix.evaluate.prompts import ask
from paddlemix.evaluate.tasks import TASKS

WORD = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
IMAGES = tuple(ImageFile(Path(name)) for name in ("a.png", "b.png"))
OPTIONS = {"A": "cat", "B": "None"}
CHOICE = Record("1", "Which?", IMAGES[:1], hint="Look.", options=OPTIONS)
OPEN = Record("1", "What IS it?", IMAGES[:1])

LLAVA_PROMPTS = {
    "vqav2": (OPEN, f"<image>\nWhat IS it?\n{WORD}"),
    "gqa": (OPEN, f"<image>\nWhat IS it?\n{WORD}"),
    "pope": (OPEN, f"<image>\nWhat IS it?\n{WORD}"),
    "vizwiz": (
        OPEN,
        "<image>\nWhat IS it?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n" + WORD,
    ),
    "mme": (Record("1", "Is it?  Please answer yes or no.", IMAGES[:1]), f"<image>\nIs it?\n{WORD}"),
    "mmvet": (OPEN, "<image>\nWhat IS it?"),
    "llava_bench": (OPEN, "<image>\nWhat IS it?"),
    "mmbench_en_dev": (CHOICE, f"<image>\nLook.\nWhich?\nA. cat\nB. None\n{LETTER}"),
    "mmbench_cn_dev": (CHOICE, "<image>\nLook.\nWhich?\nA. cat\nB. None\n请直接回答选项字母。"),
    "ccbench": (CHOICE, "<image>\nLook.\nWhich?\nA. cat\nB. None\n请直接回答选项字母。"),
    "scienceqa": (CHOICE, f"<image>\nContext: Look.\nWhich?\nA. cat\nB. None\n{LETTER}"),
    "seed": (CHOICE, f"<image>\nLook.\nWhich?\nA. cat\nB. None\n{LETTER}"),
    "refcoco_val": (
        OPEN,
        "<image>\nPlease provide the bounding box coordinate of the region this sentence describes: What IS it?.",
    ),
    "custom": (OPEN, "<image>\nWhat IS it?"),
}
LMMS_PROMPTS = {
    "textvqa": (OPEN, f"<image>\nWhat is it?\n{WORD}"),
    "mme": (Record("1", "Is it?  Please answer yes or no.", IMAGES[:1]), f"<image>\nIs it? \n{WORD}"),
    "mmbench_en_dev": (
        CHOICE,
        f"<image>\nLook. Which? There are several options:\nA. cat\nB. None\n\n{LETTER}",
    ),
    "mmbench_cn_dev": (
        CHOICE,
        "<image>\nLook. Which? 有如下几个选项：\nA. cat\nB. None\n\n请直接使用所提供的选项字母作为答案回答。",
    ),
    "ccbench": (
        CHOICE,
        "<image>\nWhich? 有如下几个选项：\nA. cat\nB. None\n\n请直接使用所提供的选项字母作为答案回答。",
    ),
    "ai2d": (Record("1", "Which?", IMAGES[:1], options=OPTIONS), f"<image>\nWhich?\nA. cat\nB. None\n{LETTER}"),
    "chartqa": (OPEN, "<image>\nWhat IS it?\nAnswer the question with a single word."),
    "docvqa": (OPEN, f"<image>\nWhat IS it?\n{WORD}"),
    "coco_captions": (OPEN, "<image>\nProvide a one-sentence caption for the provided image."),
    "mmvet": (
        OPEN,
        "<image>\nFirst please perform reasoning, and think step by step to provide best answer to the following "
        "question: \n\nWhat IS it?",
    ),
    "mmstar": (CHOICE, f"<image>\nWhich?\nOptions: A: cat, B: None\n{LETTER}"),
    "mmmu": (CHOICE, f"<image>\nWhich?\nA. cat\nB. None\n\n{LETTER}"),
    "ocrbench": (OPEN, "<image>\nWhat IS it?"),
    "hallusionbench": (OPEN, "<image>\nWhat IS it?"),
    "refcoco_val": (
        OPEN,
        "<image>\nBounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, "
        "bottom-right y). All values are floating point numbers bounded between 0 and 1. Please provide the bounding "
        "box coordinate of the region this sentence describes: What IS it?",
    ),
}
VLMEVALKIT_PROMPTS = {
    "mmbench_en_dev": (CHOICE, f" <image> Look.\nWhich?\nA. cat\nB. None\n{LETTER}"),
    "mmbench_cn_dev": (
        Record("1", "哪个?", IMAGES[:1], options=OPTIONS),
        " <image> 哪个?\nA. cat\nB. None\n请直接回答选项字母。",
    ),
    "mmmu": (OPEN, " <image> What IS it?\nAnswer the question directly."),
    "vizwiz": (OPEN, " <image> What IS it?"),
    "pope": (OPEN, " <image> What IS it?"),
    "gqa": (OPEN, f" <image> What IS it?\n{WORD}"),
    "chartqa": (OPEN, f" <image> What IS it?\n{WORD}"),
    "coco_captions": (
        OPEN,
        " <image> Please describe this image in general. Directly provide the description, do not include prefix like "
        '"This image depicts". ',
    ),
}


@pytest.mark.parametrize(
    ("style", "task"),
    [("llava", name) for name in LLAVA_PROMPTS]
    + [("lmms", name) for name in LMMS_PROMPTS]
    + [("vlmevalkit", name) for name in VLMEVALKIT_PROMPTS],
)
def test_prompt_is_the_projects(style, task):
    table = {"llava": LLAVA_PROMPTS, "lmms": LMMS_PROMPTS, "vlmevalkit": VLMEVALKIT_PROMPTS}[style]
    record, expected = table[task]
    assert ask(record, TASKS[task].style(style)).prompt == expected


def test_hint_that_is_the_text_nan_is_left_out_by_lmms_eval():
    record = Record("1", "Which?", IMAGES[:1], hint="nan", options=OPTIONS)
    assert ask(record, TASKS["mmbench_en_dev"].style("lmms")).prompt.startswith("<image>\nWhich? There are")


def test_ocr_line_is_on_by_default_for_llava_only_and_told_in_the_question():
    record = Record("1", "what BRAND?", IMAGES[:1], ocr="NOKIA, 3")
    prompts = {
        (style, ocr): ask(record, TASKS["textvqa"].style(style), ocr)
        for style in ("llava", "lmms")
        for ocr in (None, False, True)
    }
    off, on = f"<image>\nwhat BRAND?\n{WORD}", f"<image>\nwhat BRAND?\nReference OCR token: NOKIA, 3\n{WORD}"
    assert [prompts["llava", ocr].prompt for ocr in (None, False, True)] == [on, off, on]
    assert [prompts["lmms", ocr].prompt for ocr in (None, False)] == [off.replace("what BRAND", "What brand")] * 2
    assert prompts["lmms", True].prompt == on.replace("what BRAND", "What brand")
    assert [prompts[key].has_ocr for key in prompts] == [True, False, True, False, False, True]
    assert ask(OPEN, TASKS["gqa"].style("llava")).has_ocr is None


def test_ocr_tokens_that_are_not_there_are_an_error():
    for task, style in (("textvqa", "llava"), ("textvqa", "vlmevalkit"), ("gqa", "llava")):
        with pytest.raises(ValueError, match="no OCR tokens"):
            ask(OPEN, TASKS[task].style(style), ocr=True)


def test_images_of_mmmu_stand_at_their_marks_in_any_order_and_twice():
    record = Record("1", "See <image 2> and <image 1>, then <image 2>.", IMAGES, options={"A": "<image 1>", "B": "x"})
    question = ask(record, TASKS["mmmu"].style("lmms"))
    assert question.prompt == f"See <image> and <image>, then <image>.\nA. <image>\nB. x\n\n{LETTER}"
    assert [image.path.name for image in question.images] == ["b.png", "a.png", "b.png", "a.png"]


def test_mark_of_an_image_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="<image 3>"):
        ask(Record("1", "See <image 3>.", IMAGES), TASKS["mmmu"].style("lmms"))


@pytest.mark.parametrize(("style", "pieces"), [("llava", ("", "\n", "\nq")), ("vlmevalkit", (" ", "  ", " q"))])
def test_several_images_come_first(style, pieces):
    assert ask(Record("1", "q", IMAGES), TASKS["llava_bench"].style(style)).pieces == pieces


def test_typed_image_mark_in_a_question_is_no_place_of_an_image():
    question = ask(Record("1", "What does <image> mean?", IMAGES[:1]), TASKS["mmvet"].style("llava"))
    assert question.pieces == ("", "\nWhat does <image> mean?")


def test_question_without_an_image_has_the_text_alone():
    assert ask(Record("1", "q"), TASKS["mmvet"].style("llava")).pieces == ("q",)
    assert ask(Record("1", "q"), TASKS["mmvet"].style("vlmevalkit")).pieces == ("q",)


def test_pieces_that_do_not_fit_the_images_are_refused():
    with pytest.raises(ValueError, match="1 images and 1 pieces"):
        Question("1", ("q",), IMAGES[:1])

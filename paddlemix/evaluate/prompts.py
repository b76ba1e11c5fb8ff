"""Make prompts of records in the style of a project: the text, the places of the images and the decoding.

A style gives that project's prompts to the letter, so that its figures can be compared. Images come first, each on a
line of its own, as in LLaVA and lmms-eval; VLMEvalKit puts a space at both sides of each instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..terminal.sizes import plural
from . import prompt_texts as texts
from .item import ImageSource, Question, Record

Text = Callable[[Record], str]
Images = tuple[ImageSource, ...]
Placed = tuple[tuple[str, ...], Images]  # pieces of text, and the images between them
STYLES = ("llava", "lmms", "vlmevalkit")
_MMMU_MARK = re.compile(r"<image (\d)>")
_CHINESE = re.compile("[\u4e00-\u9fff]")


def lines_first(text: str, images: Images) -> Placed:
    """Place images before the text, each on a line of its own."""
    return (("", *["\n"] * (len(images) - 1), "\n" + text) if images else (text,)), images


def spaced_first(text: str, images: Images) -> Placed:
    """Place images before the text, each with a space at both sides, as VLMEvalKit's llava.py joins messages."""
    return ((" ", *["  "] * (len(images) - 1), " " + text) if images else (text,)), images


def at_marks(text: str, images: Images) -> Placed:
    """Place images at the marks of MMMU, "<image 1>"; those without a mark are left out, as in lmms-eval.

    Raises ValueError for a mark without an image. Without marks images come first.
    """
    numbers = [int(number) for number in _MMMU_MARK.findall(text)]
    if not numbers:
        return lines_first(text, images)
    if not all(1 <= number <= len(images) for number in numbers):
        counted = plural(len(images), "image")
        raise ValueError(f"the text has the mark <image {max(numbers)}>, and the question has {counted}")
    pieces = _MMMU_MARK.sub("\0", text).split("\0")
    return tuple(pieces), tuple(images[number - 1] for number in numbers)


@dataclass(frozen=True)
class Style:
    """How a project asks the questions of a benchmark.

    text: of the prompt. max_new_tokens, temperature, stop: its decoding; 0 is greedy. place: the images. ocr_text: the
    prompt with a line of OCR tokens, where the benchmark has one; has_ocr: whether it is the project's default. box:
    key of the right box in the fields, for boxes.
    """

    text: Text
    max_new_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    place: Callable[[str, Images], Placed] = lines_first
    ocr_text: Text | None = None
    has_ocr: bool = False
    box: str = "box"


def ask(record: Record, style: Style, ocr: bool | None = None) -> Question:
    """Return the question of a record in a style.

    ocr: whether the prompt has OCR tokens, the style's default if None. Raises ValueError if it cannot have them.
    """
    wants_ocr = style.has_ocr if ocr is None else ocr
    if wants_ocr and (style.ocr_text is None or record.ocr is None):
        raise ValueError("there are no OCR tokens for the prompt; ask without them, or add their file")
    text = style.ocr_text(record) if wants_ocr and style.ocr_text else style.text(record)
    pieces, images = style.place(text, record.images)
    fields = dict(record.fields)
    if style.box in fields:
        fields["box"] = fields[style.box]
    has_ocr = wants_ocr if style.ocr_text else None
    return Question(record.id, pieces, images, fields, record.row, record.other_ids, has_ocr)


def plain(record: Record) -> str:
    """Return the question as the file has it."""
    return record.text


def ending(end: str) -> Text:
    """Return a prompt of the question and an instruction."""
    return lambda record: record.text + end


def starting(start: str, end: str = "") -> Text:
    """Return a prompt of an instruction and the question."""
    return lambda record: start + record.text + end


def fixed(text: str) -> Text:
    """Return the same prompt for each image."""
    return lambda record: text


def option_lines(options: Mapping[str, str]) -> str:
    """Return a line "A. text" for each option."""
    return "\n".join(f"{letter}. {option}" for letter, option in options.items())


def choice(end: str = texts.OPTION_LETTER) -> Text:
    """Return a prompt of hint, question, option lines and an instruction.

    NOTE: LLaVA's model_vqa_mmbench.py ends the options at one with the text "nan" or "none"; here all are kept.
    """
    return lambda record: _hinted(record) + _options(record) + end


def choice_vlmevalkit(record: Record) -> str:
    """Return the prompt of VLMEvalKit's build_prompt for LLaVA; a Chinese prompt has a Chinese instruction.

    NOTE: through a server VLMEvalKit asks in a generic form instead: "Hint: ...", "Question: ...", "Options:".
    """
    prompt = _hinted(record) + _options(record)
    is_chinese = _CHINESE.search(prompt) is not None
    if record.options:
        return prompt + (texts.OPTION_LETTER_CN if is_chinese else texts.OPTION_LETTER)
    return prompt + (texts.DIRECT_CN if is_chinese else texts.DIRECT)


def mmbench_lmms(title: str, end: str, has_hint: bool = True) -> Text:
    """Return the prompt of lmms-eval's tasks/mmbench: hint, question and options on a line with a title."""

    def text(record: Record) -> str:
        hint = f"{record.hint} " if has_hint and record.hint and record.hint != "nan" else ""
        return f"{hint}{record.text} {title}\n{option_lines(record.options)}\n{end}"

    return text


def scienceqa(record: Record) -> str:
    """Return the form of LLaVA's released llava_test_CQM-A.json with its instruction; lmms-eval's is the same."""
    context = f"Context: {record.hint}\n" if record.hint else ""
    return f"{context}{record.text}{_options(record)}{texts.OPTION_LETTER}"


def mmstar_lmms(record: Record) -> str:
    """Return the question with its options in a line, as the parquet file has them, and an instruction."""
    listed = ", ".join(f"{letter}: {option}" for letter, option in record.options.items())
    has_options = "\nOptions:" in record.text or not listed
    return record.text + ("" if has_options else f"\nOptions: {listed}") + texts.OPTION_LETTER


def realworldqa_lmms(record: Record) -> str:
    """Return the question, which holds options and instruction itself; options in columns are joined to it."""
    return record.text + (_options(record) + texts.LETTER_REALWORLDQA if record.options else "")


def mmmu_lmms(record: Record) -> str:
    """Return the prompt of lmms-eval's tasks/mmmu, with "<image 1>" where an image belongs."""
    if not record.options:
        return f"{record.text}\n{texts.SINGLE_WORD}"
    return f"{record.text}{_options(record)}\n{texts.OPTION_LETTER}"


def mme(record: Record) -> str:
    """Return the question without its own instruction, and LLaVA's."""
    return mme_lmms(record).removesuffix(texts.SINGLE_WORD).rstrip() + texts.SINGLE_WORD


def mme_lmms(record: Record) -> str:
    """Return the same. NOTE: where two spaces stand before the instruction of the file, one of them stays."""
    return record.text.strip().replace(texts.YES_OR_NO, "") + texts.SINGLE_WORD


def with_ocr(text: Text) -> Text:
    """Return a prompt with a line of OCR tokens between the question and the instruction SINGLE_WORD.

    An image without tokens has an empty line, as in LLaVA's file.
    """

    def with_line(record: Record) -> str:
        question = text(record).removesuffix(texts.SINGLE_WORD)
        return f"{question}{texts.OCR_LINE}{record.ocr}{texts.SINGLE_WORD}"

    return with_line


def capitalized(record: Record) -> str:
    """Return the prompt of lmms-eval's tasks/textvqa. NOTE: str.capitalize also makes all other letters small."""
    return record.text.capitalize() + texts.SINGLE_WORD


def custom(record: Record) -> str:
    """Return one's own question; with options it has their lines and LLaVA's instruction."""
    return record.text + (_options(record) + texts.OPTION_LETTER if record.options else "")


def _hinted(record: Record) -> str:
    return f"{record.hint}\n{record.text}" if record.hint else record.text


def _options(record: Record) -> str:
    return f"\n{option_lines(record.options)}" if record.options else ""

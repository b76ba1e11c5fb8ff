"""The instructions of benchmark prompts, as LLaVA, lmms-eval and VLMEvalKit write them."""

from __future__ import annotations

SINGLE_WORD = "\nAnswer the question using a single word or phrase."
OPTION_LETTER = "\nAnswer with the option's letter from the given choices directly."
OPTION_LETTER_CN = "\n请直接回答选项字母。"
OPTION_LETTER_CN_LMMS = "\n请直接使用所提供的选项字母作为答案回答。"
UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
OCR_LINE = "\nReference OCR token: "
YES_OR_NO = " Please answer yes or no."
OPTIONS_LMMS = "There are several options:"
OPTIONS_CN_LMMS = "有如下几个选项："
DIRECT = "\nAnswer the question directly."
DIRECT_CN = "\n请直接回答问题。"
SINGLE_WORD_CHARTQA = "\nAnswer the question with a single word."
REASONING_MMVET = (
    "First please perform reasoning, and think step by step to provide best answer to the following question: \n\n"
)
CAPTION_LMMS = "Provide a one-sentence caption for the provided image."
CAPTION_VLMEVALKIT = (
    "Please describe this image in general. Directly provide the description, do not include prefix like "
    '"This image depicts". '
)
BOX_LLAVA = "Please provide the bounding box coordinate of the region this sentence describes: "
BOX_LMMS = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    f"All values are floating point numbers bounded between 0 and 1. {BOX_LLAVA}"
)
LETTER_REALWORLDQA = "\nPlease answer directly with only the letter of the correct option and nothing else."

"""Find the question of an answer file of TextVQA, whose rows LLaVA knows by their prompts. Scores: vqa.py.

Source: prompt_processor of llava/eval/eval_textvqa.py, haotian-liu/LLaVA.
"""

from __future__ import annotations

_OCR_LINE = "Reference OCR token:"
_OCR_FIRST = "OCR tokens: "


def question_of(prompt: str) -> str:
    """Return the lower-case question of a prompt; with the image's id it is the key into TextVQA's annotations.

    Forms: "OCR tokens: ... Question: Q Short answer:"; three lines with "Reference OCR token: " (the question is the
    first line, or the second if the OCR line comes first); two lines. Raises ValueError for any other form, as for a
    question of two lines.
    """
    lines = prompt.split("\n")
    if prompt.startswith(_OCR_FIRST):
        _, found, rest = prompt.partition("Question: ")
        question, ended, _ = rest.partition(" Short answer:")
        if found and ended:
            return question.lower()
    elif f"{_OCR_LINE} " in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith(_OCR_LINE) else 0].lower()
    elif len(lines) == 2:
        return lines[0].lower()
    raise ValueError(
        f"Found no question in the prompt {prompt!r}: expected the question and one line of instructions, with or "
        f'without a line "{_OCR_LINE} ...".'
    )

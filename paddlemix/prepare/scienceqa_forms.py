"""Write questions of ScienceQA as conversations, in the forms of LLaVA's scripts/convert_sqa_to_llava.py.

A form is an input and an output joined by "-", as "QCM-LEPA": Q question, C context, M multiple choices, L lecture,
E explanation (solution), A answer. NOTE: the released llava_test_CQM-A.json has another form, `released_prompt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

LETTERS = "ABCDE"
IMAGE = "<image>"

Problem = Mapping[str, Any]

_INPUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "CQM": ("Context: {context}", "Question: {question}", "Options: {choices}"),
        "QCM": ("Question: {question}", "Context: {context}", "Options: {choices}"),
        "QCML": ("Question: {question}", "Context: {context}", "Options: {choices}", "BECAUSE: {lecture}"),
        "QCME": ("Question: {question}", "Context: {context}", "Options: {choices}", "BECAUSE: {solution}"),
        "QCMLE": ("Question: {question}", "Context: {context}", "Options: {choices}", "BECAUSE: {lecture} {solution}"),
        "QCLM": ("Question: {question}", "Context: {context}", "BECAUSE: {lecture}", "Options: {choices}"),
        "QCEM": ("Question: {question}", "Context: {context}", "BECAUSE: {solution}", "Options: {choices}"),
        "QCLEM": ("Question: {question}", "Context: {context}", "BECAUSE: {lecture} {solution}", "Options: {choices}"),
    }
)
# NOTE: AL writes the solution and AE the lecture, as in the original.
_OUTPUTS: Mapping[str, str] = MappingProxyType(
    {
        "A": "The answer is {answer}.",
        "AL": "The answer is {answer}. BECAUSE: {solution}",
        "AE": "The answer is {answer}. BECAUSE: {lecture}",
        "ALE": "The answer is {answer}. BECAUSE: {lecture} {solution}",
        "AEL": "The answer is {answer}. BECAUSE: {solution} {lecture}",
        "LA": "{lecture} The answer is {answer}.",
        "EA": "{solution} The answer is {answer}.",
        "LEA": "{lecture} {solution} The answer is {answer}.",
        "ELA": "{solution} {lecture} The answer is {answer}.",
        "LEPA": "",
    }
)
_LABEL = "Answer: "


def instruction_and_output(problem: Problem, form: str) -> tuple[str, str]:
    """Return the question and the answer of a problem (a value of problems.json) in a form.

    Raises ValueError for an unknown form or an answer beyond the letters A to E.
    """
    asked, _, answered = form.partition("-")
    if asked not in _INPUTS or answered not in _OUTPUTS:
        known = f"inputs {', '.join(_INPUTS)}, outputs {', '.join(_OUTPUTS)}"
        raise ValueError(f"Unknown form {form!r}; known are {known}, joined by '-'.")
    if not 0 <= problem["answer"] < len(problem["choices"]) <= len(LETTERS):
        raise ValueError(f"Found answer {problem['answer']} of {len(problem['choices'])} choices; 5 is the most.")
    parts = {
        "context": problem["hint"].strip() or "N/A",
        "question": problem["question"],
        "choices": " ".join(f"({letter}) {text}" for letter, text in zip(LETTERS, problem["choices"], strict=False)),
        "answer": LETTERS[problem["answer"]],
        "lecture": _with_line_breaks(problem["lecture"]),
        "solution": _with_line_breaks(problem["solution"]),
    }
    instruction = _joined("\n".join(line.format(**parts) for line in _INPUTS[asked]))
    answer = _reasoned(parts) if answered == "LEPA" else _LABEL + _OUTPUTS[answered].format(**parts)
    return _unlabeled(instruction, "Question: "), _unlabeled(_joined(answer), _LABEL)


def _with_line_breaks(text: str) -> str:
    return text.replace("\\n", "\n")


def _reasoned(parts: Mapping[str, str]) -> str:
    """Return the output LEPA: lecture and solution where there are any, and the answer after a separator."""
    lines = [f"{name.upper()}: {parts[name]}\n" for name in ("lecture", "solution") if parts[name].strip()]
    return "".join(lines) + f"###\nANSWER: {parts['answer']}."


def _joined(text: str) -> str:
    """Halve runs of spaces once, and drop an empty reason at the end."""
    text = text.replace("  ", " ").strip()
    return text.replace("BECAUSE:", "").strip() if text.endswith("BECAUSE:") else text


def _unlabeled(text: str, label: str) -> str:
    """Remove a label that starts a text. NOTE: the original removes it everywhere then."""
    return text.replace(label, "") if text.startswith(label) else text


def conversation(name: str, problem: Problem, form: str) -> dict[str, Any]:
    """Return a problem as a row of LLaVA's training files. The image mark comes last."""
    instruction, output = instruction_and_output(problem, form)
    row: dict[str, Any] = {"id": name}
    if problem["image"]:
        row["image"] = f"{name}/{problem['image']}"
        instruction += f"\n{IMAGE}"
    row["conversations"] = [{"from": "human", "value": instruction}, {"from": "gpt", "value": output}]
    return row


def flat_row(name: str, problem: Problem, form: str) -> dict[str, Any]:
    """Return a problem as a row with "instruction" and "output", which the script's convert_to_jsonl writes."""
    row = conversation(name, problem, form)
    human, gpt = row.pop("conversations")
    return {**row, "instruction": human["value"], "output": gpt["value"]}


def released_prompt(problem: Problem) -> str:
    """Return the question as in the released llava_test_CQM-A.json, with which LLaVA 1.5's figures were made."""
    lines = [f"{IMAGE}"] if problem["image"] else []
    lines += [f"Context: {problem['hint']}"] if problem["hint"] else []
    lines.append(problem["question"])
    lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, problem["choices"], strict=False)]
    return "\n".join(lines)

"""What a judge is asked: two answers to compare for a GPT review, one answer to grade for MM-Vet.

The arrangement is that of the projects, the instructions are our own; a user can name the projects' files instead.
Figures under different instructions do not compare, so a result names those that were used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..readers.rows import read_json
from ..scores import gpt_review, mmvet
from ..tasks.task import Task
from .journal import hash_of

Messages = list[dict[str, str]]
OWN_RULES = "paddlemix"
MAX_TOKENS = 1024
REVIEW_TEMPERATURE = 0.2  # LLaVA's eval_gpt_review_visual.py
MMVET_TEMPERATURE, MMVET_STEP = 0.0, 0.5  # mm-vet_evaluator.py, where a second request is half a degree warmer

# LLaVA's, so that a request with its rule.json is LLaVA's letter by letter.
REVIEW_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
_REVIEW_TASK = (
    "Two AI assistants have answered the question above. The question is about an image that you cannot see. {context} "
    "Grade each answer with a number from 1 to 10, higher for a better answer. Consider how helpful, relevant and "
    "accurate it is, and how much detail it gives. Do not let the order of the two answers influence you.\n"
    "Write the grade of Assistant 1, a space and the grade of Assistant 2 in the first line, and nothing else in that "
    "line. Explain both grades in the lines after it."
)
_BOXES = (
    "The context describes it: five captions, and the objects in it with their boxes. A box is [left, top, right, "
    "bottom], in fractions of the image's width and height."
)
_CAPTION = "The context describes it in a few sentences."
REVIEW_AGAIN = "The first line must have two numbers from 1 to 10 with a space between them, and nothing else."

MMVET_TABLE = """\
Grade predictions by comparing them with the truth. In the truth, <AND> joins parts that must all be in a prediction, \
and <OR> joins parts of which one is enough. A grade is one of 0.0, 0.1, 0.2 and so on up to 1.0; 0.0 means that \
nothing is right, 1.0 that all is. Complete the last row with its grade alone.

Question | Truth | Prediction | Grade
--- | --- | --- | ---
Which months have 30 days among those shown? | April <AND> June | April | 0.5
Which months have 30 days among those shown? | April <AND> June | May | 0.0
Which months have 30 days among those shown? | April <AND> June | June and April have 30 days. | 1.0
Which months have 30 days among those shown? | April <AND> June | April or May | 0.5
What does the sign forbid? | parking <OR> stopping | You must not park here. | 1.0
Why is the drawing funny? | A snail overtakes a racing car that is stuck in a traffic jam, so the slowest animal is \
faster than the fastest car. | There is a snail beside a racing car. | 0.3
Why is the drawing funny? | A snail overtakes a racing car that is stuck in a traffic jam, so the slowest animal is \
faster than the fastest car. | The car is made for speed, but it stands in a jam, and even a snail passes it. | 1.0
"""
MMVET_AGAIN = "Write nothing but the grade, a number from 0.0 to 1.0:"


@dataclass(frozen=True)
class Protocol:
    """How a judge is asked about the answers to a task.

    rules: name of the instructions. needs: keys of a question's fields. messages: of those fields and an answer.
    is_readable: whether what the judge wrote has a grade. again: is added to the question if it has none. step: is
    added to the temperature each time. num_runs: how often each answer is judged.
    """

    rules: str
    needs: tuple[str, ...]
    messages: Callable[[Mapping[str, Any], str], Messages]
    is_readable: Callable[[str], bool]
    again: str
    temperature: float
    step: float = 0.0
    max_tokens: int = MAX_TOKENS
    num_runs: int = 1

    def asked(self, messages: Messages, number: int) -> tuple[Messages, float]:
        """Return the messages and the temperature of a request; number: of those before without a grade."""
        if not number:
            return messages, self.temperature
        last = {**messages[-1], "content": f"{messages[-1]['content'].rstrip()}\n{self.again}"}
        return [*messages[:-1], last], self.temperature + number * self.step


def protocol_of(
    task: Task, rules: str | Path | None = None, *, num_runs: int = 1, max_tokens: int = MAX_TOKENS
) -> Protocol:
    """Return how a judge is asked about a task.

    rules: LLaVA's rule.json, or for MM-Vet a text file with the instructions and the table before the row in question;
    our own without a file. Raises ValueError if the task has no judge, or the file cannot be used.
    """
    if not task.has_judge:
        raise ValueError(f"the answers to {task.name} are scored without a judge")
    if num_runs < 1:
        raise ValueError(f"the number of runs is {num_runs}, expected 1 or more")
    if task.name == "mmvet":
        return mmvet_protocol(rules, num_runs=num_runs, max_tokens=max_tokens)
    if num_runs > 1:
        raise ValueError(f"{task.name} is judged once: only MM-Vet has several runs")
    return review_protocol(rules, max_tokens=max_tokens)


def review_protocol(file: str | Path | None = None, *, max_tokens: int = MAX_TOKENS) -> Protocol:
    """Return how a GPT review is asked for: the reference is the first answer. Fields: see readers/judged.py."""
    rules, name = (own_review_rules(), OWN_RULES) if file is None else read_review_rules(Path(file))

    def messages(fields: Mapping[str, Any], answer: str) -> Messages:
        category = fields["category"]
        if category not in rules:
            raise ValueError(f"{name} has no rule for the category {category!r}; it has {', '.join(rules)}")
        return review_messages(fields, answer, rules[category])

    return Protocol(
        name,
        ("context", "question", "reference", "category"),
        messages,
        lambda text: gpt_review.parse(text) is not None,
        REVIEW_AGAIN,
        REVIEW_TEMPERATURE,
        max_tokens=max_tokens,
    )


def review_messages(fields: Mapping[str, Any], answer: str, rule: Mapping[str, str]) -> Messages:
    """Return the request for a review, arranged as in LLaVA's eval_gpt_review_visual.py and eval_gpt_review_bench.py.

    NOTE: the latter puts a line break between all characters of a caption that is one text; this does not.
    """
    role = rule["role"]
    parts = [f"[Context]\n{fields['context']}", f"[Question]\n{fields['question']}"]
    for number, text in ((1, fields["reference"]), (2, answer)):
        parts += [f"[{role} {number}]\n{text}", f"[End of {role} {number}]"]
    content = "\n\n".join([*parts, f"[System]\n{rule['prompt']}"]) + "\n\n"
    return [{"role": "system", "content": REVIEW_SYSTEM}, {"role": "user", "content": content}]


def own_review_rules() -> dict[str, dict[str, str]]:
    """Return our instructions by category, in the form of LLaVA's rule.json."""
    contexts = {"": _BOXES, "llava_bench_": _CAPTION}
    return {
        f"{prefix}{kind}": {"role": "Assistant", "prompt": _REVIEW_TASK.format(context=context)}
        for prefix, context in contexts.items()
        for kind in ("conv", "detail", "complex")
    }


def read_review_rules(path: Path) -> tuple[dict[str, dict[str, str]], str]:
    """Return the instructions of a file like LLaVA's rule.json by category, and a name for them."""
    found = read_json(path, dict)
    for category, rule in found.items():
        texts = (rule.get("role"), rule.get("prompt")) if isinstance(rule, dict) else (None,)
        if not all(isinstance(text, str) and text for text in texts):
            raise ValueError(f"{path} has no role and prompt for the category {category!r}: expected two texts")
    return found, f"{path.name} {hash_of(found)[:8]}"


def mmvet_protocol(file: str | Path | None = None, *, num_runs: int = 1, max_tokens: int = MAX_TOKENS) -> Protocol:
    """Return how a grade of MM-Vet is asked for: the last row of a table, without its grade (mm-vet_evaluator.py)."""
    table, name = (MMVET_TABLE, OWN_RULES) if file is None else _read_table(Path(file))

    def messages(fields: Mapping[str, Any], answer: str) -> Messages:
        truth = fields["answer"].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        row = " | ".join([fields["question"], truth, answer, ""])
        return [{"role": "user", "content": f"{table}\n{row}"}]

    return Protocol(
        name,
        ("question", "answer"),
        messages,
        lambda text: mmvet.parse(text) is not None,
        MMVET_AGAIN,
        MMVET_TEMPERATURE,
        MMVET_STEP,
        max_tokens,
        num_runs,
    )


def _read_table(path: Path) -> tuple[str, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text in UTF-8") from None
    if "|" not in text:
        raise ValueError(
            f"{path} has no table: expected instructions and rows of question | truth | prediction | grade"
        )
    return text, f"{path.name} {hash_of(text)[:8]}"

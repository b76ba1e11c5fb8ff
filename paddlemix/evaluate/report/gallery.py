"""The items of a run: image, prompt, answer, what the rule read in it, and the right answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ...terminal.sizes import plural
from ..item import Question
from ..results import Answered, TaskResult
from .markup import isolated, safe, safe_line
from .selection import STATES, categories_of, counts_of, state_of
from .thumbnails import NO_BOXES, Boxes, Thumbnails

MAX_TEXT = 3000  # characters of a prompt, an answer or a judge's text
ENDS: Mapping[str, str] = MappingProxyType(
    {"length": "cut at the limit of tokens", "context": "cut at the end of the context"}
)
READ_COLOR, RIGHT_COLOR = " (red)", " (green)"  # of boxes, see report.css
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def group(result: TaskResult, shown: Sequence[Answered], thumbnails: Thumbnails, max_bytes: int) -> str:
    """Return the items of a task below a heading with their counts. After `max_bytes` no further ones are added.

    NOTE: an item that was made has to stay, because items after it may refer to its images.
    """
    parts: list[str] = []
    num_bytes = 0
    for one in shown:
        if num_bytes >= max_bytes:
            break
        parts.append(_with_images(result, one, thumbnails))
        num_bytes += len(parts[-1].encode())
    name = safe_line(result.task.name)
    note = safe_line(_note(result, shown[: len(parts)]))
    head = f'<h3 id="items-{name}">{name} <small>{note}</small></h3>'
    return f'<section class="group" data-task="{name}">{head}\n{"".join(parts)}</section>\n'


def _note(result: TaskResult, shown: Sequence[Answered]) -> str:
    """Return how many items are shown of how many: of all, and of each state."""
    every, here = counts_of(result.answered), counts_of(shown)
    parts = {state: f"{here.get(state, 0):,} of " * (here.get(state, 0) < every[state]) for state in every}
    counts = ", ".join(f"{part}{every[state]:,} {STATES[state]}" for state, part in parts.items())
    if len(shown) == len(result.answered):
        return ": ".join(filter(None, (plural(len(shown), "item"), counts)))
    return f"{len(shown):,} of {len(result.answered):,} shown: {counts}"


def _with_images(result: TaskResult, one: Answered, thumbnails: Thumbnails) -> str:
    """Return an item, after the data of the images that no item before it has."""
    total = len(one.question.images)
    labels = [f"image {number} of {total}" if total > 1 else "image" for number in range(1, total + 1)]
    drawn = _boxes(one) if total == 1 else NO_BOXES
    images = [thumbnails.show(source, label, drawn) for source, label in zip(one.question.images, labels, strict=True)]
    views = "".join(image.view for image in images)
    return "".join(image.data for image in images) + _item(result, one, views)


def _boxes(one: Answered) -> Boxes:
    """Return the right box and the one that was read, of RefCOCO's tasks; LLaVA has boxes in a padded square."""
    fields = one.question.fields
    if "box" not in fields:
        return NO_BOXES
    return Boxes(fields["box"], one.parsed, is_padded=fields["box"] == fields.get("padded_box"))


def _item(result: TaskResult, one: Answered, views: str) -> str:
    state, categories = state_of(one), categories_of(one.question)
    data = {"task": result.task.name, "state": state, "category": "\n".join(map(_one_line, categories))}
    attributes = " ".join(f'data-{name}="{safe(value)}"' for name, value in data.items())
    words = [f'<span class="state">{STATES[state]}</span>', *(isolated(name) for name in categories)]
    words += [f"<span>{text}</span>" for text in _remarks(one)]
    head = f'<h4>{isolated(one.question.id)}</h4><p class="words">{" ".join(words)}</p>'
    rows = "".join(_described(name, text) for name, text in _rows(result, one))
    return (
        f'<article class="item" {attributes}>\n<header>{head}</header>'
        f'<div class="images">{views}</div><dl>{rows}</dl></article>\n'
    )


def _described(name: str, text: str) -> str:
    kind = ' class="answer"' if name == "answer" else ""
    return f'<dt>{name}</dt><dd{kind} dir="auto">{_limited(text)}</dd>'


def _one_line(text: str) -> str:
    return text.replace("\n", " ")


def _remarks(one: Answered) -> list[str]:
    credit = [] if one.credit is None else [f"credit {one.credit:.3g}"]
    tokens = [plural(one.num_prompt_tokens, "prompt token")] if one.num_prompt_tokens else []
    return [*credit, *([ENDS[one.finish_reason]] if one.finish_reason in ENDS else []), *tokens]


def _rows(result: TaskResult, one: Answered) -> list[tuple[str, str]]:
    """Return what is known of an item, each with its name."""
    rows, has_boxes = [("prompt", one.question.prompt)], "box" in one.question.fields
    if one.output is None:
        return [*rows, ("problem", one.problem), *_right(result, one.question)]
    rows.append(("answer", one.output or "(empty)"))
    if one.credit is not None:
        rows.append(
            (f"read in it{READ_COLOR * has_boxes}", "nothing" if one.parsed is None else value_text(one.parsed))
        )
    rows += _right(result, one.question)
    names = ["judge"] if len(one.judgement) == 1 else [f"judge {number + 1}" for number in range(len(one.judgement))]
    return [*rows, *zip(names, one.judgement, strict=True)]


def _right(result: TaskResult, question: Question) -> list[tuple[str, str]]:
    name = f"right answer{RIGHT_COLOR * ('box' in question.fields)}"
    return [(name, right_answer(question, result.task.needs) or "not in the files")]


def right_answer(question: Question, key: str) -> str:
    """Return the right answer as text: letters with their options, several references with their counts.

    key: of the right answer in the fields (`Task.needs`). "" if the files do not tell it.
    """
    if key not in question.fields:
        return ""
    value, fields = question.fields[key], question.fields
    if isinstance(value, int) and fields.get("choices"):  # ScienceQA's place among the choices
        return f"{LETTERS[value]}. {fields['choices'][value]}"
    if isinstance(value, str):
        option = _option(fields, value)
        return f"{value}. {option}" if option else value
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        counts = Counter(value)
        options = {text: _option(fields, text) for text in counts}
        names = {text: f"{text}. {option}" if option else text for text, option in options.items()}
        return "\n".join(names[text] + (f" ({count} times)" if count > 1 else "") for text, count in counts.items())
    return value_text(value)


def _option(fields: Mapping[str, Any], letter: str) -> str:
    """Return the text of an option, whose letters are keys, or places in a list; "" if there is none."""
    options = fields.get("options") or {}
    if isinstance(options, Mapping):
        return str(options.get(letter, ""))
    place = LETTERS.find(letter) if len(letter) == 1 else -1
    return str(options[place]) if 0 <= place < len(options) else ""


def value_text(value: Any) -> str:
    """Return what a rule read as text: numbers of a box with three digits."""
    if isinstance(value, (list, tuple)):
        return ", ".join(value_text(one) for one in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _limited(text: str) -> str:
    """Return a text of at most MAX_TEXT characters, with the number of those that are left out."""
    left = len(text) - MAX_TEXT
    return safe(text) if left <= 0 else f"{safe(text[:MAX_TEXT])}<em> … {plural(left, 'more character')}</em>"

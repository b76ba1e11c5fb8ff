"""Write the report: what was run, the scores of each task, and a gallery of its items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...output import replacing
from ...terminal.sizes import plural
from ..results import TaskResult
from ..summary import beside, no_score, notes, ocr_tokens
from ..units import NO_VALUE, printed, share, top_text
from .charts import bar, charts, published_table
from .gallery import group
from .markup import isolated, safe, safe_line, table
from .selection import STATES, chosen
from .thumbnails import Thumbnails, side_for

HERE = Path(__file__).parent
MAX_ITEMS = 200  # of a task
MAX_ITEMS_OF_PAGE, MAX_BYTES = 2000, 14 << 20  # of all items
BYTES_OF_TEXT = 2500  # of an item, about
MAX_PROBLEMS = 100  # of a task, one by one
NAMES = ("task", "score", "", "figure", "#items", "#failed", "#problems", "rule", "prompts", "judge", "OCR tokens")


def write_report(
    path: str | Path, results: Sequence[TaskResult], facts: Sequence[tuple[str, str]], max_items: int = MAX_ITEMS
) -> None:
    """Write report.html, one file without network; the same results give the same bytes.

    facts: (label, text) of the run: model, versions, device, decoding, files of data with hashes. max_items: of a task
    in the gallery; fewer if the page would become too large. Images are read one by one; one that cannot be read is a
    text. Raises ValueError for a negative number, OutputError if the file cannot be written.
    """
    if max_items < 0:
        raise ValueError(f"max_items is {max_items}, expected 0 or more: how many items of each task are shown")
    with replacing(path) as file:
        for part in _page(results, facts, max_items):
            file.write(part.encode())


def _page(results: Sequence[TaskResult], facts: Sequence[tuple[str, str]], max_items: int) -> Iterator[str]:
    title = " of ".join(["Evaluation", *(text for label, text in facts[:1] if label.lower() == "model")])
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    meta = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{meta}<title>{safe_line(title)}</title>\n<style>\n{style}</style>'
    yield f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n<header>\n<h1>{isolated(title)}</h1>\n'
    yield f"<p>{_lead(results)}</p>\n{_links(results)}</header>\n<main>\n"
    yield f'<section id="scores"><h2>Scores</h2>\n{_scores(results)}</section>\n'
    yield f'<section id="run"><h2>The run</h2>\n{_facts(facts)}</section>\n'
    for result in results:
        yield _task(result)
    yield from _items(results, max_items)
    yield f"</main>\n<script>\n{script}</script>\n</body></html>\n"


def _lead(results: Sequence[TaskResult]) -> str:
    answers, failed = (
        sum(one.num_answers for one in results),
        sum(one.scores.num_failed for one in results if one.scores),
    )
    problems = sum(len(one.problems) for one in results)
    texts = [plural(len(results), "task"), plural(answers, "answer")]
    texts += [f"{failed:,} of them with nothing that the rule could read"] if failed else []
    return ", ".join([*texts, plural(problems, "problem")]) + "."


def _links(results: Sequence[TaskResult]) -> str:
    names = [("scores", "Scores"), ("run", "The run")]
    names += [(f"task-{one.task.name}", one.task.name) for one in results]
    links = [f'<a href="#{safe_line(to)}">{safe_line(text)}</a>' for to, text in [*names, ("items", "Items")]]
    return f'<nav aria-label="Sections">{" ".join(links)}</nav>\n'


def _scores(results: Sequence[TaskResult]) -> str:
    rows = [_row(one) for one in results]
    reasons = [(one.task.name, no_score(one)) for one in results if no_score(one)]
    below = [f'<p class="note">{safe_line(name)} has no score: {safe(reason)}.</p>' for name, reason in reasons]
    return table("Scores by task", NAMES, rows, "scores") + "\n" + "\n".join(below)


def _row(result: TaskResult) -> tuple[str, ...]:
    name, scores = safe_line(result.task.name), result.scores
    value = f"{printed(scores)} <small>{top_text(scores)}</small>" if scores else NO_VALUE
    return (
        f'<a href="#task-{name}">{name}</a>',
        f"<strong>{value}</strong>",
        bar(share(scores)) if scores else "",
        safe_line(scores.main) if scores else NO_VALUE,
        f"{scores.num_items:,}" if scores else NO_VALUE,
        _failed(name, scores.num_failed) if scores else NO_VALUE,
        f'<a href="#problems-{name}">{len(result.problems):,}</a>' if result.problems else "0",
        safe_line(result.rule),
        safe_line(result.style or NO_VALUE),
        isolated(result.judge or NO_VALUE),
        ocr_tokens(result),
    )


def _failed(name: str, count: int) -> str:
    """Return a count that leads to its items in the gallery."""
    link = f'href="#items" data-show-task="{name}" data-show-state="failed"'
    return f"<a {link}>{count:,}</a>" if count else "0"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f'<dt>{safe_line(label)}</dt><dd dir="auto">{safe(text)}</dd>' for label, text in facts)
    return f'<dl class="facts">{rows}</dl>\n'


def _task(result: TaskResult) -> str:
    """Return what is said of a task: notes, charts, published figures and problems."""
    name, scores = safe_line(result.task.name), result.scores
    parts = [f"<h2>{name}</h2>\n<p>{safe_line(result.task.description)}</p>"]
    if scores:
        texts = [f"<strong>{safe_line(' '.join((scores.main, printed(scores), top_text(scores))).rstrip())}</strong>"]
        parts.append(f"<p>{', '.join([*texts, *map(safe_line, beside(scores))])}</p>")
    said = [no_score(result)] if no_score(result) else notes(result)
    parts.append(f'<ul class="notes">{"".join(f"<li>{safe_line(note)}</li>" for note in said)}</ul>' if said else "")
    if scores:
        parts += [charts(scores), published_table(result.task.name, scores)]
    return f'<section id="task-{name}">' + "\n".join([*filter(None, parts), _problems(result)]) + "</section>\n"


def _problems(result: TaskResult) -> str:
    found = result.problems
    if not found:
        return ""
    rows = "".join(f"<li>{isolated(one)}</li>" for one in found[:MAX_PROBLEMS])
    rows += f"<li>and {len(found) - MAX_PROBLEMS:,} more</li>" * (len(found) > MAX_PROBLEMS)
    title = f"{plural(len(found), 'problem')}; no score has them"
    is_open = " open" * (len(found) <= 10)
    attributes = f'class="problems" id="problems-{safe_line(result.task.name)}"{is_open}'
    return f"<details {attributes}><summary>{title}</summary><ul>{rows}</ul></details>"


def _items(results: Sequence[TaskResult], max_items: int) -> Iterator[str]:
    """Yield the gallery. Tasks share the page; what small ones leave goes to those after them."""
    limit = min(max_items, max(1, MAX_ITEMS_OF_PAGE // max(1, len(results))))
    shown = [chosen(one.answered, limit) for one in results]
    items = [one for members in shown for one in members]
    num_images = sum(len(one.question.images) for one in items)
    thumbnails = Thumbnails(side_for(num_images, MAX_BYTES - BYTES_OF_TEXT * len(items)))
    yield f'<section id="items"><h2>Items</h2>\n{_filter()}'
    left = MAX_BYTES
    for number, (result, members) in enumerate(zip(results, shown, strict=True)):
        part = group(result, members, thumbnails, left // (len(results) - number))
        left -= len(part.encode())
        yield part
    yield "</section>\n"


def _filter() -> str:
    """Return the form that the script fills and shows."""
    options = "".join(f'<option value="{state}">{words}</option>' for state, words in STATES.items())
    selects = [("task", ""), ("state", options), ("category", "")]
    fields = "".join(
        f'<label>{name}<select name="{name}"><option value="">all</option>{rows}</select></label>'
        for name, rows in selects
    )
    search = '<label>search<input type="search" name="text" autocomplete="off" spellcheck="false"></label>'
    buttons = '<button type="reset">Show all</button><output aria-live="polite"></output>'
    return f'<form id="filter" hidden aria-label="Filter the items">{fields}{search}{buttons}</form>\n'

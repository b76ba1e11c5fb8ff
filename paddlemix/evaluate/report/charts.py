"""Figures by category as bars, and published figures beside one's own, in HTML tables."""

from __future__ import annotations

from collections.abc import Sequence

from ..published import Published, published_for
from ..scores.result import Scores
from ..units import printed, share, top_text, unit_of
from .markup import isolated, safe_line, table

MAX_ROWS = 20  # of a chart that are open at once
# Second parts of names "accuracy/KEY/VALUE". Other names are "accuracy/VALUE", whose value may contain a slash.
_KEYS = (
    "category",
    "l2-category",
    "l2_category",
    "split",
    "data_type",
    "question_type",
    "answer_type",
    "subject",
    "form",
    "structural",
    "semantic",
)


def charts(scores: Scores) -> str:
    """Return a chart for each group of figures. A group of one that says the same as the main figure is left out."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in scores.figures:
        title, label = _parts(name)
        groups.setdefault(title, []).append((name, label))
    shown = [_chart(scores, title, rows) for title, rows in groups.items() if not _is_main(scores, rows)]
    return f'<div class="charts">{"".join(shown)}</div>' if shown else ""


def bar(part: float | None) -> str:
    """Return a bar of a share from 0 to 1; nothing for None."""
    return "" if part is None else f'<span class="bar"><i style="width:{100 * part:.1f}%"></i></span>'


def published_table(task: str, scores: Scores) -> str:
    """Return the published figures of a task below one's own, "" if there are none."""
    found = published_for(task, list(scores.figures))
    rows = []
    for name in dict.fromkeys(one.figure for one in found):
        unit = unit_of(scores, name)
        scale = max((one.value for one in found if one.figure == name), default=0.0)
        top = unit.top * unit.factor if unit.top else max(scale, (scores.value(name) or 0.0) * unit.factor)
        own = ("<strong>this run</strong>", safe_line(name), bar(share(scores, name)), printed(scores, name), "", "")
        rows += [own, *(_published_row(one, top, unit.sign) for one in found if one.figure == name)]
    names = ("model", "figure", "", "#value", "source", "note")
    return table(f"{task}: published figures", names, rows, "published") if rows else ""


def _published_row(one: Published, top: float, sign: str) -> tuple[str, ...]:
    value = f"{one.value:,.{1 if one.value == round(one.value, 1) else 2}f}{sign}"
    model, figure, source, note = (safe_line(text) for text in (one.model, one.figure, one.source, one.note))
    return model, figure, bar(min(1.0, one.value / top) if top else None), value, source, note


def _parts(name: str) -> tuple[str, str]:
    """Return the chart that a figure belongs to, and its name there: "accuracy by subject" and "Art"."""
    metric, _, rest = name.partition("/")
    if not rest:
        return "", name
    key, _, value = rest.partition("/")
    if metric == "set":  # MM-Vet's
        return "sets of capabilities", rest
    return (f"{metric} by {key}", value) if value and key in _KEYS else (f"{metric} by category", rest)


def _is_main(scores: Scores, rows: Sequence[tuple[str, str]]) -> bool:
    return len(rows) == 1 and scores.figures[rows[0][0]] == scores.figures[scores.main]


def _breakable(label: str) -> str:
    """Return a label that may be broken after an underscore."""
    return isolated(label).replace("_", "_<wbr>")


def _chart(scores: Scores, title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return the bars of a group, the best first; figures of the whole set stay in the scorer's order."""
    if title:
        rows = sorted(rows, key=lambda row: -(scores.figures[row[0]].value or 0.0))
    lines = [_line(scores, name, label) for name, label in rows]
    unit = unit_of(scores, rows[0][0])
    scale = "0 to 100%" if unit.sign else "of the most that is possible" if unit.top else "without a limit"
    head = f"<figcaption>{safe_line(title or 'all figures')} <small>{scale}</small></figcaption>"
    body = _bars(lines[:MAX_ROWS])
    if len(lines) > MAX_ROWS:
        more = f"<summary>{len(lines) - MAX_ROWS} more, lower ones</summary>"
        body += f"<details>{more}{_bars(lines[MAX_ROWS:])}</details>"
    return f'<figure class="chart">{head}{body}</figure>\n'


def _line(scores: Scores, name: str, label: str) -> str:
    figure, top = scores.figures[name], top_text(scores, name)
    exact = "not defined" if figure.value is None else f"{figure.value:.6g}"
    value = f'<td class="n" title="{exact}">{printed(scores, name)} <small>{top}</small></td>'
    count = f'<td class="n count">{figure.count:,}</td>'
    return f'<tr><th scope="row">{_breakable(label)}</th><td>{bar(share(scores, name))}</td>{value}{count}</tr>'


def _bars(lines: Sequence[str]) -> str:
    names = '<th scope="col">name</th><th scope="col">bar</th><th scope="col">value</th><th scope="col">items</th>'
    columns = '<colgroup><col class="name"><col><col class="value"><col class="count"></colgroup>'
    return f'<table class="bars">{columns}<thead><tr>{names}</tr></thead><tbody>{"".join(lines)}</tbody></table>'

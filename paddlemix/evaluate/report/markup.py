"""HTML of texts that others have written: nothing in them is obeyed, neither by a browser nor by a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ...terminal.visible import visible, visible_line


def safe(text: object) -> str:
    """Return a text of several lines for the body of a page."""
    return escape(visible(str(text)))


def safe_line(text: object) -> str:
    """Return a text of one line for the body of a page or the value of an attribute in double quotes."""
    return escape(visible_line(str(text)))


def isolated(text: object) -> str:
    """Return a text of one line whose direction does not change that of the text around it."""
    return f"<bdi>{safe_line(text)}</bdi>"


def table(caption: str, names: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table in a region that scrolls by itself. rows: HTML. A "#" in front of a name marks numbers.

    The first cell of a row names it.
    """
    marks = [' class="n"' if name.startswith("#") else "" for name in names]
    head = "".join(
        f'<th scope="col"{mark}>{safe_line(name.lstrip("#"))}</th>' for name, mark in zip(names, marks, strict=True)
    )
    body = []
    for row in rows:
        cells = [f'<th scope="row">{row[0]}</th>']
        cells += [f"<td{mark}>{cell}</td>" for mark, cell in zip(marks[1:], row[1:], strict=True)]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="wide" role="region" aria-label="{safe_line(caption)}" tabindex="0"><table class="{kind}">'
        f"<caption>{safe_line(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>\n{chr(10).join(body)}\n</tbody></table></div>"
    )

"""The report of `paddlemix inspect-data` as one self-contained HTML file: no network, no script."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

from ..constants import IGNORE_INDEX, IMAGE_TOKEN_ID
from ..data.sample import Sample
from ..data.statistics import LengthFacts
from ..image.preprocess import ImageTiles, restore_values
from ..image.spec import ImageSpec
from ..terminal.sizes import plural

CHART = (860, 250)  # (width, height) px, including the labels
LEFT, RIGHT, ABOVE, BELOW = 60, 20, 22, 42  # px around the bars
NUM_ROW_MARKS, NUM_TOKEN_MARKS = 4, 8  # numbers at the axes, about
QUALITY = 90
STYLE = """
:root { color-scheme: light; font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; }
body { max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d0d7de; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } .problem { background: #ffebe9; border-left: 4px solid #cf222e; padding: .5rem .8rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 4px; margin: .3rem 0; } .tiles img { width: 128px; height: 128px; }
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.9 ui-monospace, monospace; background: #f6f8fa;
  padding: .6rem .8rem; border-radius: 6px; }
.tokens span { box-shadow: inset -1px 0 #c3cbd3; padding: 2px 0; } .tokens .t { background: #aceebb; }
.tokens .p { background: #ddf4ff; padding: 2px 6px; border-radius: 4px; }
.note { color: #59636e; } svg text { font: 12px system-ui, sans-serif; fill: #59636e; }
"""


def page(
    title: str,
    facts: Sequence[tuple[str, str]],
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
    problems: Sequence[str],
    lengths: LengthFacts | None,
    max_length: int,
    samples: Iterable[Sample],
    spec: ImageSpec,
    tokenizer,
) -> str:
    """Return the page. facts: (label, text). tables: (heading, names of the columns, rows). All texts are escaped."""
    parts = [f"<h1>{escape(title)}</h1>"]
    parts += [f'<p class="problem">{escape(problem)}</p>' for problem in problems]
    parts.append(_table((), [(label, value) for label, value in facts]))
    if lengths is not None:
        parts += ["<h2>Lengths</h2>", histogram(lengths, max_length)]
    for heading, names, rows in tables:
        if rows:
            parts += [f"<h2>{escape(heading)}</h2>", f'<div class="wide">{_table(names, rows)}</div>']
    parts.append("<h2>Samples as the model sees them</h2>")
    parts.append('<p class="note">One box per token, <span style="background:#aceebb">green</span> if trained.</p>')
    parts += [sample_block(sample, spec, tokenizer) for sample in samples]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def histogram(lengths: LengthFacts, max_length: int) -> str:
    """Return an SVG bar chart of the lengths, with a red line at max_length if it is within the chart."""
    width, height = CHART
    bottom, last = height - BELOW, lengths.edges[-1]
    most = max(lengths.counts)
    steps = _steps(most, NUM_ROW_MARKS)

    def across(tokens: float) -> float:
        return LEFT + tokens / last * (width - LEFT - RIGHT)

    def up(rows: float) -> float:
        return bottom - rows / most * (bottom - ABOVE)

    parts = []
    for rows in steps:
        parts.append(_line(LEFT, width - RIGHT, up(rows), up(rows), 'stroke="#d0d7de"'))
        parts.append(_text(LEFT - 6, up(rows) + 4, "end", f"{rows:,}"))
    for left, right, count in zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False):
        high = max(1.0, bottom - up(count)) if count else 0.0
        tip = f"<title>{left:,} to {right - 1:,} tokens: {plural(count, 'row')}</title>"
        wide = max(1.0, across(right) - across(left) - 1)
        shape = f'x="{across(left):.1f}" y="{bottom - high:.1f}" width="{wide:.1f}" height="{high:.1f}"'
        parts.append(f'<rect {shape} fill="#0969da">{tip}</rect>')
    for tokens in _steps(last, NUM_TOKEN_MARKS):
        parts.append(_line(across(tokens), across(tokens), bottom, bottom + 4, 'stroke="#8c959f"'))
        parts.append(_text(across(tokens), bottom + 18, "middle", f"{tokens:,}"))
    parts.append(_line(LEFT, width - RIGHT, bottom, bottom, 'stroke="#8c959f"'))
    parts.append(_text((LEFT + width - RIGHT) / 2, height - 4, "middle", "tokens of a row"))
    parts.append(_text(4, 12, "start", "rows"))
    if max_length < last:
        x = across(max_length)
        parts.append(_line(x, x, 0, bottom, 'stroke="#cf222e" stroke-dasharray="4 3"'))
        at, to = (x - 5, "end") if x > width / 2 else (x + 5, "start")
        parts.append(_text(at, 12, to, f"max_length {max_length:,}"))
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" style="max-width: 100%; height: auto"'
    return f'<svg {size} role="img" aria-label="lengths">{"".join(parts)}</svg>'


def _steps(most: int, count: int) -> list[int]:
    """Return about `count` round whole numbers from 0 to `most`: multiples of 1, 2 or 5 times a power of ten."""
    least = max(most / count, 1)
    size = 10 ** int(math.log10(least))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= least)
    return list(range(0, most + 1, step))


def _line(x1: float, x2: float, y1: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" {style}/>'


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def sample_block(sample: Sample, spec: ImageSpec, tokenizer) -> str:
    """Return the tiles of a row and its tokens one by one."""
    num_trained = int((sample.labels != IGNORE_INDEX).sum())
    counts = f"{plural(len(sample.token_ids), 'token')}, {num_trained:,} trained"
    parts = [f'<h3>{escape(sample.where)} <span class="note">{counts}</span></h3>']
    for image in sample.images:
        width, height = image.size
        num_tiles = len(image.pixels)
        text = f"{width}x{height} px, {plural(num_tiles, 'tile')}, {plural(image.num_tokens, 'token')}"
        tiles = "".join(f'<img alt="" src="{tile}">' for tile in tile_uris(image, spec))
        parts.append(f'<div class="note">{text}</div><div class="tiles">{tiles}</div>')
    return "\n".join([*parts, f'<div class="tokens">{tokens_html(sample, tokenizer)}</div>'])


def tokens_html(sample: Sample, tokenizer) -> str:
    """Return a span for each token, with class "t" if it is trained, and one with class "p" for each image."""
    lengths = iter(image.num_tokens for image in sample.images)
    spans, position = [], 0
    while position < len(sample.token_ids):
        token_id = int(sample.token_ids[position])
        if token_id == IMAGE_TOKEN_ID:
            length = next(lengths)
            spans.append(f'<span class="p">image: {length:,} tokens</span>')
            position += length
            continue
        kind = ' class="t"' if sample.labels[position] != IGNORE_INDEX else ""
        text = escape(_visible(tokenizer.token_bytes(token_id)))
        spans.append(f'<span{kind} title="{token_id}">{text}</span>')
        position += 1
    return "".join(spans)


def tile_uris(image: ImageTiles, spec: ImageSpec) -> list[str]:
    """Return the tiles of an image, without the normalization, as data URIs of JPEG files."""
    colors = restore_values(image.pixels, spec).transpose(0, 2, 3, 1)
    uris = []
    for tile in colors:
        file = io.BytesIO()
        Image.fromarray(tile).save(file, "JPEG", quality=QUALITY, subsampling=0)
        uris.append("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode())
    return uris


def _visible(content: bytes) -> str:
    r"""Return the text of a token, with parts of characters and control characters as \xNN and line ends marked."""
    text = content.decode("utf-8", errors="backslashreplace")
    shown = (char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text)
    return "".join(shown).replace("\n", "↵\n")


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. A "#" in front of a column's name means numbers, and is not shown."""
    classes = [' class="n"' if name.startswith("#") else "" for name in names]
    head = "".join(f"<th{kind}>{escape(name.lstrip('#'))}</th>" for name, kind in zip(names, classes, strict=True))
    body = []
    for row in rows:
        kinds = classes or [""] * len(row)
        body.append("".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)))
    lines = ([f"<tr>{head}</tr>"] if names else []) + [f"<tr>{line}</tr>" for line in body]
    return f"<table>{''.join(lines)}</table>"

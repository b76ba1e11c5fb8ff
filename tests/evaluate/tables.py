"""Small benchmark tables in VLMEvalKit's form, with images of a few bytes."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path

# No images, but long enough that their base64 is not taken for the index of another row.
RED, BLUE = (name.encode() * 16 for name in ("red image", "blue image"))


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def table_text(rows: list[dict], columns: list[str], line_end: str = "\n") -> str:
    """Return rows as pandas writes them: quotes only where they are needed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter="\t", lineterminator=line_end, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_table(path: Path, rows: list[dict], columns: list[str] | None = None) -> Path:
    """Write rows with the columns of the first one, or those that are named."""
    path.write_text(table_text(rows, columns or list(rows[0])), encoding="utf-8", newline="")
    return path

"""Write small files of rows and images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def row(name: Any, image: Any = None, question: str = "Q?", answer: str = "A.") -> dict:
    """Return a row of LLaVA's form with one question, after the mark of its image if it has one."""
    head = {"id": name} if image is None else {"id": name, "image": image}
    text = question if image is None else f"<image>\n{question}"
    return {**head, "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]}


def write_list(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows as one JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """Write one row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def write_image(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    """Write an image; its format follows the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 40)).save(path)
    return path

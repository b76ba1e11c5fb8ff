"""Whether the answers of two runs can be compared: by the same rule and judge, to the same questions.

Ids alone do not tell: in two files of one's own, the first question is 1 in both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..constants import IMAGE_MARK
from ..terminal.visible import visible_line
from .journal import RUN, SCORES

Rows = Mapping[str, Mapping[str, Any]]  # lines of an answers file by id
MAX_SHOWN = 60  # characters of a question in a message
STYLED = {"box"}  # fields that depend on the prompt style


def check_scores(first: Path, second: Path) -> None:
    """Raise ValueError if two files OUT/TASK/answers.jsonl were scored by different rules or judges.

    OUT/scores.json tells by which; without it nothing is checked.
    """
    before, after = (_entry(path, SCORES) for path in (first, second))
    for key, what in (("rule", "rule"), ("judge", "judge")):
        old, new = before.get(key), after.get(key)
        if old and new and old != new:
            raise ValueError(
                f"{first} was scored by the {what} {old}, {second} by {new}, so their scores do not compare: repeat "
                f"one of the two `paddlemix eval run` commands with --{key} {old} or {new}; its answers are kept"
            )


def of_the_same_questions(paths: tuple[Path, Path], rows: tuple[Rows, Rows]) -> tuple[tuple[Rows, Rows], list[str]]:
    """Return the lines of two files without answers to different questions of one id, and a note that counts these.

    Raises ValueError if no id is in both, or if most ids stand for different questions.
    """
    first, second = rows
    common = [name for name in first if name in second]
    if first and second and not common:
        ids = [visible_line(next(iter(one))) for one in rows]
        raise ValueError(
            f"there is nothing to compare: no question is in both {paths[0]} (id {ids[0]} ...) and {paths[1]} (id "
            f"{ids[1]} ...)"
        )
    before, after = (_entry(path, RUN) for path in paths)
    if before and _data(before) == _data(after):
        return rows, []
    is_same_prompt = bool(before and after) and all(before.get(key) == after.get(key) for key in ("style", "ocr"))
    others = {name for name in common if _is_other(first[name], second[name], is_same_prompt)}
    if not others:
        return rows, []
    name = next(name for name in common if name in others)
    questions = " and ".join(_shown(one[name]) for one in rows)
    what = (
        f"{len(others)} of {len(common)} questions differ between the files, first id {visible_line(name)}: {questions}"
    )
    if 2 * len(others) > len(common):
        raise ValueError(f"{paths[0]} and {paths[1]} do not compare: {what}. Name runs on the same questions")
    kept = tuple({name: row for name, row in one.items() if name not in others} for one in rows)
    return kept, [f"note: {what}; they are left out"]


def _entry(path: Path, name: str) -> Mapping[str, Any]:
    """Return what a file of OUT says of OUT/TASK/answers.jsonl, nothing if it is not there or cannot be read."""
    folder = path.absolute().parent
    try:
        found = json.loads((folder.parent / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    found = found.get("tasks") if name == RUN and isinstance(found, dict) else found
    entry = found.get(folder.name) if isinstance(found, dict) else None
    return entry if isinstance(entry, dict) else {}


def _data(entry: Mapping[str, Any]) -> Any:
    """Return the hashes of the files that the questions came from."""
    identity = entry.get("identity")
    return identity.get("data") if isinstance(identity, dict) else None


def _is_other(one: Mapping[str, Any], other: Mapping[str, Any], is_same_prompt: bool) -> bool:
    """Return whether two lines are of different questions. Another prompt style words a question differently."""
    return _facts(one) != _facts(other) or (is_same_prompt and one.get("prompt") != other.get("prompt"))


def _facts(row: Mapping[str, Any]) -> Any:
    fields = row.get("fields")
    return {key: fields[key] for key in fields.keys() - STYLED} if isinstance(fields, dict) else fields


def _shown(row: Mapping[str, Any]) -> str:
    text = visible_line(str(row.get("prompt", "")).replace(IMAGE_MARK, "")).strip()
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")

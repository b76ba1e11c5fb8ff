"""What the model says to a few rows of the evaluation set, next to what it should say."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..checkpoints.processor import LlavaProcessor
from ..data.encode import first_messages
from ..data.row import Row
from ..models.llava import LlavaForConditionalGeneration
from ..output import replacing

FILE = "eval_answers.jsonl"
MAX_NEW_TOKENS = 128


def sample_answers(
    model: LlavaForConditionalGeneration, teacher: LlavaProcessor, rows: Sequence[Row], num_answers: int
) -> list[dict[str, str]]:
    """Answer a question of some rows, spread evenly, greedily; a row that cannot be read is left out.

    The question is the first one whose answer is trained: another answer of the row may be wrong on purpose.
    """
    found = []
    for index in np.unique(np.linspace(0, len(rows) - 1, num_answers).astype(int)):
        row = rows[index]
        answers = [message.role == "assistant" and message.is_trained for message in row.conversation.messages]
        end = answers.index(True)
        try:
            sample = teacher.encode(first_messages(row.conversation, end), folders=row.folders)
        except (ValueError, OSError):
            continue  # counted and told where it is evaluated
        (ids,) = model.generate(teacher.collate([sample]), max_new_tokens=MAX_NEW_TOKENS)
        question, expected = (row.conversation.messages[place].text for place in (end - 1, end))
        found.append(
            {"row": row.where, "question": str(question), "expected": str(expected), "answer": teacher.decode(ids)}
        )
    return found


def append_answers(folder: Path, step: int, answers: Sequence[dict[str, str]]) -> None:
    """Put them at the end of eval_answers.jsonl, one a line, with the step.

    Those of the same and of later steps go: they are from before a run that went on from an earlier one. Before the
    first step, where nothing was trained, only those of step 0 go.
    """
    path = Path(folder) / FILE
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    lines = [line for line in lines if line and (_step_of(line) < step if step else _step_of(line) != 0)]
    lines += [json.dumps({"step": step, **answer}, ensure_ascii=False) for answer in answers]
    with replacing(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))


def _step_of(line: str) -> float:
    """Return the step of a line, -inf for a line of somebody else's."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return -math.inf
    return step if isinstance(step, int) else -math.inf

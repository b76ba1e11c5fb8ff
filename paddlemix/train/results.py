"""What a run leaves beside its model: its figures, what it was made with, and a picture of its loss."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddlenlp

from .. import __version__
from ..checkpoints.processor import LlavaProcessor
from ..data.encode import first_messages
from ..data.row import Row
from ..device import peak_memory
from ..models.llava import LlavaForConditionalGeneration
from ..output import replacing, write_json

RESULTS, ALL_RESULTS, PICTURE = "train_results.json", "all_results.json", "loss.png"
CHUNK = 1 << 20  # bytes


def write_results(
    folder: Path,
    metrics: Mapping[str, Any],
    settings: Mapping[str, Any],
    data: Sequence[Mapping[str, Any]],
    rates: Mapping[str, float],
) -> None:
    """Write train_results.json: metrics, settings, versions, data, memory, throughput. data: of `fingerprint`."""
    write_json(
        Path(folder) / RESULTS,
        {
            **metrics,
            **rates,
            "peak_memory_bytes": peak_memory(),
            "versions": versions(),
            "settings": dict(settings),
            "data": list(data),
        },
    )


def versions() -> dict[str, str]:
    """Return the versions of what decides the result."""
    return {
        "paddlemix": __version__,
        "paddlepaddle": paddle.__version__,
        "paddlenlp": paddlenlp.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def fingerprint(path: Path) -> dict[str, Any]:
    """Return name, size and SHA-256 of a data file, so that one can tell later if it is still the same."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return {"file": str(path), "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def draw_losses(folder: Path, values: Mapping[str, list[tuple[int, float]]]) -> None:
    """Draw the training loss, a smoothed line over it, and the evaluation loss into loss.png, if there are any."""
    if not values.get("loss"):
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    steps, losses = (np.array(column) for column in zip(*values["loss"], strict=True))
    axes.plot(steps, losses, color="#9db8d9", linewidth=1, label="training")
    axes.plot(steps, smoothed(losses), color="#1f5fa8", linewidth=2, label="training, smoothed")
    if values.get("eval_loss"):
        axes.plot(*zip(*values["eval_loss"], strict=True), "o-", color="#d1662b", label="evaluation")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    FigureCanvasAgg(figure)
    with replacing(Path(folder) / PICTURE) as file:
        figure.savefig(file, format="png", dpi=120)


def smoothed(losses: np.ndarray, memory: float = 0.9) -> np.ndarray:
    """Return the exponential mean of the losses up to each, without the pull of a start at 0 (Kingma and Ba 2015)."""
    mean, means = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = memory * mean + (1 - memory) * loss
        means.append(mean / (1 - memory**number))
    return np.array(means)


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

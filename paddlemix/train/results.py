"""The files that a run writes beside its model: its figures, a plot of its losses, and answers to read."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddlenlp

from .. import __version__
from ..checkpoints.processor import LlavaProcessor
from ..constants import IGNORE_INDEX, IMAGE_TOKEN_ID
from ..data.encode import first_messages
from ..data.row import Row
from ..data.sample import Sample
from ..device_memory import peak_memory
from ..generate.batch import generate
from ..generate.sampling import SamplingParams
from ..models.llava import Llava
from ..output import replacing, write_json
from ..tensor_files.stored import read_json

RESULTS, ALL_RESULTS, EVAL_RESULTS, PLOT = "train_results.json", "all_results.json", "eval_results.json", "loss.png"
ANSWERS = "eval_answers.jsonl"
MAX_NEW_TOKENS = 128  # of an answer
MIN_SMOOTHED = 50  # losses from which on the plot has a smoothed line
Curves = Mapping[str, list[tuple[int, float]]]  # (step, value) by name


def write_results(
    folder: Path,
    metrics: Mapping[str, Any],
    settings: Mapping[str, Any],
    data: Sequence[Mapping[str, Any]],
    rates: Mapping[str, float],
) -> None:
    """Write train_results.json. data: fingerprints of the data files. rates: the throughput."""
    versions = {
        "paddlemix": __version__,
        "paddlepaddle": paddle.__version__,
        "paddlenlp": paddlenlp.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    values = {**metrics, **rates, "peak_memory_bytes": peak_memory(), "versions": versions}
    write_json(folder / RESULTS, {**values, "settings": dict(settings), "data": list(data)})


def write_evaluation(folder: Path, metrics: Mapping[str, Any], task_metrics: Mapping[str, Any]) -> None:
    """Write the metrics of an evaluation, and add them to all_results.json.

    task_metrics: those of eval_tasks, to add to train_results.json. The last file tells that the evaluation is done.
    """
    for name, values in ((ALL_RESULTS, metrics), (RESULTS, task_metrics)):
        if values:
            path = folder / name
            write_json(path, {**(read_json(path) if path.is_file() else {}), **values})
    write_json(folder / EVAL_RESULTS, dict(metrics))


def draw_losses(folder: Path, values: Curves, metrics: Sequence[str] = ()) -> None:
    """Plot the losses to loss.png, if there are any; below them the metrics of eval_tasks, each scale on its own."""
    if not values.get("loss"):
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    found = {name: values[name] for name in metrics if values.get(name)}
    shares = [name for name, pairs in found.items() if all(0 <= value <= 1 for _, value in pairs)]
    panels = [shares] * bool(shares) + [[name] for name in found if name not in shares]
    heights = [4.5, *[2.5] * len(panels)]
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _draw_losses(axes[0], values)
    for place, names in zip(axes[1:], panels, strict=True):
        _draw_metrics(place, {name: found[name] for name in names}, is_share=names is shares)
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels()
    FigureCanvasAgg(figure)
    with replacing(Path(folder) / PLOT) as file:
        figure.savefig(file, format="png", dpi=120)


def _draw_losses(axes, values: Curves) -> None:
    """Draw the training loss, with a smoothed line over it if there are many losses, and the evaluation loss."""
    axes.set_ylabel("loss")
    steps, losses = (np.array(column) for column in zip(*values["loss"], strict=True))
    if len(losses) < MIN_SMOOTHED:  # a smoothed line would only lag behind them
        axes.plot(steps, losses, "o-", color="#1f5fa8", markersize=4, label="training")
    else:
        axes.plot(steps, losses, color="#9db8d9", linewidth=1, label="training")
        axes.plot(steps, smoothed(losses), color="#1f5fa8", linewidth=2, label="training, smoothed")
    if values.get("eval_loss"):
        axes.plot(*zip(*values["eval_loss"], strict=True), "o-", color="#d1662b", label="evaluation")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_metrics(axes, values: Curves, is_share: bool) -> None:
    """Draw metrics of one scale. is_share: all are from 0 to 1."""
    axes.set_ylabel("score")
    if is_share:
        axes.set_ylim(-0.03, 1.03)
    for name, pairs in values.items():
        axes.plot(*zip(*pairs, strict=True), "o-", markersize=4, label=name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def smoothed(losses: np.ndarray) -> np.ndarray:
    """Return the exponential moving average of the losses, corrected for its start at 0 (Kingma and Ba 2015).

    It reaches over ten losses, but at most a fifth of the run: the end of a short one would still show its beginning.
    """
    memory = 1 - 1 / min(max(len(losses) / 5, 1.0), 10.0)
    mean, means = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = memory * mean + (1 - memory) * loss
        means.append(mean / (1 - memory**number))
    return np.array(means)


def sample_answers(
    model: Llava, train_processor: LlavaProcessor, rows: Sequence[Row], num_answers: int
) -> list[dict[str, str]]:
    """Answer a question of num_answers evenly spread rows greedily; rows that cannot be read are left out.

    The question is the first one whose answer is trained: an untrained answer may be wrong on purpose.
    """
    found = []
    for index in np.unique(np.linspace(0, len(rows) - 1, num_answers).astype(int)):
        row = rows[index]
        try:
            sample, question, expected = _first_question(row, train_processor)
        except (ValueError, OSError):
            continue  # the evaluation counts and reports it
        (ids,) = generate(model, train_processor.collate([sample]), SamplingParams(max_new_tokens=MAX_NEW_TOKENS))
        answer = train_processor.decode(ids)
        found.append({"row": row.where, "question": question, "expected": expected, "answer": answer})
    return found


def _first_question(row: Row, processor: LlavaProcessor) -> tuple[Sample, str, str]:
    """Return the prompt of the first question whose answer is trained, its text, and that answer."""
    if row.encoded is not None:
        return _first_encoded(row, processor)
    messages = row.conversation.messages
    end = [message.role == "assistant" and message.is_trained for message in messages].index(True)
    sample = processor.encode(first_messages(row.conversation, end), folders=row.folders)
    return sample, str(messages[end - 1].text), str(messages[end].text)


def _first_encoded(row: Row, processor: LlavaProcessor) -> tuple[Sample, str, str]:
    """Return the same of a row that was encoded before; the text is that of the whole prompt."""
    failure = row.encoded.failure()
    if failure:
        raise ValueError(failure[1])
    sample, _ = row.encoded.sample(row.folders)
    ids, is_trained = sample.token_ids, sample.labels != IGNORE_INDEX
    start = int(is_trained.argmax())
    end = start + int(np.append(~is_trained[start:], True).argmax())
    is_image = ids[:start] == IMAGE_TOKEN_ID
    counts = np.cumsum([tiles.num_tokens for tiles in sample.images])
    images = sample.images[: int(np.searchsorted(counts, is_image.sum(), side="right"))]
    prompt = replace(sample, token_ids=ids[:start], labels=None, images=images)
    return prompt, processor.decode(ids[:start][~is_image]), processor.decode(ids[start:end])


def append_answers(folder: Path, step: int, answers: Sequence[dict[str, str]]) -> None:
    """Append answers to eval_answers.jsonl, one a line, with the step.

    Answers of the same and of later steps are removed: the run has resumed from an earlier step since. Step 0 is an
    evaluation before training, which replaces only answers of step 0.
    """
    path = Path(folder) / ANSWERS
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    lines = [line for line in lines if line and (_step_of(line) < step if step else _step_of(line) != 0)]
    lines += [json.dumps({"step": step, **answer}, ensure_ascii=False) for answer in answers]
    with replacing(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))


def _step_of(line: str) -> float:
    """Return the step of a line, -inf for a line that is not an answer."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return -math.inf
    return step if isinstance(step, int) else -math.inf

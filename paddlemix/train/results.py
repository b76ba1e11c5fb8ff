"""What a run leaves beside its model: its figures, what it was made with, and a picture of its loss."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddlenlp

from .. import __version__
from ..device import peak_memory
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

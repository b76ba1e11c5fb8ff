"""What an evaluation's answers depend on, so that they are never mixed with those of another model or prompt."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..fingerprint import fingerprint
from .runner import Decoding

NUM_VALUES = 256  # of each tensor that the fingerprint of a model is made of


def weights_fingerprint(model) -> str:
    """Return a hash of the first row of every tensor of a model, as it computes: with its dtype, adapters, codes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        row = tensor
        while row.ndim > 1:
            row = row[0]
        row = row[:NUM_VALUES] if row.ndim else row
        is_wide = str(row.dtype).rpartition(".")[2] in ("bfloat16", "float16")
        values = (row.astype("float32") if is_wide else row).numpy()
        digest.update(f"{name} {tensor.shape} {row.dtype}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def model_facts(model, processor, model_path: str, quantization: str | None) -> dict[str, Any]:
    """Return what is known of the model and the device, for the report."""
    import paddle

    image, template = model.config.image, processor.template
    return {
        "model": model_path,
        "weights": weights_fingerprint(model),
        "dtype": str(model.language_model.embed_tokens.weight.dtype).rpartition(".")[2],
        "quantization": quantization or "none",
        "template": template.name + (" with marks around images" if template.has_image_marks else ""),
        "system text": template.system,
        "images": f"{image.mode}, {image.side} px",
        "device": paddle.get_device().partition(":")[0],
        "versions": {"paddlemix": __version__, "paddle": paddle.__version__, "python": platform.python_version()},
    }


def data_files(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return path, size and SHA-256 of the files that a task was read from."""
    return [fingerprint(path) for path in files]


def identity(
    facts: Mapping[str, Any], style: str, ocr: bool | None, decoding: Decoding, files: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what the answers to a task depend on. The files' paths do not matter, only their content."""
    seed = decoding.seed if decoding.temperature else 0  # greedy answers do not depend on it
    names = ("weights", "dtype", "quantization", "template", "system text", "images", "device")
    return {
        **{name: facts[name] for name in names},
        "prompt style": style,
        "OCR tokens": "as the style" if ocr is None else "yes" if ocr else "no",
        "decoding": {**asdict(decoding), "stop": list(decoding.stop), "seed": seed},
        "data": [file["sha256"] for file in files],
    }

"""Merging a LoRA folder and its base into a folder that needs neither."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import paddle

from ..tensor_files.stored import CheckpointError, preview
from .layouts import find_layout, paddlemix_lora, peft
from .layouts.folder import Folder
from .load import load_model
from .output_folder import OutputFolder
from .processor import LlavaProcessor
from .save import save_model
from .source import AS_RECORDED, Source, open_source


def merge(
    lora_path: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    device: str | None = None,
    base_quantization: str | None = AS_RECORDED,
    dtype: str | None = None,
    is_overwriting: bool = False,
) -> Source:
    """Write a complete model folder: weights, config, tokenizer and processor. Return what was merged.

    base: the base model, None for the one that the adapter names. base_quantization: see `load_model`. dtype: of the
    written weights, None for the base's as in `convert`, whatever the device computes in. is_overwriting: see
    `OutputFolder`. Raises CheckpointError, before anything is written, if something is missing or does not fit, or if
    the output is one of the inputs.
    """
    folder = Folder.of(lora_path)
    layout = find_layout(folder)
    if layout is None or layout.kind != "adapter":
        raise CheckpointError(f"{folder} is not a LoRA folder: it has no {paddlemix_lora.CONFIG} and no {peft.CONFIG}")
    source = dataclasses.replace(open_source(folder, base), base_quantization=base_quantization)
    source = dataclasses.replace(source, dtype=dtype or source.config.dtype)
    place = OutputFolder(Path(output), "merge", is_overwriting).checked(source.folders)
    processor = LlavaProcessor.from_source(source)
    model = load_model(source, device=device, base_quantization=base_quantization)
    _check_finite(model, f"{folder} over {source.base.path}")
    with place.filled() as unfinished:
        processor.save_pretrained(unfinished)
        save_model(model, unfinished, dtype=source.dtype)
    return source


def _check_finite(model, what: str) -> None:
    """Raise CheckpointError if a merged weight is not finite. what: the checkpoint, for the message."""
    bad = [name for name, one in model.named_parameters() if not bool(paddle.isfinite(one.astype("float32")).all())]
    if bad:
        raise CheckpointError(f"{what}: values that are not finite in {preview(bad, 3)}")

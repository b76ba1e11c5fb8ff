"""A LoRA folder and its base to one folder that needs neither."""

from __future__ import annotations

from pathlib import Path

import paddle

from ..tensor_files.stored import CheckpointError, preview
from ..terminal.visible import visible
from . import lora, peft_adapter, side_files
from .load import load_model
from .output_folder import Place
from .processor import LlavaProcessor
from .side_files import NOTED


def merge(
    lora_path,
    output,
    *,
    base=None,
    device: str | None = None,
    base_quantization: str | None = NOTED,
    is_overwriting: bool = False,
) -> None:
    """Write a complete model folder: weights, config, tokenizer and processor.

    base: the base model's folder; None takes the one that the adapter names. base_quantization: as in `load_model`.
    Weights keep the base's dtype where the device can compute in it. Raises CheckpointError, before anything is
    written, when something is missing or does not fit, or when the output is one of the inputs. is_overwriting: as for
    `Place`.
    """
    lora_path = Path(lora_path)
    kind = side_files.kind_of(lora_path)
    if kind not in ("lora", "peft"):
        raise CheckpointError(f"{lora_path} is no LoRA folder: it has no {lora.CONFIG} and no {peft_adapter.CONFIG}")
    base = Path(base) if base else side_files.base_folder(lora_path, kind)
    place = Place(Path(output), "merge", is_overwriting).checked([lora_path, base])
    processor = LlavaProcessor.from_pretrained(lora_path, base)
    model = load_model(lora_path, base=base, device=device, base_quantization=base_quantization)
    _check_finite(model, f"{lora_path} over {base}")
    with place.filled() as folder:
        processor.save_pretrained(folder)
        model.save_pretrained(folder)
    rounding = side_files.rounding_of(lora_path, kind, base_quantization)
    rounded = f", its weights rounded to {rounding}" if rounding else ""
    print(visible(f"merged {lora_path} into {base}{rounded}: {output}"))


def _check_finite(model, what: str) -> None:
    """Raise CheckpointError for a sum that is no model. what: whose it is."""
    bad = [name for name, one in model.named_parameters() if not bool(paddle.isfinite(one.astype("float32")).all())]
    if bad:
        raise CheckpointError(f"{what}: values that are no finite numbers in {preview(bad, 3)}")

"""A LoRA folder and its base to one folder that needs neither."""

from __future__ import annotations

from pathlib import Path

from ..visible import visible
from . import lora, peft_adapter, side_files
from .files import CheckpointError
from .load import load_model
from .processor import LlavaProcessor
from .side_files import NOTED


def merge(lora_path, output, *, base=None, device: str | None = None, base_quantization: str | None = NOTED) -> None:
    """Write a complete model folder: weights, config, tokenizer and processor.

    base: the base model's folder; None takes the one that the adapter names. base_quantization: as in `load_model`.
    Weights keep the base's dtype where the device can compute in it. Raises CheckpointError, before anything is
    written, when something is missing or does not fit, or when the output is one of the inputs.
    """
    lora_path, output = Path(lora_path), Path(output)
    kind = side_files.kind_of(lora_path)
    if kind not in ("lora", "peft"):
        raise CheckpointError(f"{lora_path} is no LoRA folder: it has no {lora.CONFIG} and no {peft_adapter.CONFIG}")
    base = Path(base) if base else side_files.base_folder(lora_path, kind)
    for source in (lora_path, base):
        if output.resolve() == source.resolve():
            raise CheckpointError(f"the output {output} is also an input: name another folder, so that nothing is lost")
    processor = LlavaProcessor.from_pretrained(lora_path, base)
    model = load_model(lora_path, base=base, device=device, base_quantization=base_quantization)
    processor.save_pretrained(output)
    model.save_pretrained(output)
    lora.remove_adapter(output)
    rounding = side_files.rounding_of(lora_path, kind, base_quantization)
    rounded = f", its weights rounded to {rounding}" if rounding else ""
    print(visible(f"merged {lora_path} into {base}{rounded}: {output}"))

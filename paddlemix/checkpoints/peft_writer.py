"""A LoRA folder of any kind to an adapter that peft loads over the llava-hf folder of its base.

Names are those of transformers 4.52 and later. Its version 5 dropped `vision_model.` from the tower's, but peft brings
the older ones of factors up to date, so that one file serves both.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..models.config import LlavaConfig
from ..tensor_files.stored import CheckpointError, StoredTensor
from ..tensor_files.transforms import Derived, ancestry, cast
from .layouts import hf, hf_json
from .layouts.part import Part
from .merged import as_float32
from .new_folder import check_space
from .output_folder import Place
from .part_files import write_json_files, write_weights
from .peft_config import BASE_KEY, CONFIG
from .peft_modules import Modules, collect
from .report import Mapped, Report
from .side_files import SideFiles, rounding_of
from .source import folders_of, our_tensors, read_source

NAME = "peft"
PREFIX = "base_model.model."
CLASSES = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration")
TOLERANCE = 1e-5  # of the largest value; the same products, added up in another order
KEPT_BY_BASE = ("dtype", "untrained", "eos_token_ids", "language.tie_word_embeddings", "vision.name")


def write_adapter(
    source_path,
    destination,
    *,
    base=None,
    dtype: str | None = None,
    is_verified: bool = False,
    has_progress: bool = False,
    is_overwriting: bool = False,
) -> Report:
    """Write adapter_config.json and adapter_model.safetensors, and return what was done.

    base: the model that the adapter was trained on, None for the one that it names; the result names the same. dtype:
    None keeps each tensor's. is_verified: the result over the base is compared with the source over it before it takes
    its name. is_overwriting: as for `Place`. Raises CheckpointError, with the destination as it was, for what peft has
    no place for.
    """
    start = time.monotonic()
    source_path = Path(source_path)
    layout, config = read_source(source_path, base)
    if not isinstance(layout, SideFiles) or layout.kind not in ("lora", "peft"):
        raise CheckpointError(f"{source_path} is no LoRA folder, which layout {NAME} is for: convert it to hf")
    place = Place(Path(destination), "convert", is_overwriting).checked(folders_of(source_path, layout))
    hf_json.check_holdable(config)
    modules = collect(layout, config)
    tensors = {f"{PREFIX}{name}": tensor for name, tensor in modules.tensors.items()}
    tensors = {name: cast(tensor, dtype) for name, tensor in tensors.items()} if dtype else tensors
    part = Part("", "safetensors", "adapter_model", tensors, {CONFIG: _config_json(layout, config, modules)})
    report = Report(str(source_path), str(place.folder), layout.NAME, NAME, dropped=layout.left_out(config))
    report.notes += [*modules.notes, *_notes(layout, config)]
    report.mapped = [_mapped(name, tensor) for name, tensor in tensors.items()]
    report.num_bytes = sum(tensor.num_bytes for tensor in tensors.values())
    check_space(place.folder.parent, report.num_bytes)
    with place.filled() as folder:
        with tqdm(total=report.num_bytes, unit="B", unit_scale=True, disable=not has_progress, desc="convert") as bar:
            report.files += write_weights(folder, part, max(report.num_bytes, 1), bar)
        write_json_files(folder, part)
        report.notes += _compare(source_path, folder, layout.base.folder) if is_verified else []
    report.seconds = time.monotonic() - start
    return report


def _mapped(name: str, tensor: StoredTensor) -> Mapped:
    steps = (one.step for one in reversed(list(ancestry(tensor))) if isinstance(one, Derived))
    return Mapped(name, (), tuple(dict.fromkeys(steps)), tensor.dtype, tuple(tensor.shape))


def _config_json(layout: SideFiles, config: LlavaConfig, modules: Modules) -> dict[str, Any]:
    """Return adapter_config.json: the commonest rank and alpha, and patterns for the layers that have others.

    A layer is named by the end of its name, which is the same in all versions of transformers.
    """
    ranks = {name: one.rank for name, one in modules.layers.items()}
    alphas = {name: _rounded(one.scaling * one.rank) for name, one in modules.layers.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "auto_mapping": None,
        BASE_KEY: str(layout.base.folder.resolve()),
        "revision": None,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "rank_pattern": _pattern(ranks, rank),
        "alpha_pattern": _pattern(alphas, alpha),
        "target_modules": sorted(modules.layers),
        "modules_to_save": sorted(modules.saved) or None,
        "trainable_token_indices": {name: list(rows) for name, rows in modules.tokens.items()} or None,
        "bias": "all" if modules.has_biases else "none",
        "lora_bias": modules.has_lora_bias,
        "use_dora": modules.is_dora,
        "use_rslora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _rounded(alpha: float) -> float | int:
    """Return a whole number where one is meant: rank times alpha / rank need not give it back."""
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 * alpha else alpha


def _pattern(values: Mapping[str, Any], common: Any) -> dict[str, Any]:
    return {re.escape(name): value for name, value in values.items() if value != common}


def _notes(layout: SideFiles, config: LlavaConfig) -> list[str]:
    """Return what a user has to know to get the same answers with peft."""
    base, notes = layout.base, []
    if base.layout is not hf:
        notes.append(
            f"peft loads the adapter over a llava-hf folder, and the base {base.folder} is none: write one with "
            f"`paddlemix convert BASE OUT --to hf`, and put its name into {CONFIG} ({BASE_KEY})"
        )
    before, after = _flat(base.config), _flat(config)
    for key in sorted(set(before) | set(after)):
        if before.get(key) != after.get(key) and key not in KEPT_BY_BASE:
            values = f"{key} {after.get(key)!r}, the base says {before.get(key)!r}"
            notes.append(f"the adapter was trained with {values}: set it there")
    rounding = rounding_of(layout.path, layout.kind, layout.base_quantization)
    if rounding:
        notes.append(
            f"it was trained over weights rounded to {rounding}, over others its answers are slightly different"
        )
    return notes


def _flat(config: LlavaConfig) -> dict[str, Any]:
    found = {}
    for key, value in config.to_dict().items():
        found |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
    return found


def _compare(source: Path, result: Path, base: Path) -> list[str]:
    """Compare the tensors of both adapters over their base. Raises CheckpointError for a difference."""
    (expected, found) = (_merged(path, base) for path in (source, result))
    for name in sorted(set(expected) | set(found)):
        one, other = expected.get(name), found.get(name)
        if one is None or other is None or tuple(one.shape) != tuple(other.shape):
            raise CheckpointError(f"verification failed: {name} is on one side only, or of another shape")
        before, after = as_float32(one), as_float32(other)
        bound = TOLERANCE * max(float(np.abs(before).max(initial=0.0)), 1e-6)
        if not np.abs(before - after).max(initial=0.0) <= bound:  # a NaN is a failure too
            raise CheckpointError(f"verification failed: {name} differs between the adapter and its source")
    return [f"verified: all {len(expected)} tensors, merged, are the source's to {TOLERANCE:g} of their largest value"]


def _merged(path: Path, base: Path) -> dict[str, StoredTensor]:
    layout, config = read_source(path, base, merge_dtype="float32")
    return {name: tensor for name, (tensor, _) in our_tensors(path, layout, config).items()}

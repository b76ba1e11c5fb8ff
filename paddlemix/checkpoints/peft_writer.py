"""Conversion of a LoRA folder of any kind to an adapter that peft loads over the llava-hf folder of its base.

The names are those of transformers 4.52 and later. Version 5 dropped `vision_model.` from the tower's names, but peft
updates the older names of factors, so that one file serves both.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..tensor_files.shards import SAFETENSORS
from ..tensor_files.stored import CheckpointError
from ..tensor_files.transforms import cast
from .changed_tensors import as_float32
from .convert import convert_commands
from .layouts import hf_json
from .layouts.layout import Source
from .layouts.output_part import Part
from .layouts.peft_config import BASE_KEY, CONFIG
from .output_folder import OutputFolder
from .peft_modules import Modules, collect
from .report import Mapped, Report, flat
from .source import open_source
from .write import bytes_of, write_folder

NAME = "peft"
PREFIX = "base_model.model."
TOLERANCE = 1e-5  # of the largest value: the products are the same, but summed in another order
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

    base: the model that the adapter was trained on, None for the one that it names. The result names the same. dtype:
    None keeps each tensor's. is_verified: whether to compare the result over the base with the source over it before it
    takes its name. is_overwriting: see `OutputFolder`. Raises CheckpointError, with the destination as it was, for
    changes that peft cannot hold.
    """
    start = time.monotonic()
    source = open_source(source_path, base)
    if source.layout.kind != "adapter":
        raise CheckpointError(
            f"{source_path} is a {source.layout.kind} in layout {source.name}, not a LoRA folder, and layout {NAME} is "
            f"for adapters only: convert it with `paddlemix convert {shlex.quote(str(source_path))} OUT --to hf`"
        )
    _check_base(source, source_path)
    output = OutputFolder(Path(destination), "convert", is_overwriting, layout=NAME).checked(source.folders)
    modules = collect(source)
    tensors = {f"{PREFIX}{name}": tensor for name, tensor in modules.tensors.items()}
    tensors = {name: cast(tensor, dtype) for name, tensor in tensors.items()} if dtype else tensors
    part = Part("", SAFETENSORS, "adapter_model", tensors, {CONFIG: _config_json(source, modules)})
    report = Report(str(source_path), str(output.folder), source.name, NAME, dropped=source.left_out())
    report.notes += [*modules.notes, *_notes(source)]
    report.mapped = [Mapped.of(name, (), tensor) for name, tensor in tensors.items()]
    report.num_bytes = bytes_of([part])

    def finish(folder: Path) -> None:
        report.notes += _compare(source, folder) if is_verified else []

    size, title = max(report.num_bytes, 1), "convert" if has_progress else None
    report.files = write_folder(output, [part], max_shard_size=size, finish=finish, title=title)
    report.seconds = time.monotonic() - start
    return report


def _check_base(source: Source, path: str | Path) -> None:
    """Raise CheckpointError, with what can be done, for an adapter whose base layout hf cannot hold."""
    try:
        hf_json.check_holdable(source.config)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} cannot become an adapter for peft, which loads it over its base in layout hf, and {error}. "
            f"Convert it merged with its base: {convert_commands(source)}"
        ) from error


def _config_json(source: Source, modules: Modules) -> dict[str, Any]:
    """Return adapter_config.json: the most common rank and alpha, and patterns for layers with other ones.

    A layer is named by the end of its name, which is the same in all versions of transformers.
    """
    ranks = {name: one.rank for name, one in modules.layers.items()}
    alphas = {name: _rounded(one.scaling * one.rank) for name, one in modules.layers.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "auto_mapping": None,
        BASE_KEY: str(source.base.path.resolve()),
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
    """Return a whole number if alpha is close to one: rank * (alpha / rank) need not be exact."""
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 * alpha else alpha


def _pattern(values: Mapping[str, Any], common: Any) -> dict[str, Any]:
    return {re.escape(name): value for name, value in values.items() if value != common}


def _notes(source: Source) -> list[str]:
    """Return notes for the user on how to get the same answers with peft."""
    base, notes = source.base, []
    if not base.layout.loads_in_transformers:
        notes.append(
            f"peft loads the adapter over a llava-hf folder, and the base {base.folder} is not one: write one with "
            f"`paddlemix convert BASE OUT --to hf`, and set its name in {CONFIG} ({BASE_KEY})"
        )
    before, after = flat(base.config), flat(source.config)
    for key in sorted(set(before) | set(after)):
        if before.get(key) != after.get(key) and key not in KEPT_BY_BASE:
            values = f"{key} {after.get(key)!r}, the base says {before.get(key)!r}"
            notes.append(f"the adapter was trained with {values}: set it there")
    if source.rounding:
        notes.append(
            f"it was trained over weights rounded to {source.rounding}, over others its answers are slightly different"
        )
    return notes


def _compare(source: Source, folder: Path) -> list[str]:
    """Compare the tensors of both adapters over their base. Raises CheckpointError for a difference."""
    both = source, open_source(folder, source.base.path)
    expected, found = (dataclasses.replace(one, merge_dtype="float32").tensors for one in both)
    for name in sorted(set(expected) | set(found)):
        one, other = expected.get(name), found.get(name)
        if one is None or other is None or tuple(one.shape) != tuple(other.shape):
            raise CheckpointError(f"verification failed: {name} is on one side only, or of another shape")
        before, after = as_float32(one), as_float32(other)
        bound = TOLERANCE * max(float(np.abs(before).max(initial=0.0)), 1e-6)
        if not np.abs(before - after).max(initial=0.0) <= bound:  # a NaN is a failure too
            raise CheckpointError(f"verification failed: {name} differs between the adapter and its source")
    return [f"verified: all {len(expected)} tensors, merged, are the source's to {TOLERANCE:g} of their largest value"]

"""Inspecting what was trained apart from its base: LoRA folders, projectors and single weight files."""

from __future__ import annotations

import re
from pathlib import Path

from ..tensor_files.stored import StoredTensor, preview, read_json
from ..tensor_files.transforms import transposed
from . import lora, peft_adapter
from .adapters import Oriented
from .inspection_facts import Inspection, count, describe_image, describe_text
from .layouts.shapes import check_complete
from .side_files import KINDS, base_folder
from .source import our_tensors, read_source, template_choice
from .weight_scan import Scan, scan_file, scan_folder

FACTOR = re.compile(r"(?P<layer>.+?)\.lora_(embedding_)?(?P<side>[AB])\b.*")
BESIDE_FACTORS = re.compile(r".+\.lora_(magnitude_vector|velora_embed|B(\.\w+)?\.bias)\b.*")
CONFIGS = {"lora": lora.CONFIG, "peft": peft_adapter.CONFIG}


def inspect_trained(path: Path, kind: str, base, found: Inspection) -> None:
    """Tell what was trained, how, and on which base. kind: of side_files.KINDS."""
    scan = scan_file(path) if kind == "file" else scan_folder(path)
    found.kind = "adapter" if kind in CONFIGS else "projector" if kind == "trained" else "file"
    found.format = KINDS[kind]
    found.files, found.notes = scan.files, scan.notes
    found.problems += scan.problems
    count(found, scan.tensors, {})
    if kind in CONFIGS:
        _describe_factors(path, kind, scan, found)
    else:
        found.trained = {"whole": sorted(name for _, name in scan.tensors)}
    if kind != "file":
        _describe_base(path, kind, base, found)


def _describe_factors(path: Path, kind: str, scan: Scan, found: Inspection) -> None:
    sides: dict[str, set[str]] = {}
    for _, name in scan.tensors:
        match = FACTOR.fullmatch(name)
        if match:
            sides.setdefault(match["layer"], set()).add(match["side"])
    values: dict = {}
    with found.collecting():
        values = read_json(path / CONFIGS[kind])
    found.trained = {
        "rank": values.get("r"),
        "alpha": values.get("lora_alpha"),
        "dropout": values.get("lora_dropout"),
        "num_layers": len(sides),
        "targets": sorted({layer.rpartition(".")[2] for layer in sides}),
        "whole": sorted(name for _, name in scan.tensors if not (FACTOR.fullmatch(name) or BESIDE_FACTORS.match(name))),
    }
    half = sorted(layer for layer, both in sides.items() if len(both) == 1)
    if half:
        found.problems.append(f"only one of lora_A and lora_B is there for {preview(half, 6)}")
    if not sides and not scan.problems:
        found.problems.append("it holds no lora_A and lora_B at all")
    with found.collecting():
        if kind == "lora":
            found.trained["scaling"] = lora.scaling_of(path)
            if lora.quantization_of(path):
                found.trained["quantization"] = lora.quantization_of(path)
        elif not scan.problems and sides and not half:
            factors = peft_adapter.read_adapter(path).factors.values()
            found.trained["scaling"] = max(one.scaling for one in factors)


def _describe_base(path: Path, kind: str, base, found: Inspection) -> None:
    """Name the base, and tell how it sees pictures and text where it is on this machine."""
    found.trained["base"] = None if base is None else str(base)
    with found.collecting():
        found.trained["base"] = str(base or base_folder(path, kind))
        layout, config = read_source(path, base)
        found.image = describe_image(config.image)
        describe_text(path, Path(found.trained["base"]), config, found, template_choice(path, layout, config))
        check_complete(path, config, _as_ours(our_tensors(path, layout, config)))
        if layout.base.config.language.tie_word_embeddings and not config.language.tie_word_embeddings:
            found.notes.append("it parts the output layer from the embeddings, which the base ties")
        unused = layout.left_out(config)
        if unused:
            found.notes.append(f"{len(unused)} tensors change nothing here and are left out: {preview(unused, 3)}")


def _as_ours(tensors: dict[str, Oriented]) -> dict[str, StoredTensor]:
    return {name: transposed(tensor) if is_turned else tensor for name, (tensor, is_turned) in tensors.items()}

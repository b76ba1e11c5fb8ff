"""One file a layout: how to recognise it, read its config, open its tensors and translate their names."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ..files import CheckpointError, read_json
from . import hf, paddle, paddlemix

LAYOUTS: dict[str, ModuleType] = {"paddle": paddle, "hf": hf, "paddlemix": paddlemix}


def detect(folder: Path) -> tuple[ModuleType, dict]:
    """Return the layout of a model folder and its parsed config.json.

    What counts is what config.json says under exact keys and which weight files lie beside it, never the folder's
    name. Raises CheckpointError for a folder without config.json or of an unknown kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"model folder {folder} does not exist (looked for {folder.resolve()}): give the path of a downloaded model"
        )
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json, so it is not a model folder")
    raw = read_json(folder / "config.json")
    for layout in LAYOUTS.values():
        if layout.matches(folder, raw):
            return layout, raw
    raise CheckpointError(
        f"{folder} is in no known layout: config.json has model_type {raw.get('model_type')!r} and architectures "
        f"{raw.get('architectures')!r}. Read are folders of paddlemix, llava-hf (LlavaForConditionalGeneration, "
        "LlavaNextForConditionalGeneration) and PaddleMIX (model_state.pdparams or Paddle's safetensors)"
    )

"""One file a layout: how to recognise it, read its config, open its tensors, translate their names, and write it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ...tensor_files.stored import CheckpointError
from . import hf, official, paddle, paddlemix, xtuner
from .config_keys import read_config_json

LAYOUTS: dict[str, ModuleType] = {
    "paddle": paddle,
    "hf": hf,
    "paddlemix": paddlemix,
    "official": official,
    "xtuner": xtuner,
}
KNOWN = """read are
  paddle: config.json with paddlemix_format
  paddlemix: LlavaLlamaForCausalLM with model_state.pdparams, or with safetensors that PaddleNLP wrote
  hf: LlavaForConditionalGeneration or LlavaNextForConditionalGeneration of transformers
  official: LlavaLlama-, LlavaMistral-, LlavaQwen-, LlavaMpt- or LlavaGemmaForCausalLM with torch's *.bin or
    *.safetensors (liuhaotian/llava-*)
  xtuner: a folder with projector/ in it, and llm/, llm_adapter/, visual_encoder/ or visual_encoder_adapter/
  and with their base: mm_projector.bin, non_lora_trainables.bin, adapter_config.json (peft), lora_config.json"""
MOST_NAMES = 12


def detect(folder: Path) -> tuple[ModuleType, dict]:
    """Return the layout of a model folder and its parsed config.json.

    What counts is what config.json says under exact keys and which files lie beside it, never the folder's name.
    Raises CheckpointError for a folder of an unknown kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"model folder {folder} does not exist (looked for {folder.resolve()}): give the path of a downloaded model"
        )
    has_config = (folder / "config.json").is_file()
    raw = read_config_json(folder) if has_config else {}
    for layout in LAYOUTS.values():
        if layout.matches(folder, raw):
            return layout, raw
    if has_config:
        found = f"config.json has model_type {raw.get('model_type')!r} and architectures {raw.get('architectures')!r}"
        raise CheckpointError(f"{folder} is in no known layout: {found}; it holds {_listed(folder)}; {KNOWN}")
    raise CheckpointError(
        f"{folder} has no config.json, so it is not a model folder; it holds {_listed(folder)}; {KNOWN}"
    )


def _listed(folder: Path) -> str:
    """Return the names in a folder, folders with a slash."""
    names = sorted(place.name + "/" * place.is_dir() for place in folder.iterdir())
    rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) or "nothing") + rest

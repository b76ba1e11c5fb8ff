"""xtuner's LLaVA folders: language model, vision tower and projector apart, each whole or as a LoRA adapter.

Only what was trained is there: the language model in the folder itself, in llm/ or as llm_adapter/, the tower in
visual_encoder/ or as visual_encoder_adapter/, and always projector/. What is missing is the model that the adapter
names, or else the one that xtuner_config.py does.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from ...conversation.tokenizer import Tokenizer
from ...conversation.tokenizer_files import VOCABULARIES
from ...hub.places import fetch_folder, find_folder
from ...image.spec import ImageSpec
from ...models.config import LlavaConfig, VisionConfig
from ...models.language.families import get_family
from ...models.projector_type import projector_blocks
from ...models.vision.families import KNOWN_TOWERS, get_tower_family
from ...tensor_files.stored import CheckpointError, StoredTensor, read_json
from .. import peft_adapter
from ..part_adapter import tied_names, with_adapter
from . import torch_tokenizer
from .components import decoder_rules, has_torch_weights, is_unused_by_llava, open_torch_weights, tower_rules
from .config_keys import read_projector_json, stored_dtype
from .decoder import check_features_scaled, class_json, flat_json, generation_json, read_decoder, read_eos, template_of
from .names import decoder_name, renamed_once, tower_name
from .part import OWN_KEY, Part, own_json, read_own_json, renamed
from .rules import KeyTable, linear_rules
from .tower import is_tower, open_tower, read_pixels, read_tower, tower_part

NAME = "xtuner"
PROJECTOR, TOWER, LANGUAGE = "projector", "visual_encoder", "llm"
RECIPE = "xtuner_config.py"
DROPPED = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|embeddings\.position_ids)")
PROJECTOR_TYPE = re.compile(r"linear|mlp\d+x_gelu")


def matches(folder: Path, raw: dict) -> bool:
    """A folder whose projector/config.json is of xtuner's type."""
    path = folder / PROJECTOR / "config.json"
    return path.is_file() and read_json(path).get("model_type") == "projector"


def read_config(folder: Path, raw: dict, base: Path | None = None) -> LlavaConfig:
    """Build our config from those of the three parts.

    base: the language model, for a folder without a whole one. Raises CheckpointError, also for a part that cannot be
    found.
    """
    home = language_folder(folder, base)
    language, llm = read_decoder(home)
    projector = read_projector_json(folder / PROJECTOR)
    own = projector.get(OWN_KEY) or {}
    width = projector.get("llm_hidden_size", language.hidden_size)
    if width != language.hidden_size:
        raise CheckpointError(
            f"{folder / PROJECTOR} gives features {width} wide, but {home} takes {language.hidden_size}"
        )
    vision, pixels = _read_tower(folder, own.get("select_layer", _recipe_value(folder, "visual_select_layer")))
    if OWN_KEY in projector:
        vision = dataclasses.replace(vision, name=read_own_json(projector)["vision_tower"])
    mode = own.get("image_aspect_ratio", "pad")  # what xtuner does, whatever the model
    image = ImageSpec(side=vision.image_size, patch_size=vision.patch_size, mode=mode, **pixels)
    return LlavaConfig(
        language=language,
        vision=vision,
        projector_type=_projector_type(folder, projector, vision),
        image=image,
        template=template_of(read_own_json(projector), language, tokenizer_folder(folder, base)).name,
        dtype=stored_dtype(home, llm),
        eos_token_ids=read_eos(home, llm, language),
    )


@dataclass(frozen=True)
class Over:
    """This layout with the language model that a user gives (base), and the dtype of merged matrices."""

    base: Path | None = None
    merge_dtype: str | None = None
    NAME = NAME

    def read_config(self, folder: Path, raw: dict) -> LlavaConfig:
        return read_config(folder, raw, self.base)

    def open_tensors(self, folder: Path) -> dict[str, StoredTensor]:
        return open_tensors(folder, self.base, self.merge_dtype)

    def table(self, config: LlavaConfig) -> KeyTable:
        return table(config)

    def canonical(self, name: str) -> str:
        return name

    def is_dropped(self, name: str, config: LlavaConfig) -> bool:
        return is_dropped(name, config)


def tokenizer_folder(folder: Path, base: Path | None = None) -> Path:
    """Return the folder that has the tokenizer: this one, else the language model's."""
    has_own = any((folder / name).is_file() for name in VOCABULARIES)
    return folder if has_own else language_folder(folder, base)


def language_folder(folder: Path, base: Path | None = None) -> Path:
    """Return where the language model lies. Raises CheckpointError."""
    adapter = folder / "llm_adapter"
    whole = [place for place in (folder, folder / LANGUAGE) if has_torch_weights(place)]
    if len(whole) + adapter.is_dir() > 1:
        raise CheckpointError(
            f"{folder} holds more than one of a language model, llm/ and llm_adapter/: remove all but one"
        )
    if whole:
        if base is not None:
            raise CheckpointError(f"{folder} holds a whole language model, so that no base ({base}) is needed")
        return whole[0]
    if base is None:
        named = peft_adapter.base_name(adapter) if peft_adapter.is_adapter(adapter) else None
        named = named or _recipe_value(folder, "llm_name_or_path")
        base = _fetch(folder, named, "language model", "give it with --model-base or base=")
    if not (base / "config.json").is_file() or not has_torch_weights(base):
        raise CheckpointError(f"{folder} needs a language model, but {base} has no config.json and weights of one")
    return base


def _tower_name(folder: Path) -> str | None:
    adapter = folder / f"{TOWER}_adapter"
    named = peft_adapter.base_name(adapter) if peft_adapter.is_adapter(adapter) else None
    return named or _recipe_value(folder, "visual_encoder_name_or_path")


def _tower_folder(folder: Path) -> Path:
    if (folder / TOWER).is_dir():
        if (folder / f"{TOWER}_adapter").is_dir():
            raise CheckpointError(f"{folder} holds both {TOWER}/ and {TOWER}_adapter/: remove one")
        place = folder / TOWER
    else:
        place = _fetch(folder, _tower_name(folder), "vision tower", f"put the tower's folder there as {TOWER}/")
    if not is_tower(place):
        raise CheckpointError(f"{folder} needs a vision tower, but {place} has no config.json and weights of one")
    return place


def _fetch(folder: Path, name: str | None, part: str, advice: str) -> Path:
    if not name:
        raise CheckpointError(f"{folder} has no {part} and neither an adapter nor {RECIPE} names one: {advice}")
    return fetch_folder(name, folder, what=f"has no {part} of its own and needs", advice=advice)


def _read_tower(folder: Path, select_layer: int | None) -> tuple[VisionConfig, dict]:
    """Return the tower's config and mean and std of its pictures; a name that is known needs no folder."""
    chosen = {"select_layer": -2 if select_layer is None else select_layer, "name": _tower_name(folder) or ""}
    if not (folder / TOWER).is_dir() and chosen["name"] in KNOWN_TOWERS and not find_folder(chosen["name"], folder):
        vision = VisionConfig(**KNOWN_TOWERS[chosen["name"]], **chosen)
        return vision, get_tower_family(vision.family).pixels
    place = _tower_folder(folder)
    vision = read_tower(place, **chosen)
    named = find_folder(chosen["name"], folder) if chosen["name"] else None  # whose processor xtuner takes in any case
    return vision, read_pixels(vision, place, named)


def _projector_type(folder: Path, values: dict, vision: VisionConfig) -> str:
    depth, width = values.get("depth", 2), values.get("visual_hidden_size", 4096)
    if values.get("hidden_act", "gelu") != "gelu" or not values.get("bias", True):
        raise CheckpointError(f"{folder / PROJECTOR}: a projector without bias or with another activation than gelu")
    if width != vision.hidden_size:
        raise CheckpointError(
            f"{folder / PROJECTOR} takes features {width} wide, but the tower gives {vision.hidden_size}: it is "
            "another, or its tokens are merged (token_merge_ratio), which is not supported"
        )
    stated = values[OWN_KEY].get("projector_type") if isinstance(values.get(OWN_KEY), dict) else None
    return stated or ("linear" if depth == 1 else f"mlp{depth}x_gelu")


def _recipe_value(folder: Path, name: str):
    """Return a constant of xtuner_config.py, assigned or passed under a name; None if it is not there. Runs nothing."""
    path = folder / RECIPE
    if not path.is_file():
        return None
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path} is not valid Python: {error}") from None
    for node in ast.walk(tree):
        is_assigned = isinstance(node, ast.Assign) and any(ast.unparse(target) == name for target in node.targets)
        if is_assigned or (isinstance(node, ast.keyword) and node.arg == name):
            try:
                return ast.literal_eval(node.value)
            except ValueError:  # not a constant
                continue
    return None


def open_tensors(folder: Path, base: Path | None = None, merge_dtype: str | None = None) -> dict[str, StoredTensor]:
    """Map the weights of the three parts under the names of xtuner's model, adapters merged.

    merge_dtype: of the merged matrices; None keeps the base's.
    """
    home = language_folder(folder, base)
    llm = renamed_once(home, open_torch_weights(home), decoder_name)
    tied = tied_names(read_decoder(home)[0])
    tower = open_tower(_tower_folder(folder))
    parts = {
        LANGUAGE: with_adapter(llm, folder / "llm_adapter", merge_dtype, rename=decoder_name, tied=tied),
        TOWER: with_adapter(tower, folder / f"{TOWER}_adapter", merge_dtype, rename=tower_name),
        PROJECTOR: open_torch_weights(folder / PROJECTOR),
    }
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def table(config: LlavaConfig) -> KeyTable:
    body = get_family(config.language.family).weights.body
    rules = decoder_rules(config.language, f"{LANGUAGE}.{body}.", f"{LANGUAGE}.", is_torch=True)
    rules += tower_rules(config.vision, f"{TOWER}.vision_model.", is_torch=True)
    rules += linear_rules("projector.{n}", f"{PROJECTOR}.model.{{n}}", has_bias=True, is_transposed=True)
    return KeyTable(rules)


def canonical(name: str) -> str:
    return name


def is_dropped(name: str, config: LlavaConfig) -> bool:
    """Tell what is left out on purpose: computed buffers, the copy of tied embeddings, and a tower's unused head."""
    head = f"{LANGUAGE}.{get_family(config.language.family).weights.of('lm_head')}.weight"
    is_tied_head = config.language.tie_word_embeddings and name == head
    is_unused = is_unused_by_llava(config.vision, f"{TOWER}.vision_model.", name)
    return is_tied_head or is_unused or DROPPED.fullmatch(name) is not None


def parts(config: LlavaConfig, tensors: dict[str, StoredTensor]) -> list[Part]:
    """Return the language model's folder with visual_encoder/ and projector/ in it.

    Raises CheckpointError for what xtuner's LLaVA does not have.
    """
    _check_holdable(config)
    check_features_scaled(config, NAME)
    split: dict[str, dict[str, StoredTensor]] = {LANGUAGE: {}, TOWER: {}, PROJECTOR: {}}
    for name, tensor in renamed(table(config), tensors, NAME).items():
        part, _, rest = name.partition(".")
        split[part][rest] = tensor
    llm = {**class_json(config), **flat_json(config)}
    json_files = {"config.json": llm, "generation_config.json": generation_json(config)}
    return [
        Part("", "safetensors", "model", split[LANGUAGE], json_files, notes=_notes(config)),
        tower_part(TOWER, split[TOWER], config),
        Part(PROJECTOR, "safetensors", "model", split[PROJECTOR], {"config.json": _projector_json(config)}),
    ]


def _notes(config: LlavaConfig) -> tuple[str, ...]:
    """Return what the language model's folder needs beside what is written."""
    family = get_family(config.language.family)
    if family.remote_code is None:
        return ()
    files = " and ".join(f"{module.partition('.')[0]}.py" for module in family.remote_code)
    return (f"transformers and xtuner run {family.architecture} with its own code: copy {files} from its folder",)


def _check_holdable(config: LlavaConfig) -> None:
    if config.image.mode == "anyres" or config.has_image_newline:
        raise CheckpointError(f"layout {NAME} cannot hold LLaVA 1.6: xtuner's LLaVA has no tiles and no image_newline")
    if config.vision.select_feature != "patch":
        raise CheckpointError(
            f"layout {NAME} cannot hold select_feature {config.vision.select_feature!r}: it has 'patch'"
        )
    if not PROJECTOR_TYPE.fullmatch(config.projector_type):
        raise CheckpointError(
            f"layout {NAME} cannot hold a projector {config.projector_type!r}: it has linear and MLPs"
        )


def _projector_json(config: LlavaConfig) -> dict:
    own = {
        "select_layer": config.vision.select_layer,
        "image_aspect_ratio": config.image.mode,
        "projector_type": config.projector_type,
    }
    return {
        "architectures": ["ProjectorModel"],
        "model_type": "projector",
        "bias": True,
        "depth": projector_blocks(config.projector_type)[0],
        "hidden_act": "gelu",
        "llm_hidden_size": config.language.hidden_size,
        "torch_dtype": config.dtype,
        "visual_hidden_size": config.vision.hidden_size,
        OWN_KEY: own_json(config) | own,
    }


def write_tokenizer(tokenizer: Tokenizer, config: LlavaConfig, folder: Path) -> None:
    torch_tokenizer.write_tokenizer(tokenizer, config.language.vocab_size, folder, config.template)

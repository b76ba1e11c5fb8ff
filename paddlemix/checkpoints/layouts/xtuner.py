"""xtuner's LLaVA folders: language model, vision tower and projector in separate folders, whole or as LoRA adapters.

Only trained parts are saved: the language model in the folder itself, in llm/ or as llm_adapter/, the tower in
visual_encoder/ or as visual_encoder_adapter/, and always projector/. A missing part is the model that the adapter
names, or else the one in xtuner_config.py.
"""

from __future__ import annotations

import ast
import dataclasses
import re

from ...conversation.tokenizer_files import VOCABULARIES
from ...hub.resolve import fetch_folder, find_folder
from ...image.spec import ImageSpec
from ...models.config import LlavaConfig, VisionConfig
from ...models.language.families import get_family
from ...models.projector_type import projector_blocks
from ...models.vision.families import KNOWN_TOWERS, get_tower_family
from ...tensor_files.shards import SAFETENSORS
from ...tensor_files.stored import CheckpointError, StoredTensor
from .components import decoder_rules, has_torch_weights, is_not_read, open_torch_weights, tower_rules
from .config_keys import read_projector_json, stored_dtype
from .decoder import check_features_scaled, class_json, flat_json, generation_json, read_decoder, read_eos, template_of
from .folder import Folder
from .layout import ALL_ROWS, Layout, Options, Source, Vocabulary
from .names import decoder_name, renamed_once, tower_name
from .output_part import OWN_KEY, Part, own_json, read_own_json, renamed
from .peft import base_name, tied_names, with_adapter
from .rules import KeyTable, linear_rules
from .torch_tokenizer import write_model_tokenizer
from .tower import is_tower, open_tower, read_pixels, read_tower, tower_part

NAME = "xtuner"
PROJECTOR, TOWER, LANGUAGE = "projector", "visual_encoder", "llm"
RECIPE = "xtuner_config.py"
PROJECTOR_TYPE = re.compile(r"linear|mlp\d+x_gelu")


def matches(folder: Folder) -> bool:
    """Return whether projector/config.json has xtuner's model_type."""
    name = f"{PROJECTOR}/config.json"
    return folder.has_any(name) and folder.json(name).get("model_type") == "projector"


def read(folder: Folder, options: Options) -> Source:
    """Read the three parts. The base of the options is the language model, for a folder without a whole one."""
    llm = _language_folder(folder, options.base)
    tokenizer = folder if folder.has_any(*VOCABULARIES) else llm
    projector = read_projector_json(folder.related(folder / PROJECTOR))
    config = _read_config(folder, llm, projector, tokenizer)
    choice = template_of(read_own_json(projector), config.language, tokenizer)
    return Source(folder, LAYOUT, config, lambda dtype, _: open_tensors(folder, llm, dtype), tokenizer, choice)


def _read_config(folder: Folder, llm: Folder, projector: dict, tokenizer: Folder) -> LlavaConfig:
    """Build our config from those of the three parts. Raises CheckpointError, also for a part that is not found."""
    language, stated = read_decoder(llm)
    own = projector.get(OWN_KEY) or {}
    width = projector.get("llm_hidden_size", language.hidden_size)
    if width != language.hidden_size:
        raise CheckpointError(
            f"{folder / PROJECTOR} makes features {width} wide, but {llm} needs {language.hidden_size}"
        )
    vision, pixels = _read_tower(folder, own.get("select_layer", _recipe_value(folder, "visual_select_layer")))
    if OWN_KEY in projector:
        vision = dataclasses.replace(vision, name=read_own_json(projector)["vision_tower"])
    mode = own.get("image_aspect_ratio", "pad")  # xtuner always pads
    image = ImageSpec(side=vision.image_size, patch_size=vision.patch_size, mode=mode, **pixels)
    return LlavaConfig(
        language=language,
        vision=vision,
        projector_type=_projector_type(folder, projector, vision),
        image=image,
        template=template_of(read_own_json(projector), language, tokenizer).name,
        dtype=stored_dtype(llm, stated),
        eos_token_ids=read_eos(llm, stated, language),
    )


def _language_folder(folder: Folder, base: Folder | None) -> Folder:
    """Return the folder of the language model. Raises CheckpointError."""
    adapter = folder.related(folder / "llm_adapter")
    whole = [place for place in (folder, folder.related(folder / LANGUAGE)) if has_torch_weights(place)]
    if len(whole) + adapter.path.is_dir() > 1:
        raise CheckpointError(
            f"{folder} holds more than one of a language model, llm/ and llm_adapter/: remove all but one"
        )
    if whole:
        if base is not None:
            raise CheckpointError(f"{folder} holds a whole language model, so that no base ({base}) is needed")
        return whole[0]
    if base is None:
        named = base_name(adapter) or _recipe_value(folder, "llm_name_or_path")
        base = _fetch(folder, named, "language model", "give it with --model-base or base=")
    if not base.has_any("config.json") or not has_torch_weights(base):
        raise CheckpointError(f"{folder} needs a language model, but {base} has no config.json and weights of one")
    return base


def _tower_name(folder: Folder) -> str | None:
    adapter = folder.related(folder / f"{TOWER}_adapter")
    return base_name(adapter) or _recipe_value(folder, "visual_encoder_name_or_path")


def _tower_folder(folder: Folder) -> Folder:
    """Return the folder of the vision tower. Raises CheckpointError."""
    if (folder / TOWER).is_dir():
        if (folder / f"{TOWER}_adapter").is_dir():
            raise CheckpointError(f"{folder} holds both {TOWER}/ and {TOWER}_adapter/: remove one")
        place = folder.related(folder / TOWER)
    else:
        place = _fetch(folder, _tower_name(folder), "vision tower", f"put the tower's folder there as {TOWER}/")
    if not is_tower(place):
        raise CheckpointError(f"{folder} needs a vision tower, but {place} has no config.json and weights of one")
    return place


def _fetch(folder: Folder, name: str | None, part: str, advice: str) -> Folder:
    if not name:
        raise CheckpointError(f"{folder} has no {part} and neither an adapter nor {RECIPE} names one: {advice}")
    return folder.related(fetch_folder(name, folder.path, what=f"has no {part} and needs", advice=advice))


def _read_tower(folder: Folder, select_layer: int | None) -> tuple[VisionConfig, dict]:
    """Return the tower's config, and the pixels of its images as fields of ImageSpec. A known name needs no folder."""
    chosen = {"select_layer": -2 if select_layer is None else select_layer, "name": _tower_name(folder) or ""}
    if (
        not (folder / TOWER).is_dir()
        and chosen["name"] in KNOWN_TOWERS
        and not find_folder(chosen["name"], folder.path)
    ):
        vision = VisionConfig(**KNOWN_TOWERS[chosen["name"]], **chosen)
        return vision, get_tower_family(vision.family).pixels
    place = _tower_folder(folder)
    vision = read_tower(place, **chosen)
    named = find_folder(chosen["name"], folder.path) if chosen["name"] else None  # xtuner always uses its processor
    return vision, read_pixels(vision, place, named and folder.related(named))


def _projector_type(folder: Folder, values: dict, vision: VisionConfig) -> str:
    depth, width = values.get("depth", 2), values.get("visual_hidden_size", 4096)
    if values.get("hidden_act", "gelu") != "gelu" or not values.get("bias", True):
        raise CheckpointError(f"{folder / PROJECTOR}: a projector without bias or with another activation than gelu")
    if width != vision.hidden_size:
        raise CheckpointError(
            f"{folder / PROJECTOR} needs features {width} wide, but the tower makes {vision.hidden_size}: it is "
            "another tower, or its tokens are merged (token_merge_ratio), which is not supported"
        )
    stated = values[OWN_KEY].get("projector_type") if isinstance(values.get(OWN_KEY), dict) else None
    return stated or ("linear" if depth == 1 else f"mlp{depth}x_gelu")


def _recipe_value(folder: Folder, name: str):
    """Return a constant of xtuner_config.py that is assigned or passed under a name, None without one. Runs nothing."""
    if not folder.has_any(RECIPE):
        return None
    try:
        tree = folder.cached("recipe", lambda: ast.parse((folder / RECIPE).read_text(encoding="utf-8")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{folder / RECIPE} is not valid Python: {error}") from None
    for node in ast.walk(tree):
        is_assigned = isinstance(node, ast.Assign) and any(ast.unparse(target) == name for target in node.targets)
        if is_assigned or (isinstance(node, ast.keyword) and node.arg == name):
            try:
                return ast.literal_eval(node.value)
            except ValueError:  # not a constant
                continue
    return None


def open_tensors(folder: Folder, llm: Folder, merge_dtype: str | None) -> dict[str, StoredTensor]:
    """Map the weights of the three parts under the names of xtuner's model, adapters merged.

    llm: the folder of the language model. merge_dtype: of the merged matrices, None for the base's.
    """
    adapters = {part: folder.related(folder / f"{part}_adapter") for part in (LANGUAGE, TOWER)}
    language = renamed_once(llm, open_torch_weights(llm), decoder_name)
    tied = tied_names(read_decoder(llm)[0])
    tower = open_tower(_tower_folder(folder))
    parts = {
        LANGUAGE: with_adapter(language, adapters[LANGUAGE], merge_dtype, rename=decoder_name, tied=tied),
        TOWER: with_adapter(tower, adapters[TOWER], merge_dtype, rename=tower_name),
        PROJECTOR: open_torch_weights(folder.related(folder / PROJECTOR)),
    }
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def table(config: LlavaConfig) -> KeyTable:
    body = get_family(config.language.family).weights.body
    rules = decoder_rules(config.language, f"{LANGUAGE}.{body}.", f"{LANGUAGE}.", is_torch=True)
    rules += tower_rules(config.vision, f"{TOWER}.vision_model.", is_torch=True)
    rules += linear_rules("projector.{n}", f"{PROJECTOR}.model.{{n}}", has_bias=True, is_transposed=True)
    return KeyTable(rules)


def name_in_part(part: str, name: str, config: LlavaConfig) -> str:
    return f"{part or LANGUAGE}.{tower_name(decoder_name(name))}"


def is_dropped(name: str, config: LlavaConfig) -> bool:
    """Return whether a tensor is dropped: a computed buffer, a copy of tied embeddings, or a tower's unused head."""
    head = f"{LANGUAGE}.{get_family(config.language.family).weights.of('lm_head')}.weight"
    return is_not_read(config, name, head=head, tower=f"{TOWER}.vision_model.")


def parts(config: LlavaConfig, tensors: dict[str, StoredTensor], vocabulary: Vocabulary = ALL_ROWS) -> list[Part]:
    """Return the language model's folder with visual_encoder/ and projector/ in it.

    Raises CheckpointError for options that xtuner's LLaVA does not have.
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
        Part("", SAFETENSORS, "model", split[LANGUAGE], json_files, notes=_notes(config)),
        tower_part(TOWER, split[TOWER], config),
        Part(PROJECTOR, SAFETENSORS, "model", split[PROJECTOR], {"config.json": _projector_json(config)}),
    ]


def _notes(config: LlavaConfig) -> tuple[str, ...]:
    """Return a note on files that the language model's folder needs and that are not written."""
    family = get_family(config.language.family)
    if family.remote_code is None:
        return ()
    files = " and ".join(f"{module.partition('.')[0]}.py" for module in family.remote_code)
    return (f"transformers and xtuner run {family.architecture} with its own code: copy {files} from its folder",)


def _check_holdable(config: LlavaConfig) -> None:
    if config.has_image_marks:
        raise CheckpointError(
            f"layout {NAME} cannot hold marks around an image (mm_use_im_start_end): xtuner's prompts have none; "
            "convert to official, paddlemix, hf or paddle"
        )
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


LAYOUT = Layout(
    name=NAME,
    title="xtuner",
    rule=f"a folder with {PROJECTOR}/ in it, and {LANGUAGE}/, {LANGUAGE}_adapter/, {TOWER}/ or {TOWER}_adapter/",
    matches=matches,
    read=read,
    takes_base=True,
    table=table,
    is_dropped=is_dropped,
    name_in_part=name_in_part,
    parts=parts,
    write_tokenizer=write_model_tokenizer,
)

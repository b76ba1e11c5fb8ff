"""What a checkpoint is, holds and lacks, told from its small files and the headers of its weights. Needs no paddle.

A folder that cannot be loaded gets a report too, with what is wrong in it. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..conversation.tokenizer import load_tokenizer
from ..conversation.tokenizer_files import VOCABULARIES
from ..hub import hub
from ..models.config import LlavaConfig
from ..models.language.families import FAMILIES, get_family
from ..models.vision.families import TOWER_FAMILIES, get_tower_family
from ..tensor_files.stored import CheckpointError, StoredTensor
from ..tensor_files.transforms import transposed
from .foreign_quantization import refuse_quantized
from .inspection_facts import Inspection, compare, count, describe_image, describe_text
from .inspection_trained import inspect_trained
from .layouts import detect, official, tower, xtuner
from .layouts.config_keys import read_config_json, suggested_sampling
from .layouts.decoder import read_eos
from .layouts.image_processor_file import unread_processor
from .layouts.names import decoder_name, tower_name
from .layouts.shapes import language_shapes, parameter_shapes, vision_shapes
from .part_folders import read_language_folder, read_tower_folder
from .side_files import kind_of
from .source import read_source, template_choice
from .translation import Translation, naming_of, translate
from .weight_scan import Scan, scan_folder

FORMATS = {
    "paddle": "paddle (this project's own)",
    "paddlemix": "paddlemix (PaddleMIX's)",
    "hf": "hf (llava-hf, of transformers)",
    "official": "official (of LLaVA's own code)",
    "xtuner": "xtuner",
}
# Folders that are a part of a LLaVA, by model_type of their config.json.
PARTS_ALONE = {family.name: f"a {family.title} language model" for family in FAMILIES.values()}
PARTS_ALONE |= {one.whole_model_type: f"a {one.title} model" for one in TOWER_FAMILIES.values()}
PARTS_ALONE |= {one.model_type: f"a {one.title} vision tower" for one in TOWER_FAMILIES.values()}


def inspect(path, base=None) -> Inspection:
    """Look at a model folder, a LoRA folder, side files or one weight file. Raises CheckpointError if there is none.

    base: the model that something was trained on, None for the one that it names.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist (looked for {path.absolute()})")
    found = Inspection(str(path))
    with hub.offline():
        kind = None
        with found.collecting():
            kind = kind_of(path)
        if kind is not None:
            inspect_trained(path, kind, base, found)
        elif path.is_dir():
            _inspect_model(path, base, found)
        else:
            raise CheckpointError(f"{path} is no weight file: expected *.safetensors, *.bin or *.pdparams, or a folder")
    return found


def _inspect_model(path: Path, base, found: Inspection) -> None:
    scan = scan_folder(path)
    found.files, found.notes = scan.files, [*found.notes, *scan.notes]
    found.problems += scan.problems
    raw: dict = {}
    with found.collecting():
        raw = read_config_json(path) if (path / "config.json").is_file() else {}
    found.architecture = ", ".join(map(str, raw.get("architectures") or ())) or str(raw.get("model_type") or "")
    if not scan.files and not scan.problems:
        found.problems.append("there are no weights (*.safetensors, *.bin or *.pdparams)")
    layout = config = None
    is_quantized = _is_quantized(path, found)
    if _is_part_alone(path, raw):
        _inspect_part(path, raw, scan, found)
        return
    with found.collecting():
        name = detect(path)[0].NAME
        found.format = FORMATS.get(name, name)
        layout, config = (None, None) if is_quantized else read_source(path, base)
    if config is None:
        count(found, scan.tensors, {})
    else:
        _describe(path, layout, config, scan, found)


def _is_quantized(path: Path, found: Inspection) -> bool:
    """Tell if a folder states that its weights are quantized, which is a problem that explains all others."""
    with found.collecting():
        refuse_quantized(path)
        return False
    return True


def _is_part_alone(path: Path, raw: Mapping) -> bool:
    """Tell if a folder holds a language model or a tower and nothing else of a LLaVA."""
    is_whole = (path / "projector").is_dir() or any(key.startswith("mm_") for key in raw)
    return raw.get("model_type") in PARTS_ALONE and not is_whole


def _inspect_part(path: Path, raw: Mapping, scan: Scan, found: Inspection) -> None:
    """Describe a language model or a tower alone."""
    found.kind, found.format = "part", f"{PARTS_ALONE[raw['model_type']]}, a part of a LLaVA"
    found.notes.append("`paddlemix compose` makes a LLaVA of a language model and a vision tower")
    count(found, scan.tensors, {})
    if not found.problems:
        with found.collecting():
            _check_part(path, raw, found)


def _check_part(path: Path, raw: Mapping, found: Inspection) -> None:
    """Hold the tensors of a language model or a tower alone against its configuration. Raises CheckpointError."""
    if tower.is_tower_type(raw["model_type"]):
        config, translation = read_tower_folder(path, -1, "patch")
        expected = vision_shapes(config)
        tower.read_pixels(config, path)
    else:
        config, _, translation = read_language_folder(path)
        expected = language_shapes(config)
        read_eos(path, raw, config)
        if any((path / name).is_file() for name in VOCABULARIES):
            load_tokenizer(path)
    compare(found, {name: tensor.shape for name, tensor in _reported(translation, found).items()}, expected, False)


def _describe(path: Path, layout, config: LlavaConfig, scan: Scan, found: Inspection) -> None:
    """Fill in what a configuration tells and hold the tensors against it."""
    language, vision = config.language, config.vision
    title, tower_title = get_family(language.family).title, get_tower_family(vision.family).title
    found.model = (
        f"{tower_title} {vision.num_hidden_layers} x {vision.hidden_size} ({vision.image_size} px, patches of "
        f"{vision.patch_size}) -> {config.projector_type} -> {title} {language.num_hidden_layers} x "
        f"{language.hidden_size} (vocabulary {language.vocab_size:,}, {language.max_position_embeddings:,} positions)"
    )
    expected = parameter_shapes(config)
    try:
        stored, is_told = layout.open_tensors(path), False
    except (ValueError, OSError) as error:
        stored, is_told = _as_opened(layout, config, scan), not scan.problems or not scan.tensors
        if not scan.problems:
            found.problems.append(str(error))
    tensors = _our_tensors(layout, config, stored, found)
    count(found, {("", name): tensor for name, tensor in tensors.items()}, expected)
    compare(found, {name: tensor.shape for name, tensor in tensors.items()}, expected, is_told)
    found.image = describe_image(config.image)
    choice = None
    with found.collecting():
        choice = template_choice(path, layout, config)
    describe_text(path, None, config, found, choice)
    with found.collecting():
        unread = unread_processor(path)
        found.notes += [unread] if unread else []
    suggested = ", ".join(f"{key} {value}" for key, value in suggested_sampling(path).items())
    if suggested:
        found.notes.append(f"generation_config.json suggests {suggested}: answers here go by what the caller asks for")
    for part in config.untrained:
        found.notes.append(f"the {part} is untrained: it holds random values, answers will make no sense")


def _as_opened(layout, config: LlavaConfig, scan: Scan) -> dict[str, StoredTensor]:
    """Return what could be read of a folder that the layout cannot open, under the names that it would give."""
    tensors = {}
    for (file, name), tensor in scan.tensors.items():
        folder = file.rpartition("/")[0]
        if layout.NAME == xtuner.NAME:
            tensors[f"{folder or xtuner.LANGUAGE}.{tower_name(decoder_name(name))}"] = tensor
        else:
            tensors[official.tower_prefix(config.language.family) + name if folder else name] = tensor
    return tensors


def _our_tensors(layout, config: LlavaConfig, stored: Mapping, found: Inspection) -> dict[str, StoredTensor]:
    """Return the tensors under our names in our orientation; those that nobody knows go to found.unknown."""
    return _reported(translate(naming_of(layout, config), stored), found)


def _reported(translation: Translation, found: Inspection) -> dict[str, StoredTensor]:
    """Return the tensors in our orientation, and report what is wrong with them."""
    found.problems += translation.problems
    found.unknown += translation.unknown
    return {
        name: transposed(tensor) if is_turned else tensor for name, (tensor, is_turned) in translation.tensors.items()
    }

"""What a checkpoint is, holds and lacks, told from its small files and the headers of its weights. Needs no paddle.

A folder that cannot be loaded gets a report too, with what is wrong in it. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..models.config import LlavaConfig
from ..models.language.families import FAMILIES, get_family
from ..models.vision.families import TOWER_FAMILIES, get_tower_family
from . import hub
from .files import CheckpointError, StoredTensor, read_json
from .fused import as_ours
from .inspection_facts import Inspection, compare, count, describe_image, describe_text
from .inspection_trained import inspect_trained
from .layouts import detect, official, xtuner
from .shapes import parameter_shapes
from .side_files import kind_of
from .source import read_source, template_choice
from .transforms import transposed
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
        raw = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    found.architecture = ", ".join(map(str, raw.get("architectures") or ())) or str(raw.get("model_type") or "")
    if not scan.files and not scan.problems:
        found.problems.append("there are no weights (*.safetensors, *.bin or *.pdparams)")
    layout = config = None
    if _is_part_alone(path, raw):
        found.kind, found.format = "part", f"{PARTS_ALONE[raw['model_type']]}, a part of a LLaVA"
        found.notes.append("`paddlemix compose` makes a LLaVA of a language model and a vision tower")
    else:
        with found.collecting():
            name = detect(path)[0].NAME
            found.format = FORMATS.get(name, name)
            layout, config = read_source(path, base)
    if config is None:
        count(found, scan.tensors, {})
    else:
        _describe(path, layout, config, scan, found)


def _is_part_alone(path: Path, raw: Mapping) -> bool:
    """Tell if a folder holds a language model or a tower and nothing else of a LLaVA."""
    is_whole = (path / "projector").is_dir() or any(key.startswith("mm_") for key in raw)
    return raw.get("model_type") in PARTS_ALONE and not is_whole


def _describe(path: Path, layout, config: LlavaConfig, scan: Scan, found: Inspection) -> None:
    """Fill in what a configuration tells and hold the tensors against it."""
    language, vision = config.language, config.vision
    title, tower = get_family(language.family).title, get_tower_family(vision.family).title
    found.model = (
        f"{tower} {vision.num_hidden_layers} x {vision.hidden_size} ({vision.image_size} px, patches of "
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
    for part in config.untrained:
        found.notes.append(f"the {part} is untrained: it holds random values, answers will make no sense")


def _as_opened(layout, config: LlavaConfig, scan: Scan) -> dict[str, StoredTensor]:
    """Return what could be read of a folder that the layout cannot open, under the names that it would give."""
    tensors = {}
    for (file, name), tensor in scan.tensors.items():
        folder = file.rpartition("/")[0]
        if layout.NAME == xtuner.NAME:
            tensors[f"{folder or xtuner.LANGUAGE}.{name}"] = tensor
        else:
            tensors[official.tower_prefix(config.language.family) + name if folder else name] = tensor
    return tensors


def _our_tensors(layout, config: LlavaConfig, stored: Mapping, found: Inspection) -> dict[str, StoredTensor]:
    """Return the tensors under our names in our orientation; those that nobody knows go to found.unknown."""
    table, ours = layout.table(config), {}
    for name, tensor in stored.items():
        name = layout.canonical(name)
        if layout.is_dropped(name, config):
            continue
        try:
            targets = as_ours(table, name, tensor)
        except CheckpointError as error:
            found.problems.append(str(error))
            continue
        if targets is None:
            found.unknown.append(name)
            continue
        ours |= {name: transposed(part) if is_turned else part for name, (part, is_turned) in targets.items()}
    return ours

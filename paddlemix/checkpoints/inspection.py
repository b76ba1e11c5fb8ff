"""What a checkpoint is, contains and lacks, from its small files and the headers of its weights. Needs no paddle.

A folder that cannot be loaded gets a report too, with its problems. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ..conversation.load_tokenizer import make_tokenizer
from ..hub.resolve import offline
from ..models.config import LlavaConfig
from ..models.language.families import FAMILIES, get_family
from ..models.vision.families import TOWER_FAMILIES, get_tower_family
from ..tensor_files.stored import CheckpointError, StoredTensor, preview
from ..terminal.near_paths import did_you_mean
from ..terminal.sizes import plural
from .inspection_facts import Inspection, compare, count, describe_image, describe_text
from .layouts import detect, find_layout, tower
from .layouts.config_keys import config_or_empty, suggested_sampling
from .layouts.decoder import read_eos, read_language_folder
from .layouts.folder import Folder
from .layouts.foreign_quantization import refuse_quantized
from .layouts.image_processor_file import unread_processor
from .layouts.layout import Layout
from .layouts.shapes import language_shapes, parameter_shapes, vision_shapes
from .layouts.tower import read_tower_folder
from .layouts.translation import Translation, naming_of, translate
from .source import Source, open_source
from .weight_scan import Scan, scan_file, scan_folder

# Folders with only a part of a LLaVA, by model_type of their config.json.
PARTS_ALONE = {family.name: f"a {family.title} language model" for family in FAMILIES.values()}
PARTS_ALONE |= {one.whole_model_type: f"a {one.title} model" for one in TOWER_FAMILIES.values()}
PARTS_ALONE |= {one.model_type: f"a {one.title} vision tower" for one in TOWER_FAMILIES.values()}
FACTOR = re.compile(r"(?P<layer>.+?)\.lora_(embedding_)?(?P<side>[AB])\b.*")
BESIDE_FACTORS = re.compile(r".+\.lora_(magnitude_vector|velora_embed|B(\.\w+)?\.bias)\b.*")


def inspect(path: str | Path, base: str | Path | None = None) -> Inspection:
    """Describe a model folder, a partial checkpoint or one weight file. Raises CheckpointError if there is none.

    base: see `open_source`.
    """
    folder = Folder.of(path)
    if not folder.path.exists():
        raise CheckpointError(
            f"{folder} does not exist (looked for {folder.path.absolute()}){did_you_mean(folder.path)}"
        )
    found = Inspection(str(folder))
    with offline():
        layout = None
        with found.collecting():
            layout = find_layout(folder)
        if layout is not None and layout.kind != "model":
            _inspect_partial(folder, layout, base, found)
        elif folder.path.is_dir():
            _inspect_model(folder, base, found)
        else:
            raise CheckpointError(
                f"{folder} is not a weight file: expected *.safetensors, *.bin or *.pdparams, or a folder"
            )
    return found


def _inspect_model(folder: Folder, base: str | Path | None, found: Inspection) -> None:
    scan = scan_folder(folder)
    found.files, found.notes = scan.files, [*found.notes, *scan.notes]
    found.problems += scan.problems
    raw: dict = {}
    with found.collecting():
        raw = config_or_empty(folder)
    found.architecture = ", ".join(map(str, raw.get("architectures") or ())) or str(raw.get("model_type") or "")
    if not scan.files and not scan.problems:
        found.problems.append("there are no weights (*.safetensors, *.bin or *.pdparams)")
    is_quantized = _is_quantized(folder, found)
    if _is_part_alone(folder, raw):
        _inspect_part(folder, raw, scan, found)
        return
    source = None
    with found.collecting():
        found.format = detect(folder).title
        source = None if is_quantized else open_source(folder, base)
    if source is None:
        count(found, scan.tensors, {})
    else:
        _describe(source, scan, found)


def _is_quantized(folder: Folder, found: Inspection) -> bool:
    """Return whether a folder states that its weights are quantized. This problem explains all others."""
    with found.collecting():
        refuse_quantized(folder)
        return False
    return True


def _is_part_alone(folder: Folder, raw: Mapping) -> bool:
    """Return whether a folder has a language model or a tower and nothing else of a LLaVA."""
    is_whole = (folder / "projector").is_dir() or any(key.startswith("mm_") for key in raw)
    return raw.get("model_type") in PARTS_ALONE and not is_whole


def _inspect_part(folder: Folder, raw: Mapping, scan: Scan, found: Inspection) -> None:
    """Describe a language model or a tower alone."""
    found.kind, found.format = "part", f"{PARTS_ALONE[raw['model_type']]}, a part of a LLaVA"
    found.notes.append("`paddlemix compose` makes a LLaVA of a language model and a vision tower")
    count(found, scan.tensors, {})
    if not found.problems:
        with found.collecting():
            _check_part(folder, raw, found)


def _check_part(folder: Folder, raw: Mapping, found: Inspection) -> None:
    """Compare the tensors of a language model or a tower alone with its configuration. Raises CheckpointError."""
    if tower.is_tower_type(raw["model_type"]):
        config, translation = read_tower_folder(folder, -1, "patch")
        expected = vision_shapes(config)
        tower.read_pixels(config, folder)
    else:
        config, _, translation = read_language_folder(folder)
        expected = language_shapes(config)
        read_eos(folder, raw, config)
        files = folder.tokenizer_files()
        if files is not None:
            make_tokenizer(files)  # raises if it cannot be used
    compare(found, _reported(translation, found), expected, False)


def _describe(source: Source, scan: Scan, found: Inspection) -> None:
    """Describe the configuration and compare the tensors with it."""
    config = source.config
    language, vision = config.language, config.vision
    title, tower_title = get_family(language.family).title, get_tower_family(vision.family).title
    found.model = (
        f"{tower_title} {vision.num_hidden_layers} x {vision.hidden_size} ({vision.image_size} px, patches of "
        f"{vision.patch_size}) -> {config.projector_type} -> {title} {language.num_hidden_layers} x "
        f"{language.hidden_size} (vocabulary {language.vocab_size:,}, {language.max_position_embeddings:,} positions)"
    )
    expected = parameter_shapes(config)
    try:
        translation, is_reported = source.translation, False
    except (ValueError, OSError) as error:
        stored, is_reported = _readable(source.layout, config, scan), not scan.problems or not scan.tensors
        translation = translate(naming_of(source.layout, config), stored)
        if not scan.problems:
            found.problems.append(str(error))
    tensors = _reported(translation, found)
    count(found, {("", name): tensor for name, tensor in tensors.items()}, expected)
    compare(found, tensors, expected, is_reported)
    found.image = describe_image(config.image)
    describe_text(source, found)
    with found.collecting():
        unread = unread_processor(source.folder)
        found.notes += [unread] if unread else []
    suggested = ", ".join(f"{key} {value}" for key, value in suggested_sampling(source.folder).items())
    if suggested:
        found.notes.append(f"generation_config.json suggests {suggested}: here the caller chooses how to sample")
    if config.untrained_text:
        found.notes.append(config.untrained_text)


def _readable(layout: Layout, config: LlavaConfig, scan: Scan) -> dict[str, StoredTensor]:
    """Return the tensors that can be read of a folder that the layout cannot open, by the names of the layout."""
    return {
        layout.name_in_part(file.rpartition("/")[0], name, config): tensor
        for (file, name), tensor in scan.tensors.items()
    }


def _reported(translation: Translation, found: Inspection) -> dict[str, StoredTensor]:
    """Return the tensors in our orientation, and report their problems."""
    found.problems += translation.problems
    found.unknown += translation.unknown
    return translation.in_our_orientation()


def _inspect_partial(folder: Folder, layout: Layout, base: str | Path | None, found: Inspection) -> None:
    """Describe a partial checkpoint: what was trained, how, and on which base."""
    scan = scan_file(folder) if layout.kind == "file" else scan_folder(folder)
    found.kind, found.format = layout.kind, layout.title
    found.files, found.notes = scan.files, scan.notes
    found.problems += scan.problems
    count(found, scan.tensors, {})
    if layout.kind == "adapter":
        _describe_factors(folder, layout, scan, found)
    else:
        found.trained = {"whole": sorted(name for _, name in scan.tensors)}
    if layout.kind != "file":
        _describe_base(folder, base, found)


def _describe_factors(folder: Folder, layout: Layout, scan: Scan, found: Inspection) -> None:
    sides: dict[str, set[str]] = {}
    for _, name in scan.tensors:
        match = FACTOR.fullmatch(name)
        if match:
            sides.setdefault(match["layer"], set()).add(match["side"])
    values: dict = {}
    with found.collecting():
        values = folder.json(layout.adapter_config)
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
        is_complete = bool(sides) and not scan.problems and not half
        found.trained |= layout.describe_adapter(folder, is_complete)


def _describe_base(folder: Folder, base: str | Path | None, found: Inspection) -> None:
    """Name the base and, if it is on this machine, describe how the model reads images and text."""
    found.trained["base"] = None if base is None else str(base)
    with found.collecting():
        source = open_source(folder, base)
        found.trained["base"] = str(source.base.path)
        found.image = describe_image(source.config.image)
        describe_text(source, found)
        assert source.tensors  # raises for tensors that do not fit
        if source.base.config.language.tie_word_embeddings and not source.config.language.tie_word_embeddings:
            found.notes.append("it unties the output layer from the embeddings, which the base ties")
        unused = source.left_out()
        if unused:
            what = plural(len(unused), "tensor changes nothing here and is", "tensors change nothing here and are")
            found.notes.append(f"{what} left out: {preview(unused, 3)}")

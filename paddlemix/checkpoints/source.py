"""From a folder in any known layout to its configuration and its tensors under our names. Needs no paddle.

Side files (adapters, a projector) are read with their base, as if they were a whole model.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ..conversation.tokenizer_files import VOCABULARIES
from ..conversation.vocabulary_choice import vocabulary_notice
from ..hub.places import fetch_folder
from ..models.config import LlavaConfig
from ..tensor_files.stored import CheckpointError, read_json
from . import side_files
from .adapters import Oriented
from .foreign_quantization import refuse_quantized
from .layouts import decoder, detect, hf, official, paddle, xtuner
from .layouts.folder_template import TemplateChoice
from .layouts.part import read_own_json
from .side_files import Base, SideFiles
from .translation import Translation, naming_of, translate


def read_config(path, base=None) -> LlavaConfig:
    """Read a folder's configuration without its weights. Raises CheckpointError."""
    return read_source(path, base)[1]


def read_source(path, base=None, *, merge_dtype: str | None = None) -> tuple[Any, LlavaConfig]:
    """Return the layout of a folder, or of side files with their base, and the configuration.

    base: folder or name of the model that side files, or an xtuner folder without a language model, were trained on;
    None takes the one that they name. merge_dtype: of matrices that an adapter is merged into; None keeps the base's.
    Raises CheckpointError.
    """
    return _read(Path(path), base, merge_dtype, ())


def _read(path: Path, base, merge_dtype: str | None, seen: tuple[Path, ...]) -> tuple[Any, LlavaConfig]:
    layout, raw = _find_layout(path, base, merge_dtype, seen)
    if not isinstance(layout, SideFiles):  # whose config.json may tell of the base as it was while they were trained
        refuse_quantized(path)
    try:
        return layout, layout.read_config(path, raw)
    except CheckpointError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path / 'config.json'} cannot be used: {error}") from error


def _find_layout(path: Path, base, merge_dtype: str | None, seen: tuple[Path, ...]) -> tuple[Any, dict]:
    """Return a layout, or what stands for one, and the parsed config.json. seen: side files whose base this is."""
    kind = side_files.kind_of(path)
    if base is not None:
        base = fetch_folder(str(base), path, what="was given the base", advice="give the path of a model folder")
    if kind is None:
        layout, raw = detect(path)
        if layout is xtuner:
            return xtuner.Over(base, merge_dtype), raw
        if base is not None:
            raise CheckpointError(f"{path} is a whole model ({layout.NAME}), so that no base ({base}) is needed")
        return layout, raw
    if path.resolve() in seen:
        raise CheckpointError(
            f"{path} is, by way of its base, its own base: give another one with --model-base or base="
        )
    folder = side_files.base_folder(path, kind) if base is None else base
    if decoder.is_decoder(folder) and not xtuner.matches(folder, {}):
        found = side_files.language_base(path, kind, folder)
    else:
        layout, config = _read(folder, None, merge_dtype, (*seen, path.resolve()))
        opened = partial(our_tensors, folder, layout, config)
        found = Base(folder, layout, config, opened, tokenizer_folder(folder, layout))
    return SideFiles(path, kind, found, merge_dtype), side_files.read_raw(path)


def folders_of(path: Path, layout) -> list[Path]:
    """Return every folder that is read for a model: its own, and those of what it was trained on."""
    if not isinstance(layout, SideFiles):
        return [Path(path)]
    return [Path(path), *folders_of(layout.base.folder, layout.base.layout)]


def tokenizer_folder(path: Path, layout) -> Path:
    """Return the folder in which a source's tokenizer lies, if it has one."""
    if isinstance(layout, SideFiles):
        return layout.tokenizer_folder
    return xtuner.tokenizer_folder(path, layout.base) if isinstance(layout, xtuner.Over) else Path(path)


def template_choice(path: Path, layout, config: LlavaConfig) -> TemplateChoice | None:
    """Return what was chosen as a source's chat format and why, None where only our own note names one."""
    if isinstance(layout, SideFiles):
        raw = side_files.read_raw(path)
        if layout.kind == "lora" and paddle.FORMAT_KEY in raw:
            return None
        if layout.kind not in ("peft", "trained") or not official.tower_name(raw):
            return template_choice(layout.base.folder, layout.base.layout, layout.base.config)
        layout = official
    if isinstance(layout, xtuner.Over):
        own, home = read_json(path / xtuner.PROJECTOR / "config.json"), xtuner.tokenizer_folder(path, layout.base)
    elif layout in (hf, official):
        own, home = read_json(path / "config.json"), path
    else:
        return None
    return decoder.template_of(read_own_json(own), config.language, home)


def notices_of(path: Path, layout, config: LlavaConfig) -> list[str]:
    """Return what a user should know of a source's chat format and tokenizer. Raises CheckpointError."""
    choice = template_choice(path, layout, config)
    notices = [choice.notice] if choice is not None and choice.notice else []
    home = tokenizer_folder(path, layout)
    reason = vocabulary_notice(home) if any((home / name).is_file() for name in VOCABULARIES) else ""
    return [*notices, reason] if reason else notices


def vocabulary_home(path: Path, layout, config: LlavaConfig) -> tuple[Path, Any] | None:
    """Return the folder and layout that the rows of the vocabulary come from; None where side files have their own."""
    if isinstance(layout, SideFiles):
        base = layout.base
        is_own = base.config.language.vocab_size != config.language.vocab_size
        return None if is_own else vocabulary_home(base.folder, base.layout, config)
    if isinstance(layout, xtuner.Over):
        return xtuner.language_folder(path, layout.base), xtuner
    return Path(path), layout


def our_tensors(path: Path, layout, config: LlavaConfig) -> dict[str, Oriented]:
    """Return our name -> (tensor, is_transposed) for every tensor of a folder. Raises CheckpointError."""
    return translated(path, layout, config).tensors


def translated(path: Path, layout, config: LlavaConfig) -> Translation:
    """Return a folder's tensors with what was left out. Raises CheckpointError for all that is wrong with them."""
    found = translate(naming_of(layout, config), layout.open_tensors(path))
    found.check(path)
    return found

"""Open a checkpoint in any known layout. The single entry point for loading, converting, inspecting and merging.

A partial checkpoint (an adapter, a projector) is opened together with its base. Needs no paddle.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..hub.resolve import fetch_folder
from ..models.config import LlavaConfig
from ..tensor_files.stored import CheckpointError
from .layouts import detect, find_layout
from .layouts.folder import Folder
from .layouts.foreign_quantization import refuse_quantized
from .layouts.layout import AS_RECORDED as AS_RECORDED
from .layouts.layout import Layout, Options
from .layouts.layout import Source as Source


def open_source(path: str | Path | Folder, base: str | Path | None = None) -> Source:
    """Open a folder, or a single file of trained tensors, without reading its weights.

    base: folder or name of the model that a partial checkpoint, or an xtuner folder without a language model, was
    trained on. None for the one that it names. Raises CheckpointError.
    """
    return _open(Folder.of(path), base, ())


def read_config(path: str | Path | Folder, base: str | Path | None = None) -> LlavaConfig:
    """Return a checkpoint's configuration. Raises CheckpointError."""
    return open_source(path, base).config


def partial_layout(path: str | Path | Folder) -> Layout | None:
    """Return the layout of a partial checkpoint, None for anything else.

    Raises CheckpointError for a folder that matches more than one layout.
    """
    layout = find_layout(Folder.of(path))
    return None if layout is None or layout.kind == "model" else layout


def _open(folder: Folder, base: str | Path | None, opened: tuple[Path, ...]) -> Source:
    """Open a folder. opened: the partial checkpoints that it is the base of, to detect a circular chain of bases."""
    layout = detect(folder)
    if base is not None:
        found = fetch_folder(str(base), folder.path, what="needs the base", advice="give the path of a model folder")
        base = folder.related(found)
    if base is not None and not layout.takes_base:
        raise CheckpointError(
            f"{folder} is a complete model ({layout.name}) and takes no base ({base}): drop --model-base or base="
        )
    if layout.kind == "model":  # config.json of a partial checkpoint may describe the base as it was in training
        refuse_quantized(folder)
    real = folder.path.resolve()
    if real in opened:
        raise CheckpointError(
            f"the chain of bases is circular: it leads back to {folder}. Give another base with --model-base or base="
        )
    options = Options(base, find_layout, partial(_open, base=None, opened=(*opened, real)))
    try:
        return layout.read(folder, options)
    except CheckpointError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be used: {error}") from error

"""The layouts of checkpoints. Each module with a LAYOUT is one; the others are shared by several or serve one of them.

To add a layout, write its module and list it here.
"""

from __future__ import annotations

from ...tensor_files.stored import CheckpointError
from ...terminal.near_paths import did_you_mean
from . import hf, official, own_folder, paddlemix, paddlemix_lora, peft, projector, xtuner
from .config_keys import config_or_empty
from .folder import Folder
from .layout import Layout

# In the order in which they are tried.
LAYOUTS: dict[str, Layout] = {
    one.name: one
    for one in (
        paddlemix_lora.LAYOUT,
        peft.LAYOUT,
        projector.LAYOUT,
        projector.FILE_LAYOUT,
        own_folder.LAYOUT,
        hf.LAYOUT,
        paddlemix.LAYOUT,
        official.LAYOUT,
        xtuner.LAYOUT,
    )
}
# The layouts that can be written.
TARGETS = {name: layout for name, layout in LAYOUTS.items() if layout.parts is not None}
MOST_NAMES = 12


def find_layout(folder: Folder) -> Layout | None:
    """Return the layout of a folder or a weight file, None for an unknown one.

    The keys of config.json and the files beside it decide, never the folder's name. Raises CheckpointError for files
    that cannot be read, and for a folder that matches more than one layout.
    """
    return next((layout for layout in LAYOUTS.values() if layout.matches(folder)), None)


def detect(folder: Folder) -> Layout:
    """Return the layout of a folder or a weight file. Raises CheckpointError for an unknown one."""
    layout = find_layout(folder)
    if layout is not None:
        return layout
    if folder.path.is_file():
        raise CheckpointError(f"{folder} is a file, not a folder: give the path of a model folder")
    if not folder.path.is_dir():
        raise CheckpointError(
            f"model folder {folder} does not exist (looked for {folder.path.resolve()}): give the path of a downloaded "
            f"model{did_you_mean(folder.path)}"
        )
    raw, known = config_or_empty(folder), _rules()
    if not folder.has_any("config.json"):
        raise CheckpointError(
            f"{folder} has no config.json, so it is not a model folder; it holds {_listed(folder)}; {known}"
        )
    found = f"config.json has model_type {raw.get('model_type')!r} and architectures {raw.get('architectures')!r}"
    raise CheckpointError(f"{folder} is in no known layout: {found}; it holds {_listed(folder)}; {known}")


def _rules() -> str:
    return "known layouts are" + "".join(f"\n  {layout.name}: {layout.rule}" for layout in LAYOUTS.values())


def _listed(folder: Folder) -> str:
    """Return the names in a folder, folders with a slash."""
    names = sorted(place.name + "/" * place.is_dir() for place in folder.path.iterdir())
    rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) or "nothing") + rest

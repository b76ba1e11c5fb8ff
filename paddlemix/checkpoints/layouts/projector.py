"""Projectors without the rest of the model: folders of LLaVA's stage 1 (mm_projector.bin), and single weight files."""

from __future__ import annotations

from functools import partial

from ...models.config import LlavaConfig
from ...tensor_files.shards import FORMATS
from ...tensor_files.stored import CheckpointError
from ..adapters import Adapter
from .adapter_names import without_unused
from .components import PADDLE_FILES, TORCH_FILES, has_weights
from .config_keys import config_or_empty
from .folder import Folder
from .partial import Kind, fetch_base, layout_of
from .peft import OTHERS, open_trained
from .peft_config import CONFIG as ADAPTER

PROJECTOR_FILES = tuple(f"mm_projector{suffix}" for suffix in FORMATS)


def _is_projector(folder: Folder) -> bool:
    """Return whether a folder has a projector alone. Beside a whole model, a projector file is ignored."""
    if has_weights(folder, (*TORCH_FILES, *PADDLE_FILES)):
        return False
    if folder.has_any(OTHERS):
        raise CheckpointError(
            f"{folder} holds {OTHERS} of a LoRA run without its adapter: copy {ADAPTER} and adapter_model.*"
        )
    return folder.has_any(*PROJECTOR_FILES)


def _is_file(folder: Folder) -> bool:
    return folder.path.is_file() and folder.path.suffix in FORMATS


def _base_of_projector(folder: Folder) -> Folder:
    return fetch_base(folder, PROJECTOR.title, config_or_empty(folder).get("_name_or_path"))


def _base_of_file(folder: Folder) -> Folder:
    raise CheckpointError(
        f"{folder} is a file, not a model folder: give the folder, or, for a projector or the like, also the model "
        "that it was trained on (--model-base or base=)"
    )


def _open(names: tuple[str, ...], folder: Folder, config: LlavaConfig) -> Adapter:
    return without_unused(Adapter(folder.path, whole=open_trained(folder, *names)), config)


def _open_file(folder: Folder, config: LlavaConfig) -> Adapter:
    path = folder.path
    adapter = Adapter(path, whole=open_trained(folder.related(path.parent), path.name))
    return without_unused(adapter, config)


PROJECTOR = Kind("a folder with a projector only", _base_of_projector, partial(_open, PROJECTOR_FILES), has_config=True)
FILE = Kind("a file of trained tensors", _base_of_file, _open_file)
LAYOUT = layout_of(
    PROJECTOR,
    name="trained",
    rule=f"{', '.join(PROJECTOR_FILES)}, over its base",
    matches=_is_projector,
    kind="projector",
)
FILE_LAYOUT = layout_of(
    FILE,
    name="file",
    rule=f"one file that ends in {', '.join(FORMATS)}, over its base",
    matches=_is_file,
    kind="file",
)

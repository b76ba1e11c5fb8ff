"""Folders (and files) that hold only what was trained, read together with their base as if they were a whole model.

- LLaVA's stage 1: mm_projector.bin
- LLaVA's LoRA runs: peft's adapter and non_lora_trainables.bin
- PaddleMIX's and our LoRA runs: lora_model_state.pdparams and lora_config.json
The base is a whole LLaVA in any layout, or for the first two a decoder; the tower is then the one that config.json
names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..conversation.tokenizer_files import VOCABULARIES
from ..hub.places import fetch_folder
from ..models.config import LlavaConfig
from ..models.vision.families import get_tower_family
from ..tensor_files.pdparams import open_pdparams
from ..tensor_files.safetensors import open_safetensors
from ..tensor_files.stored import CheckpointError, StoredTensor
from ..tensor_files.torch_bin import open_torch_bin
from ..tensor_files.transforms import transposed
from . import lora, peft_adapter
from .adapter_names import (
    Names,
    by_our_names,
    check_modules,
    parts_ties,
    shared_before,
    tables_of,
    translator,
    without_unused,
)
from .adapters import Adapter, Oriented, Translate, lay_over
from .foreign_quantization import refuse_quantized
from .layouts import official, paddle
from .layouts.components import (
    EMBEDDING,
    HEAD,
    PADDLE_FILES,
    TORCH_FILES,
    has_weights,
    open_torch_weights,
)
from .layouts.config_keys import read_config_json, stored_dtype
from .layouts.fused_weights import split_adapter
from .layouts.names import decoder_name, renamed_once
from .layouts.official import TowerFacts
from .quantized import rounded
from .translation import naming_of, translate

NOTED = "as noted"
PROJECTOR, OTHERS = "mm_projector", "non_lora_trainables.bin"
READERS = {".bin": open_torch_bin, ".safetensors": open_safetensors, ".pdparams": open_pdparams}
PROJECTOR_FILES = tuple(PROJECTOR + suffix for suffix in READERS)
KINDS = {
    "lora": "a LoRA folder in PaddleMIX's format",
    "peft": "a LoRA folder of peft",
    "trained": "a folder with a projector only",
    "file": "a file of trained tensors",
}


@dataclass(frozen=True)
class Base:
    """A model that something was trained on.

    open: maps its tensors, in our names. is_llava: it is a whole model, not a language model with the tower that the
    side files name. tokenizer: the folder that has one.
    """

    folder: Path
    layout: Any
    config: LlavaConfig
    open: Callable[[], dict[str, Oriented]]
    tokenizer: Path
    is_llava: bool = True


def kind_of(path: Path) -> str | None:
    """Return a key of KINDS, None for a path that is no such thing. Raises CheckpointError if it is two things."""
    path = Path(path)
    if path.is_file():
        return "file" if path.suffix in READERS else None
    if lora.is_adapter(path):
        if peft_adapter.is_adapter(path):
            raise CheckpointError(
                f"{path} holds two adapters ({lora.CONFIG} and {peft_adapter.CONFIG}): remove the files of one of them"
            )
        return "lora"
    is_whole = has_weights(path, (*TORCH_FILES, *PADDLE_FILES))
    if peft_adapter.is_adapter(path):
        if is_whole:
            raise CheckpointError(
                f"{path} holds a whole model and an adapter ({peft_adapter.CONFIG}): remove the files of one of them"
            )
        return "peft"
    if is_whole:  # it may have its projector beside it once more
        return None
    if (path / OTHERS).is_file():
        raise CheckpointError(
            f"{path} holds {OTHERS} of a LoRA run without its adapter: copy {peft_adapter.CONFIG} and adapter_model.*"
        )
    return "trained" if any((path / name).is_file() for name in PROJECTOR_FILES) else None


def rounding_of(path: Path, kind: str, base_quantization: str | None) -> str | None:
    """Return what the base is rounded to before an adapter is merged into it, None for nothing."""
    if kind not in ("lora", "peft"):
        return None
    if base_quantization != NOTED:
        return base_quantization
    return lora.quantization_of(path) if kind == "lora" else None


def base_folder(path: Path, kind: str) -> Path:
    """Return the base that a path names by itself. Raises CheckpointError."""
    if kind == "lora":
        return lora.base_of(path)
    names = {"peft": peft_adapter.base_name, "trained": lambda path: read_raw(path).get("_name_or_path")}
    name = names[kind](path) if kind in names else None
    if kind == "file":
        raise CheckpointError(
            f"{path} is a file, not a model folder: give the folder, or, if it is a projector or the like, also the "
            "model that it was trained on (--model-base or base=)"
        )
    if not name or not isinstance(name, str):
        raise CheckpointError(f"{path} is {KINDS[kind]} and does not name its base model: {lora.GIVE_BASE}")
    revision = peft_adapter.base_revision(path) if kind == "peft" else None
    what = f"is {KINDS[kind]} for the base model"
    return fetch_folder(name, path, what=what, advice=lora.GIVE_BASE, revision=revision)


def read_raw(path: Path) -> dict:
    """Return the config.json in a folder of side files, empty if there is none."""
    return read_config_json(path) if (path / "config.json").is_file() else {}


def language_base(path: Path, kind: str, folder: Path) -> Base:
    """Return a decoder as the base of side files whose config.json describes the rest of the LLaVA.

    Raises CheckpointError where it does not.
    """
    raw = read_raw(path)
    if kind == "lora" or not official.tower_name(raw):
        raise CheckpointError(
            f"{path} is {KINDS[kind]} without a config.json of LLaVA's that names a vision tower (mm_vision_tower), "
            f"and the base {folder} is a language model only: give a whole LLaVA as the base"
        )
    refuse_quantized(folder)
    config = official.read_config(path, raw)
    dtype = stored_dtype(folder, read_config_json(folder), default=config.dtype)
    config = dataclasses.replace(config, dtype=dtype)

    def open_base() -> dict[str, Oriented]:
        stored = renamed_once(folder, open_torch_weights(folder), decoder_name)
        found = translate(naming_of(official, config), {**stored, **official.open_named_tower(path, raw)})
        found.check(folder)
        return found.tensors

    return Base(folder, official, config, open_base, folder, is_llava=False)


@dataclass(frozen=True)
class SideFiles:
    """Side files over their base, with the functions of a layout whose names are ours.

    merge_dtype: of the merged matrices; None keeps the base's. base_quantization: what the base is rounded to before
    an adapter is merged into it: NOTED for what the adapter notes, None for nothing.
    """

    path: Path
    kind: str
    base: Base
    merge_dtype: str | None = None
    base_quantization: str | None = NOTED

    @property
    def NAME(self) -> str:
        return f"{self.kind} over {self.base.layout.NAME}"

    @property
    def tokenizer_folder(self) -> Path:
        has_own = self.kind != "file" and any((self.path / name).is_file() for name in VOCABULARIES)
        return self.path if has_own else self.base.tokenizer

    def read_config(self, folder: Path, raw: dict) -> LlavaConfig:
        """Return the base's configuration, changed where config.json beside the side files says more."""
        config = self.base.config
        if self.kind == "lora" and paddle.FORMAT_KEY in raw:
            return dataclasses.replace(paddle.read_config(folder, raw), dtype=config.dtype)
        if self.kind in ("peft", "trained") and self.base.is_llava and official.tower_name(raw):
            config = _changed(config, folder, raw)
        config = self._untied(config)
        whole = self._adapter(config).whole
        untrained = tuple(part for part in config.untrained if not any(part in name for name in whole))
        translate = self._translator(config, {})
        rows = next((tensor.shape[0] for name, tensor in whole.items() if translate(name) == (EMBEDDING, False)), None)
        language = dataclasses.replace(config.language, vocab_size=rows or config.language.vocab_size)
        return dataclasses.replace(config, language=language, untrained=untrained)

    def open_tensors(self, folder: Path) -> dict[str, StoredTensor]:
        """Map the merged model's tensors. Raises CheckpointError for what does not fit the base."""
        config = self.read_config(folder, read_raw(folder))
        tensors = self.base.open()
        if config.projector_type != self.base.config.projector_type:
            tensors = {name: pair for name, pair in tensors.items() if not name.startswith("projector.")}
        if not config.has_image_newline:
            tensors.pop("image_newline", None)
        adapter, known = split_adapter(self._adapter(config), self._tables(config))
        tensors = self._rounded(tensors)
        translate = self._translator(config, known)
        if self.base.config.language.tie_word_embeddings and not config.language.tie_word_embeddings:
            tensors[HEAD] = shared_before(tensors, adapter, translate)
        check_modules(adapter, tensors, self._tables(config), translate)
        tensors = lay_over(tensors, adapter, translate, self.merge_dtype)
        return {name: transposed(tensor) if turned else tensor for name, (tensor, turned) in tensors.items()}

    def table(self, config: LlavaConfig) -> None:
        """Return None: the names are ours already."""

    def canonical(self, name: str) -> str:
        return name

    def is_dropped(self, name: str, config: LlavaConfig) -> bool:
        return False

    def changes(self, config: LlavaConfig) -> tuple[Adapter, dict[str, bool]]:
        """Return what was trained, by our names, and for each name whether its axes are swapped to be ours."""
        adapter, known = split_adapter(self._adapter(config), self._tables(config))
        return by_our_names(adapter, self._translator(config, known))

    def left_out(self, config: LlavaConfig) -> list[str]:
        """Return the names of what was trained, but changes nothing here."""
        return list(self._adapter(config).dropped)

    def _untied(self, config: LlavaConfig) -> LlavaConfig:
        """Return the configuration with an output layer of its own, if what was trained parts it from embeddings."""
        if not config.language.tie_word_embeddings:
            return config
        untied = dataclasses.replace(config, language=dataclasses.replace(config.language, tie_word_embeddings=False))
        translate = self._translator(untied, {})
        return untied if parts_ties(self._adapter(untied), translate, config.language.vocab_size) else config

    def _rounded(self, tensors: dict[str, Oriented]) -> dict[str, Oriented]:
        """Return the base's tensors as they were when the adapter was trained."""
        kind = rounding_of(self.path, self.kind, self.base_quantization)
        return tensors if kind is None else rounded(tensors, kind, self.merge_dtype)

    def _adapter(self, config: LlavaConfig) -> Adapter:
        """Open what was trained."""
        if self.kind == "lora":
            return lora.open_adapter(self.path, config)
        adapter = Adapter(self.path)
        files = [self.path]
        if self.kind != "file":
            files = [self.path / name for name in PROJECTOR_FILES]
        if self.kind == "peft":
            adapter = peft_adapter.read_adapter(self.path)
            files = [self.path / OTHERS]
            if not files[0].is_file() and official.tower_name(read_raw(self.path)):
                raise CheckpointError(
                    f"{self.path} is a LoRA folder of LLaVA's without {OTHERS}, which holds its projector: copy it too"
                )
        whole = {}
        for file in files:
            stored = READERS[file.suffix](file) if file.is_file() else {}
            whole |= {peft_adapter.plain_name(name): tensor for name, tensor in stored.items()}
        return without_unused(dataclasses.replace(adapter, whole={**whole, **adapter.whole}), config)

    def _tables(self, config: LlavaConfig) -> list[Names]:
        if self.kind == "lora":  # its names are ours already
            return []
        return tables_of(self.base.layout, config, is_torch=self.kind == "peft")

    def _translator(self, config: LlavaConfig, known: Mapping[str, tuple[str, bool]]) -> Translate:
        return lora.same_name if self.kind == "lora" else translator(self._tables(config), known)


def _changed(config: LlavaConfig, folder: Path, raw: dict) -> LlavaConfig:
    """Return a whole base's config with what LLaVA's config.json beside the side files says of tower and pictures."""
    official.check_decoder(folder, raw)
    chosen = {**official.selection(raw), "name": config.vision.name}
    if get_tower_family(config.vision.family).own_select_layer is not None:
        chosen["select_layer"] = config.vision.select_layer
    facts = TowerFacts(dataclasses.replace(config.vision, **chosen), config.image.pixels)
    changed = official.build_config(folder, raw, config.language, facts)
    kept = ("dtype", "eos_token_ids", "untrained", "has_scaled_features")
    return dataclasses.replace(changed, **{name: getattr(config, name) for name in kept})

"""Partial checkpoints, which hold only what was trained, read together with their base as if they were a whole model.

The base is a whole LLaVA in any layout. For checkpoints of LLaVA's own code it may also be a language model: then
config.json names the vision tower.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...conversation.tokenizer_files import VOCABULARIES
from ...hub.resolve import fetch_folder
from ...models.config import LlavaConfig
from ...models.vision.families import get_tower_family
from ...tensor_files.stored import CheckpointError, StoredTensor
from ...tensor_files.transforms import transposed
from ..adapters import Adapter, Translate, lay_over
from ..quantized import rounded
from . import official
from .adapter_names import Names, by_our_names, check_modules, tables_of, tied_head, translator, unties
from .components import EMBEDDING, HEAD, open_torch_weights
from .config_keys import config_or_empty, read_config_json, stored_dtype
from .decoder import is_decoder
from .folder import Folder
from .folder_template import TemplateChoice
from .foreign_quantization import refuse_quantized
from .fused_weights import split_adapter
from .layout import Layout, Options, Source
from .names import decoder_name, renamed_once
from .official import TowerFacts

GIVE_BASE = "give the base with --model-base or base="


@dataclass(frozen=True)
class Kind:
    """What differs between the kinds of partial checkpoints.

    title: for messages. base_of: returns the base that the checkpoint names. open: returns what was trained.
    recorded_config: the whole model's configuration, where the checkpoint has one.
    has_our_names: `open` returns our names. is_torch: else names of torch's code are tried first.
    has_config: LLaVA's config.json beside the tensors describes the tower and how images are read.
    """

    title: str
    base_of: Callable[[Folder], Folder]
    open: Callable[[Folder, LlavaConfig], Adapter]
    recorded_config: Callable[[Folder], LlavaConfig | None] = lambda folder: None
    has_our_names: bool = False
    is_torch: bool = False
    has_config: bool = False


def fetch_base(folder: Folder, title: str, name: object, revision: str | None = None) -> Folder:
    """Return the folder of a base by its name. Raises CheckpointError."""
    if not name or not isinstance(name, str):
        raise CheckpointError(f"{folder} is {title} and does not name its base model: {GIVE_BASE}")
    what = f"is {title} for the base model"
    return folder.related(fetch_folder(name, folder.path, what=what, advice=GIVE_BASE, revision=revision))


def layout_of(traits: Kind, **fields: Any) -> Layout:
    """Return the layout of a kind of partial checkpoint. fields: the other fields of Layout."""

    def read(folder: Folder, options: Options) -> Source:
        return read_partial(traits, layout, folder, options)

    layout = Layout(title=traits.title, read=read, takes_base=True, **fields)
    return layout


def read_partial(kind: Kind, layout: Layout, folder: Folder, options: Options) -> Source:
    """Return a partial checkpoint over its base. Raises CheckpointError."""
    place = options.base or kind.base_of(folder)
    is_whole = options.find(place) is not None or not is_decoder(place)
    base = options.open(place) if is_whole else _language_base(kind, folder, place)
    checkpoint = PartialCheckpoint(folder, kind, base, is_whole)
    config = checkpoint.config()
    return Source(
        folder,
        layout,
        config,
        partial(checkpoint.open_tensors, config),
        folder if folder.has_any(*VOCABULARIES) else base.tokenizer_folder,
        checkpoint.template(config),
        base,
        partial(checkpoint.changes, config),
        lambda: list(kind.open(folder, config).dropped),
    )


def _language_base(kind: Kind, folder: Folder, place: Folder) -> Source:
    """Return a language model as the base of a checkpoint whose config.json describes the rest of the LLaVA.

    Raises CheckpointError if it does not.
    """
    raw = config_or_empty(folder)
    if not kind.has_config or not official.tower_name(raw):
        raise CheckpointError(
            f"{folder} is {kind.title} without a config.json of LLaVA's that names a vision tower (mm_vision_tower), "
            f"and the base {place} is a language model only: give a whole LLaVA as the base"
        )
    refuse_quantized(place)
    config = official.read_config(folder, raw)
    config = dataclasses.replace(config, dtype=stored_dtype(place, read_config_json(place), default=config.dtype))

    def open_stored(*_: str | None) -> dict[str, StoredTensor]:
        stored = renamed_once(place, open_torch_weights(place), decoder_name)
        return {**stored, **official.open_named_tower(folder, raw)}

    return Source(place, official.LAYOUT, config, open_stored, place)


@dataclass(frozen=True)
class PartialCheckpoint:
    """What was trained, and its base. is_base_whole: the base is a whole LLaVA, not a language model."""

    folder: Folder
    kind: Kind
    base: Source
    is_base_whole: bool

    def config(self) -> LlavaConfig:
        """Return the base's configuration with the changes that config.json and the tensors make."""
        config, recorded = self.base.config, self.kind.recorded_config(self.folder)
        if recorded is not None:
            return dataclasses.replace(recorded, dtype=config.dtype)
        raw = self._official_json()
        if self.is_base_whole and raw:
            config = _changed(config, self.folder, raw)
        config = self._untied(config)
        whole = self.kind.open(self.folder, config).whole
        untrained = tuple(part for part in config.untrained if not any(part in name for name in whole))
        translate = self._translator(config, {})
        rows = next((tensor.shape[0] for name, tensor in whole.items() if translate(name) == (EMBEDDING, False)), None)
        language = dataclasses.replace(config.language, vocab_size=rows or config.language.vocab_size)
        return dataclasses.replace(config, language=language, untrained=untrained)

    def template(self, config: LlavaConfig) -> TemplateChoice | None:
        """Return the choice of the chat format."""
        if self.kind.recorded_config(self.folder) is not None:
            return None
        raw = self._official_json()
        return official.template_choice(self.folder, raw, config.language) if raw else self.base.template

    def open_tensors(
        self, config: LlavaConfig, merge_dtype: str | None, rounding: str | None
    ) -> dict[str, StoredTensor]:
        """Map the merged model's tensors under our names. Raises CheckpointError if they do not fit the base."""
        self.base.translation.check(self.base.path)
        tensors = dict(self.base.translation.tensors)
        if config.projector_type != self.base.config.projector_type:
            tensors = {name: pair for name, pair in tensors.items() if not name.startswith("projector.")}
        if not config.has_image_newline:
            tensors.pop("image_newline", None)
        adapter, known = split_adapter(self.kind.open(self.folder, config), self._tables(config))
        tensors = tensors if rounding is None else rounded(tensors, rounding, merge_dtype)
        translate = self._translator(config, known)
        if self.base.config.language.tie_word_embeddings and not config.language.tie_word_embeddings:
            tensors[HEAD] = tied_head(tensors, adapter, translate)
        check_modules(adapter, tensors, self._tables(config), translate)
        tensors = lay_over(tensors, adapter, translate, merge_dtype)
        return {name: transposed(tensor) if is_swapped else tensor for name, (tensor, is_swapped) in tensors.items()}

    def changes(self, config: LlavaConfig) -> tuple[Adapter, dict[str, bool]]:
        """See `Source.changes`."""
        adapter, known = split_adapter(self.kind.open(self.folder, config), self._tables(config))
        return by_our_names(adapter, self._translator(config, known))

    def _official_json(self) -> dict:
        """Return LLaVA's config.json beside the tensors if it names a vision tower, else nothing."""
        raw = config_or_empty(self.folder) if self.kind.has_config else {}
        return raw if official.tower_name(raw) else {}

    def _untied(self, config: LlavaConfig) -> LlavaConfig:
        """Return the configuration with a separate output layer if the adapter unties it from the embeddings."""
        if not config.language.tie_word_embeddings:
            return config
        untied = dataclasses.replace(config, language=dataclasses.replace(config.language, tie_word_embeddings=False))
        adapter, translate = self.kind.open(self.folder, untied), self._translator(untied, {})
        return untied if unties(adapter, translate, config.language.vocab_size) else config

    def _tables(self, config: LlavaConfig) -> list[Names]:
        if self.kind.has_our_names:
            return []
        return tables_of(self.base.layout, config, is_torch=self.kind.is_torch)

    def _translator(self, config: LlavaConfig, known: Mapping[str, tuple[str, bool]]) -> Translate:
        return (lambda name: (name, False)) if self.kind.has_our_names else translator(self._tables(config), known)


def _changed(config: LlavaConfig, folder: Folder, raw: dict) -> LlavaConfig:
    """Return a whole base's config with the tower's and the images' settings of LLaVA's config.json."""
    official.check_decoder(folder, raw)
    chosen = {**official.selection(raw), "name": config.vision.name}
    if get_tower_family(config.vision.family).own_select_layer is not None:
        chosen["select_layer"] = config.vision.select_layer
    facts = TowerFacts(dataclasses.replace(config.vision, **chosen), config.image.pixels)
    changed = official.build_config(folder, raw, config.language, facts)
    return dataclasses.replace(
        changed,
        dtype=config.dtype,
        eos_token_ids=config.eos_token_ids,
        untrained=config.untrained,
        has_scaled_features=config.has_scaled_features,
    )

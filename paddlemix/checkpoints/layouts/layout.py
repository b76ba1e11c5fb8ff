"""The interface of a layout, and what it reads from a folder: a `Source` for loading, conversion and inspection.

A layout is the way in which one tool stores a LLaVA: transformers, PaddleMIX, LLaVA's own code. Needs no paddle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...conversation.load_tokenizer import make_tokenizer
from ...conversation.tokenizer import Tokenizer
from ...conversation.tokenizer_files import TokenizerFiles
from ...models.config import LlavaConfig
from ...tensor_files.stored import StoredTensor
from ...tensor_files.transforms import are_alike, cast, sliced_rows, transposed
from ..adapters import Adapter
from .added_rows import added_tokens_from, without_tokens_from
from .components import EMBEDDING, HEAD
from .folder import Folder
from .folder_template import TemplateChoice
from .output_part import Part
from .rules import KeyTable
from .shapes import check_complete, parameter_shapes
from .translation import Translation, naming_of, translate

Tensors = dict[str, StoredTensor]
# The quantization of the base that an adapter recorded when it was trained.
AS_RECORDED = "as recorded"


@dataclass(frozen=True)
class Layout:
    """How one tool stores a LLaVA. The defaults are those of a complete model under this project's names.

    title: human-readable name, used in messages.
    rule: how a folder is recognized, for the error that lists all layouts.
    matches: whether a folder has this layout, by exact keys of config.json and by its files, never by its name.
    read: opens a folder, see `open_source`.
    kind: "model", or for a partial checkpoint "adapter", "projector" or "file".
    takes_base: whether a user may name a base.
    table: translates names of tensors in both directions, None where the names are ours.
    canonical: normalizes a stored name to the spelling of the table.
    is_dropped: whether a tensor of that name is left out on purpose.
    name_in_part: the name of a tensor in the whole model, from the folder of its file and its name there.
    parts, write_tokenizer: write a model, see `Part`. None for a layout that is not written.
    remarks: notes for the report of a conversion on the ids that other tools make.
    loads_in_transformers: LlavaForConditionalGeneration loads it. So it has rows for `<image>` and `<pad>`, and peft's
        adapters fit it.
    num_original_rows: how many rows the vocabulary had before tokens were added, None if that is unknown.
    adapter_config: the JSON file that describes an adapter.
    describe_adapter: facts about an adapter for a report, such as its scaling.
    recorded_quantization: how the base was quantized while the adapter was trained.
    has_whole_processor: processor_config.json is enough for the processor, without the base.
    """

    name: str
    title: str
    rule: str
    matches: Callable[[Folder], bool]
    read: Callable[[Folder, Options], Source]
    kind: str = "model"
    takes_base: bool = False
    table: Callable[[LlavaConfig], KeyTable | None] = lambda config: None
    canonical: Callable[[str], str] = str
    is_dropped: Callable[[str, LlavaConfig], bool] = lambda name, config: False
    name_in_part: Callable[[str, str, LlavaConfig], str] = lambda part, name, config: name
    parts: Callable[[LlavaConfig, Tensors, Vocabulary], list[Part]] | None = None
    write_tokenizer: Callable[[Tokenizer, LlavaConfig, Path], None] | None = None
    remarks: Callable[[Tokenizer | None], list[str]] = lambda tokenizer: []
    loads_in_transformers: bool = False
    num_original_rows: Callable[[Folder, Source], int | None] = lambda folder, source: None
    adapter_config: str = ""
    describe_adapter: Callable[[Folder, bool], dict[str, Any]] = lambda folder, is_complete: {}
    recorded_quantization: Callable[[Folder], str | None] = lambda folder: None
    has_whole_processor: bool = False


@dataclass(frozen=True)
class Options:
    """The arguments of `Layout.read` beside the folder.

    base: the model that a user names as the base.
    find: returns the layout of another folder, None for an unknown one.
    open: opens another folder.
    """

    base: Folder | None
    find: Callable[[Folder], Layout | None]
    open: Callable[[Folder], Source]


@dataclass(frozen=True)
class Vocabulary:
    """Facts for a layout that adds tokens. num_original: see `Layout.num_original_rows`, None for all."""

    tokenizer: Tokenizer | None = None
    num_original: int | None = None


ALL_ROWS = Vocabulary()


@dataclass(frozen=True)
class Source:
    """A checkpoint that is open for reading, a partial one together with its base.

    stored_config: the configuration in the files, from which `config` may differ.
    open_stored: called as open_stored(merge_dtype, rounding), returns mapped tensors by the layout's names.
    tokenizer_folder: the folder with the tokenizer, if there is one.
    template: the chosen chat format and the reason, None where only this project's config.json names one.
    base: the model that a partial checkpoint was trained on.
    changes: returns a partial checkpoint's trained tensors by our names, and for each name whether its axes have to be
        swapped to be ours.
    left_out: returns the names in a partial checkpoint that change nothing here.
    vocab_limit: keep only the first N rows of the vocabulary, None for all of them.
    dtype: of the tensors, None as stored.
    merge_dtype: of matrices that an adapter is merged into, None for the base's.
    base_quantization: what the base is rounded to before an adapter is merged into it, None for nothing.
    """

    folder: Folder
    layout: Layout
    stored_config: LlavaConfig
    open_stored: Callable[[str | None, str | None], Mapping[str, StoredTensor]]
    tokenizer_folder: Folder
    template: TemplateChoice | None = None
    base: Source | None = None
    changes: Callable[[], tuple[Adapter, dict[str, bool]]] | None = None
    left_out: Callable[[], list[str]] = list
    vocab_limit: int | None = None
    dtype: str | None = None
    merge_dtype: str | None = None
    base_quantization: str | None = AS_RECORDED

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def name(self) -> str:
        """Return the layout's name, with that of the base."""
        return self.layout.name if self.base is None else f"{self.layout.name} over {self.base.name}"

    @property
    def folders(self) -> list[Path]:
        """Return every folder that is read: this one, and those of the bases."""
        return [self.path, *([] if self.base is None else self.base.folders)]

    @cached_property
    def config(self) -> LlavaConfig:
        """Return the configuration of a model with these tensors."""
        stored, language = self.stored_config, self.stored_config.language
        language = dataclasses.replace(language, vocab_size=self.vocab_limit or language.vocab_size)
        return dataclasses.replace(stored, language=language, dtype=self.dtype or stored.dtype)

    @property
    def rounding(self) -> str | None:
        """Return what the base is rounded to before an adapter is merged into it, None for nothing."""
        if self.layout.kind != "adapter":
            return None
        is_recorded = self.base_quantization == AS_RECORDED
        return self.layout.recorded_quantization(self.folder) if is_recorded else self.base_quantization

    @cached_property
    def translation(self) -> Translation:
        """Return all stored tensors under our names, with whatever is wrong with them."""
        return translate(naming_of(self.layout, self.stored_config), self.open_stored(self.merge_dtype, self.rounding))

    @cached_property
    def stored_tensors(self) -> Tensors:
        """Return the tensors as stored, under our names and in our orientation, in the order of `parameter_shapes`.

        Raises CheckpointError for tensors that are missing, unknown or of another shape.
        """
        tensors = self.translation.checked(self.path)
        check_complete(self.path, self.stored_config, tensors)
        return {name: tensors[name] for name in parameter_shapes(self.stored_config)}

    @cached_property
    def tensors(self) -> Tensors:
        """Return the model's tensors under our names and in our orientation, not read yet. Raises CheckpointError."""
        tensors = dict(self.stored_tensors)
        for name, rows in self._vocab_matrices() if self.vocab_limit else ():
            rows = sliced_rows(rows, 0, self.vocab_limit)
            tensors[name] = transposed(rows) if name == HEAD else rows
        return {name: cast(tensor, self.dtype) for name, tensor in tensors.items()} if self.dtype else tensors

    @property
    def dropped(self) -> list[str]:
        """Return the stored names that are left out on purpose."""
        return [*self.translation.dropped, *self.left_out()]

    @property
    def tokenizer_files(self) -> TokenizerFiles | None:
        """Return the files of the tokenizer, None where there is none. Raises ValueError."""
        files = self.tokenizer_folder.tokenizer_files()
        return without_tokens_from(files, self.vocab_limit) if files and self.vocab_limit else files

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer, made once, None where there is none. Raises ValueError."""
        key = "tokenizer", self.vocab_limit
        return self.tokenizer_folder.cached(key, lambda: (files := self.tokenizer_files) and make_tokenizer(files))

    @property
    def notices(self) -> list[str]:
        """Return sentences for the user on the chat format and the tokenizer. Raises CheckpointError."""
        files = self.tokenizer_folder.tokenizer_files()
        return [text for text in (self.template and self.template.notice, files and files.notice) if text]

    @cached_property
    def num_original_rows(self) -> int | None:
        """Return how many rows the vocabulary had before tokens were added, None if that is unknown."""
        owner = self
        while owner.base is not None:
            if owner.base.stored_config.language.vocab_size != self.stored_config.language.vocab_size:
                return None  # training added rows, so the added ones cannot be distinguished
            owner = owner.base
        return owner.layout.num_original_rows(owner.folder, self)

    def without_added_rows(self) -> Source:
        """Return the same without the rows, and the tokens, that its layout has added, where they are known."""
        return self if self.num_original_rows is None else dataclasses.replace(self, vocab_limit=self.num_original_rows)

    def describe_removed_rows(self) -> str:
        """Return the ids beyond vocab_limit and their tokens, in words, empty for none."""
        if self.vocab_limit is None:
            return ""
        start, stop = self.vocab_limit, self.stored_config.language.vocab_size
        files = self.tokenizer_folder.tokenizer_files()
        names = added_tokens_from(files, start) if files else {}
        unnamed = stop - start - len(names)
        words = [*names, f"{unnamed} that no token has"] if unnamed else names
        return f"{stop - start} (ids {start} to {stop - 1}: {', '.join(words)})"

    @property
    def removed_rows_are_untrained(self) -> bool:
        """Return whether the rows beyond vocab_limit are all equal, which trained rows are not."""
        limit = self.vocab_limit
        return limit is not None and all(are_alike(rows, limit) for _, rows in self._vocab_matrices())

    def _vocab_matrices(self) -> list[tuple[str, StoredTensor]]:
        """Return the name and the rows of each matrix that has a row for each token."""
        tensors = self.stored_tensors
        heads = [(HEAD, transposed(tensors[HEAD]))] if HEAD in tensors else []  # tied embeddings are the head
        return [(EMBEDDING, tensors[EMBEDDING]), *heads]

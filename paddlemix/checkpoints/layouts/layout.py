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
from .part import Part
from .rules import KeyTable
from .shapes import check_complete, parameter_shapes
from .translation import Translation, naming_of, translate

Tensors = dict[str, StoredTensor]
AS_RECORDED = "as recorded"  # by an adapter: the quantization of the base that it was trained on


@dataclass(frozen=True)
class Layout:
    """How one tool stores a LLaVA. The defaults are those of a whole model under our own names.

    title: for people. rule: how a folder is recognized, for the error that lists all layouts. kind: "model", or for a
    partial checkpoint "adapter", "projector" or "file". takes_base: whether a user may name a base. matches: looks at
    exact keys of config.json and at which files exist, never at a folder's name. read: see `open_source`.

    table: names of tensors in both directions, None where they are ours. canonical: the spelling of a stored name that
    the table has. is_dropped: whether a tensor of that name is left out on purpose. name_in_part: the name of a tensor
    in the whole model, by the folder of the part that its file is in.

    parts, write_tokenizer: see `Part`. None for a layout that is not written. remarks: notes for the report of a
    conversion on the ids that other tools make. is_of_transformers: LlavaForConditionalGeneration loads it, so that
    its vocabulary has rows for `<image>` and `<pad>`, and peft's adapters go over it.
    num_own_rows: how many rows of the vocabulary the model had before these rows were added, None if that is unknown.

    describe_adapter, recorded_quantization, has_whole_processor: of adapters. Scaling and the like, for a report; how
    the base was quantized in training; whether processor_config.json is enough for the processor, without the base.
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
    is_of_transformers: bool = False
    num_own_rows: Callable[[Folder, Source], int | None] = lambda folder, source: None
    adapter_config: str = ""
    describe_adapter: Callable[[Folder, bool], dict[str, Any]] = lambda folder, is_complete: {}
    recorded_quantization: Callable[[Folder], str | None] = lambda folder: None
    has_whole_processor: bool = False


@dataclass(frozen=True)
class Options:
    """The arguments of `Layout.read` beside the folder.

    base: the model that a user names as the base. find: the layout of another folder, None for an unknown one. open:
    opens another folder.
    """

    base: Folder | None
    find: Callable[[Folder], Layout | None]
    open: Callable[[Folder], Source]


@dataclass(frozen=True)
class Vocabulary:
    """Facts for a layout that adds tokens. num_own: how many rows are the model's own, None for all."""

    tokenizer: Tokenizer | None = None
    num_own: int | None = None


ALL_ROWS = Vocabulary()


@dataclass(frozen=True)
class Source:
    """A checkpoint that is open for reading, a partial one together with its base.

    stored_config: that of the files, from which `config` may differ. open_stored: takes merge_dtype and
    `rounding` and maps the tensors under the layout's names. tokenizer_folder: the folder with the tokenizer, if there
    is one. template: which chat format was chosen and why, None where only our own note names one.

    base, changes, left_out: of a partial checkpoint. The model that it was trained on; what was trained, by our names,
    and for each name whether the axes are swapped to be ours; the stored names that change nothing here.

    kept_rows: the vocabulary is cut after so many rows, None for all of it. dtype: of the tensors, None as stored.
    merge_dtype: of matrices that an adapter is merged into, None for the base's. base_quantization: what the base is
    rounded to before an adapter is merged into it, None for nothing.
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
    kept_rows: int | None = None
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
        language = dataclasses.replace(language, vocab_size=self.kept_rows or language.vocab_size)
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
        self.translation.check(self.path)
        tensors = self.translation.in_our_orientation()
        check_complete(self.path, self.stored_config, tensors)
        return {name: tensors[name] for name in parameter_shapes(self.stored_config)}

    @cached_property
    def tensors(self) -> Tensors:
        """Return the model's tensors under our names and in our orientation, not read yet. Raises CheckpointError."""
        tensors = dict(self.stored_tensors)
        for name, rows in self._vocabularies() if self.kept_rows else ():
            rows = sliced_rows(rows, 0, self.kept_rows)
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
        return without_tokens_from(files, self.kept_rows) if files and self.kept_rows else files

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer, made once, None where there is none. Raises ValueError."""
        key = "tokenizer", self.kept_rows
        return self.tokenizer_folder.once(key, lambda: (files := self.tokenizer_files) and make_tokenizer(files))

    @property
    def notices(self) -> list[str]:
        """Return sentences for the user on the chat format and the tokenizer. Raises CheckpointError."""
        files = self.tokenizer_folder.tokenizer_files()
        return [text for text in (self.template and self.template.notice, files and files.notice) if text]

    @cached_property
    def num_own_rows(self) -> int | None:
        """Return how many rows of the vocabulary are the model's own, None if that is unknown."""
        owner = self
        while owner.base is not None:
            if owner.base.stored_config.language.vocab_size != self.stored_config.language.vocab_size:
                return None  # they were trained too
            owner = owner.base
        return owner.layout.num_own_rows(owner.folder, self)

    def without_added_rows(self) -> Source:
        """Return the same without the rows, and the tokens, that its layout has added, where they are known."""
        return self if self.num_own_rows is None else dataclasses.replace(self, kept_rows=self.num_own_rows)

    @property
    def cut(self) -> str:
        """Return the ids that were cut off and their tokens, in words, empty for none."""
        if self.kept_rows is None:
            return ""
        start, stop = self.kept_rows, self.stored_config.language.vocab_size
        files = self.tokenizer_folder.tokenizer_files()
        names = added_tokens_from(files, start) if files else {}
        unnamed = stop - start - len(names)
        words = [*names, f"{unnamed} that no token has"] if unnamed else names
        return f"{stop - start} (ids {start} to {stop - 1}: {', '.join(words)})"

    @property
    def is_cut_padding(self) -> bool:
        """Return whether the rows that were cut off all hold the same values, so that they were never trained."""
        return self.kept_rows is not None and all(are_alike(rows, self.kept_rows) for _, rows in self._vocabularies())

    def _vocabularies(self) -> list[tuple[str, StoredTensor]]:
        """Return the names of the matrices with a row for each token, and these rows."""
        found = [(EMBEDDING, self.stored_tensors[EMBEDDING])]
        return [*found, *[(HEAD, transposed(self.stored_tensors[HEAD]))] * (HEAD in self.stored_tensors)]

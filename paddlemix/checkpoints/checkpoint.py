"""A checkpoint opened for reading as a whole: configuration, tensors in our names, tokenizer. Needs no paddle."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..conversation.tokenizer import Tokenizer, load_tokenizer
from ..conversation.tokenizer_files import VOCABULARIES
from ..models.config import LlavaConfig
from ..tensor_files.stored import StoredTensor, read_json
from ..tensor_files.transforms import are_alike, cast, sliced_rows, transposed
from .layouts import hf, hf_tokenizer
from .layouts.components import EMBEDDING, HEAD
from .layouts.shapes import check_complete, parameter_shapes
from .side_files import SideFiles
from .source import notices_of, read_source, tokenizer_folder, translated, vocabulary_home


@dataclass(frozen=True)
class Checkpoint:
    """tensors: our names, our orientation, lazy. dropped: the stored names that are left out on purpose.

    cut: which rows of the stored vocabulary are left out, in words, empty for none. is_cut_padding: all of these hold
    the same values, so that they were never trained. num_own_rows: how many of those that are there a llava-hf folder
    had before its tokens were added, None where nothing tells. notices: sentences on its chat format and tokenizer.
    """

    path: Path
    layout: Any
    config: LlavaConfig
    tensors: dict[str, StoredTensor]
    tokenizer: Tokenizer | None
    dropped: list[str]
    cut: str = ""
    is_cut_padding: bool = False
    num_own_rows: int | None = None
    notices: tuple[str, ...] = ()

    def as_dtype(self, dtype: str | None) -> Checkpoint:
        """Return the same with tensors of another dtype."""
        if dtype is None:
            return self
        tensors = {name: cast(tensor, dtype) for name, tensor in self.tensors.items()}
        return dataclasses.replace(self, config=dataclasses.replace(self.config, dtype=dtype), tensors=tensors)


def open_checkpoint(
    path: Path, target: ModuleType | None = None, *, base=None, merge_dtype: str | None = None
) -> Checkpoint:
    """Open a folder of any layout. Raises CheckpointError for tensors that are missing, unknown or of a wrong shape.

    Vocabulary rows that llava-hf's layout adds are cut off where they can be told, unless the folder is to keep that
    layout (target) and has a tokenizer that names them. base, merge_dtype: as in `read_source`.
    """
    layout, config = read_source(path, base, merge_dtype=merge_dtype)
    found = translated(path, layout, config)
    tensors = {name: transposed(tensor) if is_turned else tensor for name, (tensor, is_turned) in found.tensors.items()}
    check_complete(path, config, tensors)
    tensors = {name: tensors[name] for name in parameter_shapes(config)}  # so that the same model gives the same files
    dropped = [*found.dropped, *(layout.left_out(config) if isinstance(layout, SideFiles) else [])]
    home = tokenizer_folder(path, layout)
    has_tokenizer = any((home / name).is_file() for name in VOCABULARIES)
    tokenizer = load_tokenizer(home) if has_tokenizer else None
    notices = tuple(notices_of(path, layout, config))
    checkpoint = Checkpoint(path, layout, config, tensors, tokenizer, dropped, notices=notices)
    rows_from = vocabulary_home(path, layout, config)
    num_own = None
    if rows_from is not None and rows_from[1] is hf:
        num_own = hf.own_vocab_size(home, read_json(rows_from[0] / "config.json"), checkpoint.tensors[EMBEDDING])
    if num_own is None or (target is hf and has_tokenizer):
        return dataclasses.replace(checkpoint, num_own_rows=num_own)
    return _without_added_rows(checkpoint, num_own, home)


def open_written(path: Path, source: Checkpoint) -> Checkpoint:
    """Open what was written of a source, with as many rows of the vocabulary as it was opened with, if that can be."""
    whole = open_checkpoint(path, hf)
    is_same = whole.config.language.vocab_size == source.config.language.vocab_size
    return whole if is_same else open_checkpoint(path)


def _without_added_rows(checkpoint: Checkpoint, num_rows: int, home: Path) -> Checkpoint:
    """Cut off the rows of `<image>`, `<pad>` and padding, and the two tokens. home: folder of the tokenizer."""
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    tensors = dict(checkpoint.tensors)
    tensors[EMBEDDING] = sliced_rows(tensors[EMBEDDING], 0, num_rows)
    if HEAD in tensors:
        tensors[HEAD] = transposed(sliced_rows(transposed(tensors[HEAD]), 0, num_rows))
    return dataclasses.replace(
        checkpoint,
        config=dataclasses.replace(config, language=dataclasses.replace(config.language, vocab_size=num_rows)),
        tensors=tensors,
        tokenizer=tokenizer and hf_tokenizer.read_tokenizer(home, num_rows),
        cut=_describe_cut(num_rows, config.language.vocab_size, tokenizer),
        is_cut_padding=all(are_alike(rows, num_rows) for rows in _vocabularies(checkpoint)),
    )


def _vocabularies(checkpoint: Checkpoint) -> list[StoredTensor]:
    """Return the matrices with a row for each token."""
    tensors = checkpoint.tensors
    return [tensors[EMBEDDING], *([transposed(tensors[HEAD])] if HEAD in tensors else [])]


def _describe_cut(start: int, stop: int, tokenizer: Tokenizer | None) -> str:
    """Return which ids are cut off and what the tokenizer calls them."""
    names = [] if tokenizer is None else [tokenizer.id_to_piece(n) for n in range(start, tokenizer.vocab_size)]
    unnamed = stop - start - len(names)
    words = [*names, f"{unnamed} that no token has"] if unnamed else names
    return f"{stop - start} (ids {start} to {stop - 1}: {', '.join(words)})"

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
from .files import StoredTensor, read_json
from .layouts import hf, hf_tokenizer
from .layouts.components import EMBEDDING, HEAD
from .shapes import check_complete, parameter_shapes
from .side_files import SideFiles
from .source import read_source, tokenizer_folder, translated, vocabulary_home
from .transforms import cast, sliced_rows, transposed


@dataclass(frozen=True)
class Checkpoint:
    """tensors: our names, our orientation, lazy. dropped: the stored names that are left out on purpose."""

    path: Path
    layout: Any
    config: LlavaConfig
    tensors: dict[str, StoredTensor]
    tokenizer: Tokenizer | None
    dropped: list[str]

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

    Vocabulary rows that llava-hf's layout adds are cut off when the folder has that layout, or is to get it (target).
    base, merge_dtype: as in `read_source`.
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
    checkpoint = Checkpoint(path, layout, config, tensors, tokenizer, dropped)
    rows_from = vocabulary_home(path, layout, config)
    is_padded = rows_from is not None and hf in (rows_from[1], target)
    return _without_added_rows(checkpoint, rows_from[0], home) if is_padded else checkpoint


def _without_added_rows(checkpoint: Checkpoint, language: Path, home: Path) -> Checkpoint:
    """Cut off the rows of `<image>`, `<pad>` and padding, and the two tokens, where they can be told.

    language: folder with the language model's config.json. home: folder of the tokenizer.
    """
    config = checkpoint.config
    num_rows = hf.own_vocab_size(home, read_json(language / "config.json"), config)
    if num_rows is None or num_rows >= config.language.vocab_size:
        return checkpoint
    tensors = dict(checkpoint.tensors)
    tensors[EMBEDDING] = sliced_rows(tensors[EMBEDDING], 0, num_rows)
    if HEAD in tensors:
        tensors[HEAD] = transposed(sliced_rows(transposed(tensors[HEAD]), 0, num_rows))
    return dataclasses.replace(
        checkpoint,
        config=dataclasses.replace(config, language=dataclasses.replace(config.language, vocab_size=num_rows)),
        tensors=tensors,
        tokenizer=checkpoint.tokenizer and hf_tokenizer.read_tokenizer(home, num_rows),
    )

"""The tokens around an image, `<im_start>` and `<im_end>`, added to a language model that has none."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from ..conversation.templates import IMAGE_MARKS
from ..conversation.tokenizer import Tokenizer
from ..conversation.tokenizer_files import ADDED_FILE, CONFIG_FILE, TokenizerFiles
from ..tensor_files.stored import CheckpointError, StoredTensor
from ..tensor_files.transforms import cast, gathered_rows, padded_rows, sliced_rows, transposed
from .layouts.components import EMBEDDING, HEAD
from .layouts.folder import Folder

NUM_MARKS = len(IMAGE_MARKS)


def check_marks(tokenizer: Tokenizer, folder: Folder) -> None:
    """Raise CheckpointError if the tokenizer of a model with marks lacks one. folder: of the tokenizer."""
    missing = [mark for mark in IMAGE_MARKS if mark not in tokenizer.specials]
    if missing:
        raise CheckpointError(
            f"{folder}: the model has {' and '.join(IMAGE_MARKS)} around each image (mm_use_im_start_end), but its "
            f"tokenizer lacks {' and '.join(missing)}: copy added_tokens.json and tokenizer_config.json from where the "
            "model was published"
        )


def has_marks(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer has both marks. Raises CheckpointError if it has only one of them."""
    found = [mark for mark in IMAGE_MARKS if mark in tokenizer.specials]
    if len(found) == 1:
        raise CheckpointError(f"the tokenizer of the language model has only {found[0]} of {' and '.join(IMAGE_MARKS)}")
    return bool(found)


def with_mark_tokens(files: TokenizerFiles, start: int) -> TokenizerFiles:
    """Return the files of a tokenizer with both marks as special tokens, with the ids start and start + 1."""
    config = files.read_json(CONFIG_FILE)
    decoder = config.get("added_tokens_decoder")
    if decoder is None:  # added_tokens.json counts only without a decoder, and its tokens are ordinary ones
        decoder = {str(number): {"content": text} for text, number in files.read_json(ADDED_FILE).items()}
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False) | {"special": True}
    new = {str(start + place): {"content": mark, **flags} for place, mark in enumerate(IMAGE_MARKS)}
    config = {**config, "added_tokens_decoder": {**decoder, **new}}
    contents = {**files.contents, CONFIG_FILE: json.dumps(config, indent=2, ensure_ascii=False).encode()}
    if ADDED_FILE in contents:
        listed = files.read_json(ADDED_FILE) | {mark: start + place for place, mark in enumerate(IMAGE_MARKS)}
        contents[ADDED_FILE] = json.dumps(listed, indent=2, ensure_ascii=False).encode()
    return dataclasses.replace(files, contents=contents)


def with_mark_rows(
    tensors: Mapping[str, StoredTensor], start: int, trained: StoredTensor | None = None
) -> dict[str, StoredTensor]:
    """Return tensors by our names in which embeddings and head have rows for the marks.

    start: the first mark's id, and the number of the rows before it that tokens use. A new row is their mean, as in
    LLaVA (initialize_vision_tokenizer in llava/model/llava_arch.py). trained: rows [2, width] for the embeddings
    instead. Rows for padding behind the marks stay.
    """
    grown = dict(tensors)
    grown[EMBEDDING] = _grown(tensors[EMBEDDING], start, trained)
    if HEAD in tensors:
        grown[HEAD] = transposed(_grown(transposed(tensors[HEAD]), start, None))
    return grown


def _grown(rows: StoredTensor, start: int, trained: StoredTensor | None) -> StoredTensor:
    stop, last = start + NUM_MARKS, rows.shape[0]
    used = sliced_rows(rows, 0, start)
    if trained is None:
        grown = padded_rows(used, stop, "mean")
    else:
        sources = [used, cast(trained, rows.dtype)]
        grown = gathered_rows(sources, [(0, 0, start), (1, 0, NUM_MARKS)], "joined")
    return gathered_rows([grown, rows], [(0, 0, stop), (1, stop, last)], "joined") if last > stop else grown


def marks_of(path: Path, embeddings: StoredTensor | None, num_rows: int) -> StoredTensor | None:
    """Return the marks' rows [2, width] of the embeddings in a projector's file, None if it has none.

    num_rows: of the model with marks. A file of stage 1 has all embeddings, the marks' rows last, or these two only
    (initialize_vision_tokenizer in llava/model/llava_arch.py). Raises CheckpointError for another number of rows.
    """
    if embeddings is None:
        return None
    found = embeddings.shape[0]
    if found not in (NUM_MARKS, num_rows):
        raise CheckpointError(
            f"{path} has {found} rows of token embeddings, expected {num_rows}, as the language model with marks has, "
            f"or {NUM_MARKS}: it belongs to another language model"
        )
    return sliced_rows(embeddings, found - NUM_MARKS, found)

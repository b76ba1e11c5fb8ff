"""`<image>` and `<pad>` as llava-hf adds them to a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...conversation.added_tokens import AddedToken
from ...conversation.tokenizer import Tokenizer
from ...conversation.tokenizer_files import ADDED_FILE, CONFIG_FILE, FAST_FILE, SPECIALS_FILE
from ...output import write_json
from ...tensor_files.stored import read_json
from . import torch_tokenizer
from .added_rows import IMAGE, PAD
from .hf_fast import FILLER

VOCABULARY_STEP = 64  # llava-hf pads the vocabulary to a multiple of this


@dataclass(frozen=True)
class Places:
    """The ids of a folder's `<image>` and `<pad>`, and how many rows its vocabulary has.

    added: which of the two are new, text -> id. num_original: how many rows the model had before.
    """

    image_id: int
    pad_id: int
    num_rows: int
    added: dict[str, int]
    num_original: int


def find_places(vocab_size: int, tokenizer: Tokenizer | None, num_original: int | None = None) -> Places:
    """Return the ids of `<image>` and `<pad>`: the tokenizer's, else those behind the rows of the model.

    A `<pad>` that is missing beside an `<image>` takes the next row without a token. num_original: see Places, None for
    all rows.
    """
    known = {} if tokenizer is None else tokenizer.specials
    ids = {text: known[text] for text in (IMAGE, PAD) if text in known}
    free = tokenizer.vocab_size if IMAGE in ids else vocab_size
    added = {text: free + place for place, text in enumerate(text for text in (IMAGE, PAD) if text not in ids)}
    num_needed = max([vocab_size, *(number + 1 for number in added.values())])
    num_rows = vocab_size if num_needed == vocab_size else -(-num_needed // VOCABULARY_STEP) * VOCABULARY_STEP
    return Places((ids | added)[IMAGE], (ids | added)[PAD], num_rows, added, num_original or vocab_size)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, vocab_size: int, processor_class: str) -> None:
    """Write a tokenizer with `<image>` and `<pad>`, which are added if it lacks them.

    Raises CheckpointError if it has more tokens than the model has rows.
    """
    torch_tokenizer.write_tokenizer(tokenizer, vocab_size, folder, is_final=False)
    places = find_places(vocab_size, tokenizer)
    new = [AddedToken(text, number, is_special=True) for text, number in places.added.items()]
    last = min(places.added.values(), default=0)
    new += [AddedToken(FILLER.format(n), n, is_special=True) for n in range(tokenizer.vocab_size, last)]
    new.sort(key=lambda token: token.token_id)
    if (folder / FAST_FILE).is_file():
        spec = read_json(folder / FAST_FILE)
        spec["added_tokens"] += [token.as_json() for token in new]
        write_json(folder / FAST_FILE, spec)
    _add_to_settings(folder, new, processor_class)
    torch_tokenizer.write_fast(tokenizer, folder)


def _add_to_settings(folder: Path, new: list[AddedToken], processor_class: str) -> None:
    """Name the new tokens in the settings files, for slow and fast tokenizers."""
    config, specials, ids = (read_json(folder / name) for name in (CONFIG_FILE, SPECIALS_FILE, ADDED_FILE))
    config["added_tokens_decoder"] |= {str(token.token_id): torch_tokenizer.flags(token) for token in new}
    config |= {
        "extra_special_tokens": {"image_token": IMAGE},
        "image_token": IMAGE,
        "pad_token": PAD,
        "padding_side": "left",
        "processor_class": processor_class,
    }
    write_json(folder / CONFIG_FILE, config)
    write_json(folder / SPECIALS_FILE, specials | {"pad_token": PAD})
    write_json(folder / ADDED_FILE, ids | {token.text: token.token_id for token in new})

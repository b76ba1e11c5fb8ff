"""The interface of a tokenizer: text to token ids and back. It knows no template and no role."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Tokenizer(Protocol):
    """Text to ids and back. Can be pickled, so that loader workers get their own.

    bos_id: None if the vocabulary has none. pad_id: the pad token if the vocabulary has one, else unk, else eos; it has
    no effect, since segment ids, not token ids, define what is padding. vocab_size: the highest id plus one. add_bos:
    whether a conversation starts with BOS. specials: all special tokens, text to id. hidden_ids: the special tokens
    that are not shown to a reader. has_text_prefix: whether encoding puts a space before the start of a text, which
    decoding removes.
    """

    bos_id: int | None
    eos_id: int
    pad_id: int
    vocab_size: int
    add_bos: bool
    specials: dict[str, int]
    hidden_ids: frozenset[int]
    has_text_prefix: bool

    def encode(self, text: str, *, is_start: bool) -> list[int]:
        """Return the ids of plain text, in which nothing is special, not even `</s>`.

        is_start: whether the text starts a stretch of text or continues one, without a space in front.
        """

    def special_id(self, text: str) -> int:
        """Return the id of a special token; raise ValueError, with all special tokens, if the vocabulary lacks it."""

    def special_ids(self, text: str, *, is_start: bool) -> list[int]:
        """Return the ids of a special token at its place: some tokenizers keep the first space before it."""

    def has_prefix_after(self, special_id: int) -> bool:
        """Return whether text after this special token gets a space in front, as the start of a text does."""

    def is_stripped_after(self, special_id: int) -> bool:
        """Return whether white space after this special token is removed."""

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of ids; invalid UTF-8 becomes U+FFFD."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes that an id adds to the text, possibly part of a character."""

    def id_to_piece(self, token_id: int) -> str:
        """Return the spelling of an id in the vocabulary, for messages."""

    def save(self, folder: str | Path) -> None:
        """Write the files that `load_tokenizer` reads."""

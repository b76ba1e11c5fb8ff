"""What every tokenizer offers, and how a folder becomes one. Knows no template and no role."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from .fast_tokenizer import FastTokenizer
from .sentencepiece_tokenizer import SentencePieceTokenizer
from .tokenizer_files import FAST_FILE, TokenizerFiles
from .vocabulary_choice import read_files


class Tokenizer(Protocol):
    """Text to ids and back. It can be pickled, so that loader workers get their own.

    bos_id: None when the vocabulary has none. pad_id: the pad token if the vocabulary has it, else unk, else eos; what
    stands in padding is never seen, because segment ids, not token ids, say what is padding.
    vocab_size: the highest id plus one. add_bos: a conversation starts with BOS.
    specials: all special tokens, text to id. hidden_ids: those that are no part of what a reader sees.
    has_text_prefix: the start of a text gets a space in front, which decoding takes away again.
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

        is_start: the text starts a stretch of its own, otherwise it continues one without a space in front.
        """

    def special_id(self, text: str) -> int:
        """Return the id of a special token; raise ValueError with all of them if the vocabulary lacks it."""

    def special_ids(self, text: str, *, is_start: bool) -> list[int]:
        """Return the ids of a special token where it stands: some tokenizers leave the first space before it."""

    def has_prefix_after(self, special_id: int) -> bool:
        """Return whether text after this special token gets a space in front, as the start of a text does."""

    def is_stripped_after(self, special_id: int) -> bool:
        """Return whether white space after this special token is not read."""

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of ids; invalid UTF-8 becomes U+FFFD."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return what an id adds to the text, in UTF-8, possibly part of a character."""

    def id_to_piece(self, token_id: int) -> str:
        """Return the vocabulary's own spelling of an id, for messages."""

    def save(self, folder: str | Path) -> None:
        """Write what load_tokenizer reads."""


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Return the tokenizer of a checkpoint folder.

    A SentencePiece model (PaddleMIX's sentencepiece.bpe.model, or tokenizer.model) goes before tokenizer.json, because
    LLaVA was trained with the slow tokenizer. Raises ValueError that names the folder.
    """
    return make_tokenizer(read_files(folder))


def make_tokenizer(files: TokenizerFiles) -> Tokenizer:
    """Return the tokenizer that files describe. Raises ValueError."""
    return FastTokenizer(files) if files.vocabulary == FAST_FILE else SentencePieceTokenizer(files)

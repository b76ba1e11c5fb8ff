"""Load the tokenizer of a folder."""

from __future__ import annotations

from pathlib import Path

from .fast_tokenizer import FastTokenizer
from .sentencepiece_tokenizer import SentencePieceTokenizer
from .tokenizer import Tokenizer
from .tokenizer_files import FAST_FILE, TokenizerFiles
from .vocabulary_choice import read_files


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Return the tokenizer of a checkpoint folder.

    A SentencePiece model (PaddleMIX's sentencepiece.bpe.model, or tokenizer.model) has priority over tokenizer.json,
    because LLaVA was trained with the slow tokenizer. Raises ValueError, which names the folder.
    """
    return make_tokenizer(read_files(folder))


def make_tokenizer(files: TokenizerFiles) -> Tokenizer:
    """Return the tokenizer of files. Raises ValueError."""
    return FastTokenizer(files) if files.vocabulary == FAST_FILE else SentencePieceTokenizer(files)

"""Tokenize with SentencePiece models as LLaMA does, for both values of `legacy`. Special tokens in text stay text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from .added_tokens import NEVER_READ, AddedToken, AddedTokenSplitter, check_ids, find_special
from .detokenize import decode
from .sentencepiece_proto import (
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    ModelFacts,
    read_facts,
    with_control_pieces,
    with_dummy_prefix,
)
from .tokenizer_files import TokenizerFiles, write_files
from .tokenizer_settings import TokenizerSettings, choose_bos, read_settings
from .vocabulary_choice import TIKTOKEN, is_tiktoken

SPACE_PIECE = "▁"
CHAT_MARK = re.compile(r"<\|[^|<>]*\|>")  # like <|im_start|>: special even if no settings file says so
BARE_MARKS = ("<eoh>", "<eoa>")  # likewise InternLM's ends of a question and of an answer


class SentencePieceTokenizer:
    """Returns the ids of transformers' slow LlamaTokenizer, for text in which nothing is special.

    legacy: the model puts a space before every text that does not continue another one, also after a special token.
    Not legacy: it puts one only at the start of the whole text and after an image.
    """

    def __init__(self, files: TokenizerFiles):
        self._files = files
        settings = read_settings(files)
        model = files.contents[files.vocabulary]
        self._facts = facts = _read_model(files, model)
        ids = {text: index for index, (text, _) in enumerate(facts.pieces)}
        where = f"the settings of the tokenizer in {files.folder}"
        check_ids(settings.added.values(), lambda token_id: None, where)
        self._added = {token.token_id: text for text, token in settings.added.items()}
        self.specials = _find_specials(facts, settings, ids)
        ordinary = {text: token.token_id for text, token in settings.added.items() if not token.is_special}
        self.hidden_ids = frozenset(i for text, i in self.specials.items() if text not in ordinary)
        self.vocab_size = max([len(facts.pieces) - 1, *self._added]) + 1
        self._splitter = AddedTokenSplitter(settings.added.values())
        # Ordinary tokens stay as they are: the model finds pieces like two spaces, which a text spells differently.
        readable = set(ordinary.values())
        hidden = [i for i in self.specials.values() if i not in readable and _is_typable(facts, i)]
        model = with_control_pieces(model, hidden)

        self.has_text_prefix = facts.add_dummy_prefix if settings.is_legacy else settings.add_prefix_space is not False
        self._stripping = {token.token_id for token in settings.added.values() if token.strips_right}
        self.is_legacy, self._named = settings.is_legacy, settings.named
        known = settings.specials.union(settings.added)
        self._symbol_ids = {
            i for i, (text, kind) in enumerate(facts.pieces) if _is_mark(text, kind) and text not in known
        }
        self._start = sentencepiece.SentencePieceProcessor(model_proto=with_dummy_prefix(model, self.has_text_prefix))
        self._continue = sentencepiece.SentencePieceProcessor(model_proto=with_dummy_prefix(model, False))

        bos = settings.bos or _piece_text(facts, self._start.bos_id())
        eos = settings.eos or _piece_text(facts, self._start.eos_id())
        self.bos_id = self.specials.get(bos)
        if eos not in self.specials:
            raise ValueError(f"tokenizer in {files.folder}: its eos_token {eos!r} is not in the vocabulary")
        self.eos_id = self.specials[eos]
        self.pad_id = self.specials.get(settings.pad, self.specials.get(settings.unk or "<unk>", self.eos_id))
        is_wanted = self.bos_id is not None if settings.add_bos is None else settings.add_bos
        self.add_bos = choose_bos(files, self.bos_id, is_wanted)

    def __reduce__(self):
        return SentencePieceTokenizer, (self._files,)

    def encode(self, text: str, *, is_start: bool) -> list[int]:
        """See Tokenizer."""
        if not text:
            return []
        ids: list[int] = []
        before = SPACE_PIECE if is_start and self.has_text_prefix and not self.is_legacy else ""
        for part in self._splitter.split(text, before=before):
            if isinstance(part, AddedToken):
                ids += self.special_ids(part.text, is_start=is_start)
                is_start = self.has_prefix_after(part.token_id)
            else:
                ids += self._encode(part, is_start)
                is_start = self.is_legacy and self.has_text_prefix
        return ids

    def _encode(self, text: str, is_start: bool) -> list[int]:
        """Return the ids of a text without added tokens."""
        if self._facts.remove_extra_spaces and text.startswith((" ", SPACE_PIECE)):
            # With this option the model removes spaces at the start of its input, also the one between two words.
            return self._start.encode(text)
        return (self._start if is_start else self._continue).encode(text)

    def special_id(self, text: str) -> int:
        """See Tokenizer."""
        return find_special(self.specials, text, self._files.folder)

    def special_ids(self, text: str, *, is_start: bool) -> list[int]:
        """See Tokenizer.

        LlamaTokenizer removes the first space before a special token with a role, and with legacy before every special
        token. Symbols of the model are text for it, with the space in front.
        """
        token_id = self.special_id(text)
        is_cut_out = token_id not in self._symbol_ids and (self.is_legacy or text in self._named)
        prefix = self._continue.encode(SPACE_PIECE) if is_start and self.has_text_prefix and not is_cut_out else []
        return [*prefix, token_id]

    def has_prefix_after(self, special_id: int) -> bool:
        """See Tokenizer."""
        return self.is_legacy and self.has_text_prefix and special_id not in self._symbol_ids

    def is_stripped_after(self, special_id: int) -> bool:
        """See Tokenizer."""
        return special_id in self._stripping

    def id_to_piece(self, token_id: int) -> str:
        """See Tokenizer."""
        if token_id in self._added:
            return self._added[token_id]
        if 0 <= token_id < len(self._facts.pieces):
            return self._facts.pieces[token_id][0]
        last = self.vocab_size - 1
        raise ValueError(f"token id {token_id} is outside the vocabulary of {self._files.folder} (0..{last})")

    def token_bytes(self, token_id: int) -> bytes:
        """See Tokenizer."""
        piece = self.id_to_piece(token_id)
        if token_id in self._added and _piece_text(self._facts, token_id) != piece:
            return piece.encode("utf-8")
        if self._start.is_byte(token_id):
            return bytes([int(piece[3:-1], 16)])
        return piece.replace(SPACE_PIECE, " ").encode("utf-8")

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """See Tokenizer."""
        return decode(self, ids, skip_special=skip_special)

    def save(self, folder: str | Path) -> None:
        """See Tokenizer."""
        write_files(self._files, folder)


def _read_model(files: TokenizerFiles, model: bytes) -> ModelFacts:
    try:
        facts = read_facts(model)
        sentencepiece.SentencePieceProcessor(model_proto=model)
    except (ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        what = f"{files.where} ({len(model)} bytes) is not a SentencePiece model: {error}"
        if is_tiktoken(model):
            raise ValueError(f"{what}; {TIKTOKEN}: add its tokenizer.json to the folder") from error
        raise ValueError(f"{what}; copy or download it again") from error
    return facts


def _find_specials(facts: ModelFacts, settings: TokenizerSettings, ids: dict[str, int]) -> dict[str, int]:
    """Return all special tokens: of the model, of the settings, and marks like <|im_start|> among the symbols."""
    specials = {
        text: index
        for index, (text, kind) in enumerate(facts.pieces)
        if kind in (CONTROL, UNKNOWN) or _is_mark(text, kind)
    }
    specials |= {text: ids[text] for text in settings.specials | NEVER_READ if text in ids}
    specials |= {text: token.token_id for text, token in settings.added.items()}
    overridden = {token.token_id: text for text, token in settings.added.items()}
    return {text: index for text, index in specials.items() if overridden.get(index, text) == text}


def _is_mark(text: str, kind: int) -> bool:
    return text in BARE_MARKS or (kind == USER_DEFINED and CHAT_MARK.fullmatch(text) is not None)


def _is_typable(facts: ModelFacts, token_id: int) -> bool:
    """Return whether the model finds this piece in a text."""
    return token_id < len(facts.pieces) and facts.pieces[token_id][1] not in (CONTROL, UNKNOWN)


def _piece_text(facts: ModelFacts, token_id: int) -> str | None:
    return facts.pieces[token_id][0] if 0 <= token_id < len(facts.pieces) else None

"""Tokens that a folder adds to its vocabulary, and how a slow tokenizer of transformers finds them in a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..foreign_json import FLAG, Kind, check_values, whole_number
from .templates import TEMPLATES

MAX_ID = 1 << 24  # no vocabulary is larger, and a table as long as the largest id must fit into memory
TOKEN_ID = whole_number(0, MAX_ID)
CONTENT = Kind(lambda value: isinstance(value, str) and value != "", "a text that is not empty")
KINDS = {"content": CONTENT, "id": TOKEN_ID, **dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), FLAG)}
KINDS |= {"special": FLAG}
# What the package itself puts in by id. It stays text in a text, even in a folder that calls it an ordinary token.
NEVER_READ = frozenset(token for one in TEMPLATES.values() for token in (*one.special_tokens, *one.extra_stop_tokens))
NEVER_READ |= {"<image>", "<pad>", "<s>", "<unk>"}


@dataclass(frozen=True)
class AddedToken:
    """A token beside the vocabulary; the flags are those of transformers' AddedToken.

    is_special: it stays text where somebody typed it. strips_left, strips_right: it swallows white space there.
    is_word: it is found as a word of its own only. is_normalized: it is looked for in the normalized text.
    """

    text: str
    token_id: int
    is_special: bool
    strips_left: bool = False
    strips_right: bool = False
    is_word: bool = False
    is_normalized: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the token as tokenizer.json lists it."""
        return {
            "id": self.token_id,
            "content": self.text,
            "single_word": self.is_word,
            "lstrip": self.strips_left,
            "rstrip": self.strips_right,
            "normalized": self.is_normalized,
            "special": self.is_special,
        }


def parse_token(stated: Any, token_id: Any, where: str) -> AddedToken:
    """Return a token from an object with `content` and flags, or from its text alone. Raises ValueError."""
    values = {"content": stated} if isinstance(stated, str) else stated
    if not isinstance(values, Mapping) or "content" not in values:
        raise ValueError(f"{where} has {stated!r}: expected a string or an object with 'content'")
    check_values({**values, "id": token_id}, KINDS, f"{where}, token {values['content']!r}")
    is_special = values.get("special", False)
    return AddedToken(
        text=values["content"],
        token_id=token_id,
        is_special=is_special,
        strips_left=values.get("lstrip", False),
        strips_right=values.get("rstrip", False),
        is_word=values.get("single_word", False),
        is_normalized=values.get("normalized", not is_special),
    )


class AddedTokenSplitter:
    """Cuts a text at the added tokens that may be read, as PreTrainedTokenizer.tokenize of transformers does."""

    def __init__(self, tokens: Iterable[AddedToken]):
        self._tokens = {token.text: token for token in tokens}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._find = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._has_readable = any(not token.is_special for token in self._tokens.values())

    def split(self, text: str) -> list[str | AddedToken]:
        """Return texts and tokens in their order. A special token is part of the text around it."""
        if not self._has_readable:
            return [text] if text else []
        parts = self._cut(text)
        for index, part in enumerate(parts):
            if isinstance(part, AddedToken):
                _apply_flags(parts, index, part)
        return [part for part in parts if part != ""]

    def _cut(self, text: str) -> list[str | AddedToken]:
        """Return text, token, text, ..., token, text."""
        parts: list[str | AddedToken] = []
        start = 0
        for match in self._find.finditer(text):
            token = self._tokens[match.group()]
            if not token.is_special:
                parts += [text[start : match.start()], token]
                start = match.end()
        return [*parts, text[start:]]


def _apply_flags(parts: list[str | AddedToken], index: int, token: AddedToken) -> None:
    """Let a token take white space beside it, or become text again where it is not a word of its own."""
    left, right = parts[index - 1], parts[index + 1]
    if token.strips_right:
        right = right.lstrip()
    if token.strips_left:
        left = left.rstrip()
    if token.is_word and left and not left.endswith(" "):
        left, parts[index] = left + token.text, ""
    elif token.is_word and right and not right.startswith(" "):
        right, parts[index] = token.text + right, ""
    parts[index - 1], parts[index + 1] = left, right


def check_ids(tokens: Iterable[AddedToken], piece_of: Callable[[int], str | None], where: str) -> None:
    """Raise ValueError for two tokens with one id, or one whose id the vocabulary gives to another text."""
    seen: dict[int, str] = {}
    for token in tokens:
        other = seen.setdefault(token.token_id, token.text)
        piece = piece_of(token.token_id)
        if other != token.text or piece not in (None, token.text):
            rival = other if other != token.text else piece
            raise ValueError(f"{where}: the id {token.token_id} is that of {token.text!r} and of {rival!r}")

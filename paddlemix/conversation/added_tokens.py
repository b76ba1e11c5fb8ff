"""Tokens that a folder adds to its vocabulary, and the way a slow tokenizer of transformers finds them in a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..foreign_json import FLAG, Kind, check_values, whole_number
from .messages import check_unicode
from .templates import IMAGE_MARKS, TEMPLATES

MAX_ID = 1 << 24  # larger than any vocabulary; a table of this length must fit into memory
MAX_TOKENS = 1 << 14  # added to a vocabulary; released models have 6,400 at most
TOKEN_ID = whole_number(0, MAX_ID)
CONTENT = Kind(lambda value: isinstance(value, str) and value != "", "a text that is not empty")
KINDS = {"content": CONTENT, "id": TOKEN_ID, **dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), FLAG)}
KINDS |= {"special": FLAG}
# Tokens that this package inserts by id. In a text they stay text, even if a folder calls them ordinary tokens.
NEVER_READ = frozenset(token for one in TEMPLATES.values() for token in (*one.special_tokens, *one.extra_stop_tokens))
NEVER_READ |= {"<image>", "<pad>", "<s>", "<unk>", *IMAGE_MARKS}


@dataclass(frozen=True)
class AddedToken:
    """A token added to the vocabulary, with the flags of transformers' AddedToken.

    is_special: it stays text in a text. strips_left, strips_right: it removes white space on this side. is_word: it is
    found only as a whole word. is_normalized: it is looked for in the normalized text.
    """

    text: str
    token_id: int
    is_special: bool
    strips_left: bool = False
    strips_right: bool = False
    is_word: bool = False
    is_normalized: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the token as in tokenizer.json."""
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
    """Return the token of an object with `content` and flags, or of its text alone. Raises ValueError."""
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


def check_number(number: int, where: str) -> None:
    """Raise ValueError for too many tokens to search a text for."""
    if number > MAX_TOKENS:
        raise ValueError(f"{where} has {number:,} tokens, expected at most {MAX_TOKENS:,}")


class AddedTokenSplitter:
    """Splits a text at its added tokens that are not special, as transformers' PreTrainedTokenizer.tokenize does."""

    def __init__(self, tokens: Iterable[AddedToken]):
        self._tokens = {token.text: token for token in tokens}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._find = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._has_readable = any(not token.is_special for token in self._tokens.values())

    def split(self, text: str, *, before: str = "") -> list[str | AddedToken]:
        """Return texts and tokens in order. A special token is part of the text around it.

        before: the text in front, which decides whether a token at the start is a whole word. Raises ValueError for
        half of a surrogate pair.
        """
        check_unicode(text)
        if not self._has_readable:
            return [text] if text else []
        texts = [before, *self._cut(text)] if before else self._cut(text)
        tokens: list[AddedToken | None] = [None] * len(texts)
        for index in range(len(texts)):
            token = self._readable(texts[index])  # not the text as it was cut: it may have absorbed a neighbor since
            tokens[index] = token if token is not None and _apply_flags(texts, index, token) else None
        texts[:1] = [texts[0].removeprefix(before)] if texts else []
        # A token that was joined to its neighbor leaves an empty text, and one that absorbed another is text.
        kept = zip(texts, tokens, strict=True)
        return [token if token is not None and token.text == text else text for text, token in kept if text]

    def _readable(self, text: str) -> AddedToken | None:
        token = self._tokens.get(text)
        return None if token is None or token.is_special else token

    def _cut(self, text: str) -> list[str]:
        """Return the parts of a text, tokens that are not special and the texts between them, without empty ones."""
        texts, start = [], 0
        for match in self._find.finditer(text):
            if not self._tokens[match.group()].is_special:
                texts += [text[start : match.start()], match.group()]
                start = match.end()
        return [part for part in (*texts, text[start:]) if part]


def _apply_flags(texts: list[str], index: int, token: AddedToken) -> bool:
    """Let a token remove the white space beside it; return whether it is a token, or text since it is not a whole word.

    Changes `texts` as transformers does: a token that is text is joined to the text before it, or after it.
    """
    has_left, has_right = index > 0, index + 1 < len(texts)
    if token.strips_right and has_right:
        texts[index + 1] = texts[index + 1].lstrip()
    if token.strips_left and has_left:
        texts[index - 1] = texts[index - 1].rstrip()
    left = texts[index - 1] if has_left else ""
    if token.is_word and left and not left.endswith(" "):
        texts[index - 1], texts[index] = left + token.text, ""
        return False
    if token.is_word and has_right and texts[index + 1] and not texts[index + 1].startswith(" "):
        texts[index], texts[index + 1] = "", token.text + texts[index + 1]
        return False
    return True


def check_ids(tokens: Iterable[AddedToken], piece_of: Callable[[int], str | None], where: str) -> None:
    """Raise ValueError for two tokens with one id, or a token with the id of another text in the vocabulary."""
    seen: dict[int, str] = {}
    for token in tokens:
        other = seen.setdefault(token.token_id, token.text)
        piece = piece_of(token.token_id)
        if other != token.text or piece not in (None, token.text):
            rival = other if other != token.text else piece
            raise ValueError(f"{where}: both {token.text!r} and {rival!r} have the id {token.token_id}")


def find_special(specials: Mapping[str, int], text: str, folder: str) -> int:
    """Return the id of a special token; raise ValueError, with all special tokens, if the vocabulary lacks it."""
    if text in specials:
        return specials[text]
    known = ", ".join(sorted(specials, key=specials.get)) or "none"
    raise ValueError(
        f"the vocabulary of {folder} has no special token {text!r} (it has {known}): "
        "use the chat template that the checkpoint was trained with"
    )

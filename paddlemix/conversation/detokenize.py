"""Decode ids to text one at a time: bytes are kept until they form whole characters."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from ..constants import IMAGE_MARK, IMAGE_TOKEN_ID

if TYPE_CHECKING:
    from .tokenizer import Tokenizer


class TextDecoder:
    """Decodes ids piece by piece. All pieces together are the decoded text.

    The space that encoding puts before the start of a text is removed, wherever encoding puts it. is_start: whether the
    ids start a text or continue one.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True, is_start: bool = True):
        self._tokenizer = tokenizer
        self._is_special_skipped = skip_special
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._is_text_start = is_start and tokenizer.has_text_prefix
        self._is_first = is_start

    def add(self, token_id: int) -> str:
        """Return the text that this id completes; raise ValueError for an id outside the vocabulary."""
        is_opening = self._is_first and token_id == self._tokenizer.bos_id
        self._is_first = False
        if token_id == IMAGE_TOKEN_ID:
            text = self.finish() + ("" if self._is_special_skipped else IMAGE_MARK)
            self._is_text_start = self._tokenizer.has_text_prefix
            return text
        content = self._tokenizer.token_bytes(token_id)
        if token_id in self._tokenizer.hidden_ids:
            text = self.finish() + ("" if self._is_special_skipped else content.decode("utf-8"))
            if not is_opening:
                self._is_text_start = self._tokenizer.has_prefix_after(token_id)
            return text
        if self._is_text_start:
            content = content.removeprefix(b" ")
            self._is_text_start = False
        return self._bytes.decode(content)

    def finish(self) -> str:
        """Return the rest of the text, with an incomplete character as U+FFFD."""
        text = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return text


def decode(tokenizer: Tokenizer, ids, *, skip_special: bool) -> str:
    """Return the text of ids."""
    decoder = TextDecoder(tokenizer, skip_special=skip_special)
    return "".join([decoder.add(int(token_id)) for token_id in ids]) + decoder.finish()

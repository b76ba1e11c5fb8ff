"""Answers that match a JSON schema: which tokens may come next. llguidance computes them, from the bytes of tokens."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Collection

import numpy as np

from ..conversation.tokenizer import Tokenizer
from ..json_object import parse_object
from ..packages import missing
from .sampling import Grammar

# White space is that of Python's json.dumps: models write it often, and none can go on forever. lenient: what a schema
# asks for and llguidance cannot do is an error.
OPTIONS = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False, "lenient": False}


class Guide:
    """Follows one answer through a grammar.

    An answer may start with a space, which is not part of its text. end_ids: tokens that end the answer, which may come
    where the grammar is complete. Raises ValueError if llguidance is missing, or for a schema that it cannot follow.
    """

    def __init__(self, tokenizer: Tokenizer, grammar: Grammar, end_ids: Collection[int]):
        vocabulary = _vocabulary(tokenizer)
        self._matcher = _llguidance().LLMatcher(vocabulary, _source(grammar), log_level=0)
        self._eos_id, self._number = tokenizer.eos_id, tokenizer.vocab_size
        self._end_ids = np.array(sorted(token for token in end_ids if token < self._number), dtype=np.int64)
        if self._matcher.is_error():
            raise ValueError(f"the JSON schema cannot be followed: {_reason(self._matcher.get_error())}")
        if not self.allowed().any():
            raise ValueError("the JSON schema cannot be followed: nothing matches it")

    def copy(self) -> Guide:
        """Return a guide at the same place that goes on by itself, without compiling the grammar again."""
        other = copy.copy(self)
        other._matcher = self._matcher.deep_copy()
        return other

    @property
    def is_complete(self) -> bool:
        """Whether the answer matches and cannot go on."""
        return self._matcher.is_stopped()

    def allowed(self) -> np.ndarray:
        """Return whether each token may come next, bool [vocab]."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, count=self._number, bitorder="little").astype(bool)
        is_end, allowed[self._eos_id] = bool(allowed[self._eos_id]), False
        allowed[self._end_ids] |= is_end
        return allowed

    def append(self, token: int) -> None:
        """Go on with a token. Raises ValueError for one that may not come, or if the grammar takes too long."""
        if not self._matcher.consume_token(token):
            raise ValueError(
                f"the grammar cannot be followed after token {token}: {_reason(self._matcher.get_error())}"
            )


class _Bytes:
    """A tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.hidden_ids | {tokenizer.eos_id})

    def __call__(self, text: bytes | str) -> list[int]:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        return self._tokenizer.encode(text, is_start=False)


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer):
    """Return the tokenizer for llguidance. It takes about a second for 150,000 tokens."""
    library = _llguidance()
    return library.LLTokenizer(library.TokenizerWrapper(_Bytes(tokenizer)), n_vocab=tokenizer.vocab_size)


def _llguidance():
    try:
        import llguidance  # optional
    except ImportError:
        raise missing("answers that match a schema need llguidance", "structured") from None
    return llguidance


def _source(grammar: Grammar) -> str:
    """Return a grammar in llguidance's form. Raises ValueError for a schema that is no JSON object."""
    text = '{"type": "object"}' if grammar.schema is None else grammar.schema
    schema = parse_object(text.encode("utf-8"), ValueError, "the JSON schema")
    # As JSON again, so that no text of the schema is read as a part of the grammar around it.
    rules = json.dumps({**schema, "x-guidance": OPTIONS})
    return _llguidance().LLMatcher.grammar_from_lark(f'start: " "? answer\nanswer: %json {rules}')


def _reason(message: str) -> str:
    """Return the first line of an error of llguidance, without its place in the source."""
    return message.partition("\n")[0].rpartition("failed to compile JSON schema: ")[2]

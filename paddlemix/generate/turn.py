"""A question of a conversation, its ids, and its answer while it is decoded. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..conversation.detokenize import TextDecoder
from ..conversation.messages import Message
from ..conversation.tokenize import tokenize_turn
from ..conversation.tokenizer import Tokenizer
from ..image.preprocess import ImageTiles, content_key
from .cache_keys import Key, keys_of
from .sampling import SamplingParams


class ContextFullError(ValueError):
    """The conversation does not fit into the model's context any more. Nothing was changed."""


@dataclass(eq=False)
class Turn:
    """A question with its images, its ids, and the ids that were generated for it.

    is_closed: the answer ended with its end mark. finish_reason: "stop", "length" (max_new_tokens), "context" (the
    context is full) or "interrupted". Turns are not compared by value: the same question asked twice is two turns.
    """

    question: Message
    images: list[tuple[str, ImageTiles]]
    prompt_ids: list[int]
    answer_ids: list[int] = field(default_factory=list)
    answer: str = ""
    is_closed: bool = False
    finish_reason: str = "interrupted"

    @property
    def prompt_keys(self) -> list[Key]:
        return keys_of(self.prompt_ids, self.images)


def named_image(processor, image: Any) -> tuple[str, ImageTiles]:
    """Load and preprocess an image (path, URL, data URI, bytes, PIL); return it with its content key.

    Raises ImageError.
    """
    tiles = processor.tiles(image)
    return content_key(tiles), tiles


def new_turn(
    processor,
    text: str,
    images: Sequence[tuple[str, ImageTiles]],
    previous: Turn | None = None,
    system: str | None = None,
) -> Turn:
    """Return a turn of a typed text with its images before it. system: in place of the template's system text."""
    question = Message.typed(text, len(images))
    return Turn(question, list(images), prompt_ids(processor, question, images, previous, system))


def prompt_ids(processor, question: Message, images, previous: Turn | None, system: str | None) -> list[int]:
    """Return the ids of a question after the previous turn, or as the first one."""
    return tokenize_turn(
        question,
        processor.template,
        processor.tokenizer,
        [tiles.num_tokens for _, tiles in images],
        is_first=previous is None,
        is_previous_closed=previous is None or previous.is_closed,
        system=system,
    )


def check_room(num_tokens: int, context: int) -> int:
    """Return how many tokens an answer may have after num_tokens. Raises ContextFullError if none."""
    if num_tokens >= context:
        raise ContextFullError(
            f"this turn would make the conversation {num_tokens} tokens long, but the context of the model holds "
            f"{context}: start again (/clear) or drop old turns"
        )
    return context - num_tokens


class Writer:
    """Appends the tokens of an answer to its turn, and decides when it ends.

    eos_ids: of the model. room: how many more tokens fit into the context.
    """

    def __init__(self, turn: Turn, processor, sampling: SamplingParams, eos_ids: Sequence[int], room: int):
        tokenizer, template = processor.tokenizer, processor.template
        # A stop token that the vocabulary lacks cannot be generated: not every folder has all marks of its template.
        ends = (token for token in template.stop_tokens if token == template.answer_end or token in tokenizer.specials)
        end_ids = {tokenizer.special_id(token) for token in ends}
        self.turn = turn
        self.is_open = True
        self.budget = min(sampling.max_new_tokens, room)
        self._limit = "length" if self.budget == sampling.max_new_tokens else "context"
        self._stops = set() if sampling.ignore_eos else end_ids | set(eos_ids)
        self._end_id = tokenizer.special_id(template.answer_end) if template.is_end_special else None
        self._end_texts = template.stop_strings
        self._decoder = StreamDecoder(tokenizer, (*template.stop_strings, *sampling.stop))
        self._num_left = self.budget

    def append(self, token: int) -> str:
        """Append the next token; return new text, often empty."""
        turn, decoder = self.turn, self._decoder
        self._num_left -= 1
        if token in self._stops:
            turn.is_closed = token == self._end_id
            turn.answer_ids += [token] if turn.is_closed else []
            return self._finish("stop")
        turn.answer_ids.append(token)
        text = decoder.append(token)
        turn.answer += text
        if decoder.is_stopped:
            turn.is_closed = decoder.stop_string in self._end_texts
            return text + self._finish("stop")
        return text if self._num_left else text + self._finish(self._limit)

    def _finish(self, reason: str) -> str:
        self.is_open = False
        self.turn.finish_reason = reason
        rest = self._decoder.finish()
        self.turn.answer += rest
        return rest


class StreamDecoder:
    """Text of an answer while it is generated.

    All returned pieces together are the decoded ids, cut at the stop string that is complete first, without white space
    at both ends. Text that may still change is held back: part of a character, a possible beginning of a stop string,
    and white space that may turn out to be at the end. A step takes time for the text held back, not for the answer.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str] = ()):
        if isinstance(stop_strings, str) or not all(stop_strings):
            raise ValueError(f"stop strings must be a list of non-empty texts, found {stop_strings!r}")
        self._decoder = TextDecoder(tokenizer)
        self._stop_strings = tuple(stop_strings)
        self._held_back = ""
        self._has_output = False
        self.stop_string: str | None = None  # the one that ended the answer

    @property
    def is_stopped(self) -> bool:
        return self.stop_string is not None

    def append(self, token_id: int) -> str:
        """Append the next id; return new text, often empty. After a stop string it is always empty."""
        return "" if self.is_stopped else self._release(self._decoder.add(token_id), is_last=False)

    def finish(self) -> str:
        """Return the text held back, when there are no more ids."""
        return "" if self.is_stopped else self._release(self._decoder.finish(), is_last=True)

    def _release(self, text: str, *, is_last: bool) -> str:
        text = self._held_back + text
        self.stop_string = self._find_stop(text)
        if self.stop_string is not None:
            text, is_last = text[: text.find(self.stop_string)], True
        end = len(text) if is_last else len(text) - self._num_stop_start(text)
        ready = text[:end] if self._has_output else text[:end].lstrip()
        output = ready.rstrip()
        self._held_back = "" if is_last else ready[len(output) :] + text[end:]
        self._has_output = self._has_output or bool(output)
        return output

    def _find_stop(self, text: str) -> str | None:
        """Return the stop string that is complete first (the longer one of two that end together)."""
        found = [stop for stop in self._stop_strings if stop in text]
        return min(found, key=lambda stop: (text.find(stop) + len(stop), text.find(stop)), default=None)

    def _num_stop_start(self, text: str) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = max(map(len, self._stop_strings), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) and len(stop) > length for stop in self._stop_strings):
                return length
        return 0

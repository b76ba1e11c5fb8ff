"""A question of a conversation, the ids it becomes, and the answer while it is made. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..conversation.messages import Message
from ..conversation.tokenize import tokenize_turn
from ..image.tiles import ImageTiles, content_key
from .cache_keys import Key, keys_of
from .sampling import SamplingParams
from .stream import StreamDecoder


class ContextFullError(ValueError):
    """The conversation does not fit into the model's context any more; nothing was changed."""


@dataclass(eq=False)
class Turn:
    """A question with its pictures, the ids it became, and the ids that were generated for it.

    is_closed: the answer ended with its end mark. finish_reason: "stop", "length" (max_new_tokens), "context" (the
    context is full) or "interrupted". Turns that say the same are still two turns, hence no comparison by value.
    """

    question: Message
    pictures: list[tuple[str, ImageTiles]]
    prompt_ids: list[int]
    answer_ids: list[int] = field(default_factory=list)
    answer: str = ""
    is_closed: bool = False
    finish_reason: str = "interrupted"

    @property
    def prompt_keys(self) -> list[Key]:
        return keys_of(self.prompt_ids, self.pictures)


def named_picture(processor, image: Any) -> tuple[str, ImageTiles]:
    """Load and preprocess a picture (path, URL, data URI, bytes, PIL) and give it its name. Raises ImageError."""
    tiles = processor.tiles(image)
    return content_key(tiles), tiles


def new_turn(
    processor,
    text: str,
    pictures: Sequence[tuple[str, ImageTiles]],
    previous: Turn | None = None,
    system: str | None = None,
) -> Turn:
    """Make a turn of a typed text with its pictures before it. system: other than the template's own."""
    question = Message.typed(text, len(pictures))
    return Turn(question, list(pictures), prompt_ids(processor, question, pictures, previous, system))


def prompt_ids(processor, question: Message, pictures, previous: Turn | None, system: str | None) -> list[int]:
    """Return the ids of a question after the turn before it, or as the first one."""
    return tokenize_turn(
        question,
        processor.template,
        processor.tokenizer,
        [tiles.num_tokens for _, tiles in pictures],
        is_first=previous is None,
        is_previous_closed=previous is None or previous.is_closed,
        system=system,
    )


def check_room(num_tokens: int, context: int) -> int:
    """Return how many tokens an answer may have after so many. Raises ContextFullError when there is no room."""
    if num_tokens >= context:
        raise ContextFullError(
            f"this turn would make the conversation {num_tokens} tokens long, but the context of the model holds "
            f"{context}: start again (/clear) or drop old turns"
        )
    return context - num_tokens


class Writer:
    """Puts the tokens of an answer into its turn, and knows when it ends.

    eos_ids: the model's own. room: how many tokens the context still holds.
    """

    def __init__(self, turn: Turn, processor, sampling: SamplingParams, eos_ids: Sequence[int], room: int):
        tokenizer, template = processor.tokenizer, processor.template
        # What the vocabulary lacks, the model cannot write: a folder's own format need not have all marks of ours.
        ends = (token for token in template.stop_tokens if token == template.answer_end or token in tokenizer.specials)
        end_ids = {tokenizer.special_id(token) for token in ends}
        self.turn = turn
        self.is_open = True
        self.budget = min(sampling.max_new_tokens, room)
        self._full = "length" if self.budget == sampling.max_new_tokens else "context"
        self._stops = set() if sampling.ignore_eos else end_ids | set(eos_ids)
        self._end_id = tokenizer.special_id(template.answer_end) if template.is_end_special else None
        self._end_texts = template.stop_strings
        self._decoder = StreamDecoder(tokenizer, (*template.stop_strings, *sampling.stop))
        self._num_left = self.budget

    def put(self, token: int) -> str:
        """Take the next token; return new text, often empty."""
        turn, decoder = self.turn, self._decoder
        self._num_left -= 1
        if token in self._stops:
            turn.is_closed = token == self._end_id
            turn.answer_ids += [token] if turn.is_closed else []
            return self._finish("stop")
        turn.answer_ids.append(token)
        text = decoder.put(token)
        turn.answer += text
        if decoder.is_stopped:
            turn.is_closed = decoder.stop_string in self._end_texts
            return text + self._finish("stop")
        return text if self._num_left else text + self._finish(self._full)

    def _finish(self, reason: str) -> str:
        self.is_open = False
        self.turn.finish_reason = reason
        rest = self._decoder.finish()
        self.turn.answer += rest
        return rest

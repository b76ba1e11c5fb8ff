"""A question of a conversation, its ids, and the sequence that answers it. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..conversation.messages import Message
from ..conversation.tokenize import tokenize_turn
from ..image.preprocess import ImageTiles, content_key
from ..models.config import LlavaConfig
from ..terminal.sizes import plural
from .cache_keys import Key, keys_of
from .grammar import Guide
from .sampling import SamplingParams
from .sequence import Ending, Sequence
from .stream import StreamDecoder


class ContextFullError(ValueError):
    """The conversation does not fit into the model's context any more. Nothing was changed."""


@dataclass(eq=False)
class Turn:
    """A question with its images and its ids, and the sequence that answers it.

    Turns are not compared by value: the same question asked twice is two turns.
    """

    question: Message
    images: list[tuple[str, ImageTiles]]
    prompt_ids: list[int]
    sequence: Sequence | None = None

    @property
    def prompt_keys(self) -> list[Key]:
        return keys_of(self.prompt_ids, self.images)

    @property
    def answer_ids(self) -> list[int]:
        return self.sequence.answer_ids if self.sequence else []

    @property
    def answer(self) -> str:
        return self.sequence.text if self.sequence else ""

    @property
    def is_closed(self) -> bool:
        """Whether the answer ended with its end mark."""
        return self.sequence is not None and self.sequence.is_closed

    @property
    def finish_reason(self) -> str:
        """As of `Sequence`; "interrupted" for an answer that has not ended."""
        return (self.sequence and self.sequence.finish_reason) or "interrupted"


def named_image(processor, image: Any) -> tuple[str, ImageTiles]:
    """Load and preprocess an image (path, URL, data URI, bytes, PIL); return it with its content key.

    Raises ImageError.
    """
    tiles = processor.tiles(image)
    return content_key(tiles), tiles


def new_turn(
    processor,
    text: str | tuple[str, ...],
    images: Iterable[tuple[str, ImageTiles]],
    previous: Turn | None = None,
    system: str | None = None,
) -> Turn:
    """Return a turn of a typed text with its images.

    text: a string, with the images before it; or a tuple of texts with an image between each two. system: in place of
    the template's system text. Raises ValueError if texts and images do not fit together.
    """
    images = list(images)
    question = Message.typed(text, len(images)) if isinstance(text, str) else Message("user", text)
    if question.num_images != len(images):
        raise ValueError(f"the text has places for {plural(question.num_images, 'image')}, and there are {len(images)}")
    return Turn(question, images, prompt_ids(processor, question, images, previous, system))


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
            f"{context}"
        )
    return context - num_tokens


def sequence_of(
    processor, turns: Iterable[Turn], sampling: SamplingParams, config: LlavaConfig, max_length: int | None = None
) -> Sequence:
    """Return the sequence that answers the last of these turns. Raises ContextFullError if there is no room.

    config: of the model. max_length: tokens of prompt and answer, if fewer than its context holds.
    """
    keys: list[Key] = []
    images: dict[str, ImageTiles] = {}
    for turn in turns:
        keys += turn.prompt_keys + list(turn.answer_ids)
        images.update(turn.images)
    context = config.language.max_position_embeddings
    room = check_room(len(keys), context if max_length is None else min(context, max_length))
    return Sequence(keys, images, sampling, room, ending_of(processor, sampling, config.eos_token_ids))


def ending_of(processor, sampling: SamplingParams, eos_ids: Iterable[int], *, guide: Guide | None = None) -> Ending:
    """Return when an answer in the processor's template ends.

    eos_ids: of the model. guide: through the grammar of the sampling, for this answer alone; None to make one. Raises
    ValueError for a grammar that cannot be followed.
    """
    tokenizer, template = processor.tokenizer, processor.template
    # A stop token that the vocabulary lacks cannot be generated: not every folder has all marks of its template.
    ends = (token for token in template.stop_tokens if token == template.answer_end or token in tokenizer.specials)
    stop_ids = {tokenizer.special_id(token) for token in ends} | set(eos_ids)
    stop_ids = (set() if sampling.ignore_eos else stop_ids).union(sampling.stop_ids)
    # A grammar says where an answer ends, even if it contains what ends one in plain text.
    own_strings = template.stop_strings if sampling.grammar is None else ()
    if guide is None and sampling.grammar is not None:
        guide = Guide(tokenizer, sampling.grammar, stop_ids)
    return Ending(
        stop_ids=frozenset(stop_ids),
        kept_ids=frozenset([tokenizer.special_id(template.answer_end)] if template.is_end_special else []),
        decoder=StreamDecoder(tokenizer, (*own_strings, *sampling.stop)),
        closing_texts=tuple(template.stop_strings),
        num_known=tokenizer.vocab_size,
        guide=guide,
    )

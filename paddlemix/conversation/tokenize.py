"""Tokenize segments to token ids and a mask of the trained ones in one pass, for training and for chat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..constants import IMAGE_TOKEN_ID
from .messages import Message
from .render import Segment, render_closing, render_turn
from .templates import ChatTemplate
from .tokenizer import Tokenizer


def tokenize(
    segments: Iterable[Segment], tokenizer: Tokenizer, num_image_tokens: Sequence[int], *, is_start: bool = True
) -> tuple[list[int], list[bool]]:
    """Return token ids and, for each, whether it is trained.

    num_image_tokens: number of placeholders of each image, in order. is_start: whether the segments start a
    conversation, with a BOS first if the tokenizer adds one, or continue one. A boundary between trained and untrained
    text is always a token boundary, because the prompt of a chat ends there. Raises ValueError if the numbers of images
    and counts differ.
    """
    merged = merge_text(segments)
    num_images = sum(segment.kind == "image" for segment in merged)
    if num_images != len(num_image_tokens):
        raise ValueError(f"{num_images} rendered images but {len(num_image_tokens)} token counts: expected one each")
    if any(count < 1 for count in num_image_tokens):
        raise ValueError(f"every image needs at least one token, found the counts {list(num_image_tokens)}")
    counts = iter(num_image_tokens)
    ids = [tokenizer.bos_id] if is_start and tokenizer.add_bos else []
    is_trained = [False] * len(ids)
    # SentencePiece puts a space before a text that starts a piece; some special tokens strip the spaces after them.
    is_text_start, is_stripped = is_start, False
    for segment in merged:
        if segment.kind == "image":
            new_ids = [IMAGE_TOKEN_ID] * next(counts)
            is_text_start, is_stripped = True, False  # LLaVA tokenizes the texts before and after an image separately
        elif segment.kind == "special":
            new_ids = tokenizer.special_ids(segment.text, is_start=is_text_start)
            is_text_start = tokenizer.has_prefix_after(new_ids[-1])
            is_stripped = tokenizer.is_stripped_after(new_ids[-1])
        else:
            text = segment.text.lstrip() if is_stripped else segment.text
            new_ids = tokenizer.encode(text, is_start=is_text_start)
            if text:
                is_text_start = is_stripped = False
        ids += new_ids
        is_trained += [segment.is_trained and segment.kind != "image"] * len(new_ids)
    return ids, is_trained


def tokenize_turn(
    message: Message,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    num_image_tokens: Sequence[int] = (),
    *,
    is_first: bool,
    is_previous_closed: bool = True,
    system: str | None = None,
) -> list[int]:
    """Return the ids of a new question in a chat, up to the start of its answer.

    They continue the ids so far exactly as if the whole conversation had been tokenized. is_previous_closed: whether
    the ids so far end with the end mark of an answer. If the answer was cut at the length limit, the mark comes first.
    """
    turn = render_turn(message, template, is_first=is_first, system=system)
    if is_first:
        return tokenize(turn, tokenizer, num_image_tokens)[0]
    closing = render_closing(template)
    ids, _ = tokenize(closing + turn, tokenizer, num_image_tokens, is_start=False)
    if not is_previous_closed:
        return ids
    # The end of the answer is trained and the question is not, so there is a token boundary between them.
    return ids[len(tokenize(closing, tokenizer, (), is_start=False)[0]) :]


def merge_text(segments: Iterable[Segment]) -> list[Segment]:
    """Join neighboring texts that are alike in is_trained and is_skipped_answer; leave out empty texts."""
    merged: list[Segment] = []
    for segment in segments:
        if segment.kind == "text" and not segment.text:
            continue
        last = merged[-1] if merged else None
        is_text = last is not None and last.kind == segment.kind == "text"
        if is_text and (last.is_trained, last.is_skipped_answer) == (segment.is_trained, segment.is_skipped_answer):
            merged[-1] = replace(last, text=last.text + segment.text)
        else:
            merged.append(segment)
    return merged

"""From the messages of a request, or a raw prompt, to the ids that the model continues.

A conversation has the same ids as in a `ChatSession`: each turn is rendered and tokenized as there, and an answer that
was generated here has the ids that were generated.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from ...constants import IMAGE_MARK
from ...conversation.messages import Message, check_unicode
from ...conversation.render import Segment, check_roles, render_answer, render_closing, render_turn
from ...conversation.tokenize import tokenize
from ...generate.cache_keys import Key, keys_of
from ...generate.grammar import Guide
from ...generate.sampling import SamplingParams
from ...generate.sequence import Ending, Sequence
from ...generate.stream import StreamDecoder
from ...generate.turn import ending_of
from ...terminal.sizes import plural
from .answer_memory import AnswerMemory, Context, KnownAnswer
from .images import NamedTiles

MAX_TOKEN_LENGTH = 128  # characters: of the longest tokens of known vocabularies, which are runs of spaces


class PromptTooLongError(ValueError):
    """A prompt that leaves no room for an answer in the context."""


@dataclass(frozen=True)
class Prompt:
    """What the model continues.

    images: (content key, tiles) in order. text: of a raw prompt. context: of the answer, None for a raw prompt.
    start_ids, start_text: the given beginning of the answer, which is at the end of keys.
    """

    keys: list[Key]
    images: tuple[NamedTiles, ...] = ()
    text: str = ""
    context: Context | None = field(default=None, repr=False)
    start_ids: tuple[int, ...] = ()
    start_text: str = ""

    @property
    def is_continuing(self) -> bool:
        """Whether the answer continues a text, so that white space at its beginning belongs to it."""
        return self.context is None or bool(self.start_text)


def chat_prompt(
    processor, messages: Seq[Message], images: Seq[NamedTiles], memory: AnswerMemory, *, is_continued: bool = False
) -> Prompt:
    """Return the prompt of a conversation that ends with a question, or if is_continued with a begun answer.

    messages: system first if any. Raises ValueError if their roles or their images do not fit together.
    """
    _check(messages, images, is_continued)
    system = None
    if messages[0].role == "system":
        system, messages = _typed(messages[0]).pieces[0], messages[1:]
    *turns, (question, start, own) = _turns(messages, images)
    ids: list[int] = []
    context, previous = Context(), None
    for former, answer, its_images in turns:
        turn_ids, answer_ids = _turn_ids(processor, former, answer, its_images, previous, system)
        context.extend(turn_ids, (name for name, _ in its_images))
        previous = memory.find(context.digest(answer)) or KnownAnswer(tuple(answer_ids), True)
        context.extend(previous.ids)
        ids += [*turn_ids, *previous.ids]
    turn_ids, start_ids = _turn_ids(processor, question, start, own, previous, system, is_open=True)
    context.extend(turn_ids, (name for name, _ in own))
    keys = keys_of([*ids, *turn_ids, *start_ids], images)
    return Prompt(keys, tuple(images), "", context, tuple(start_ids), start)


def _turns(messages: Seq[Message], images: Seq[NamedTiles]) -> list[tuple[Message, str, list[NamedTiles]]]:
    """Return (question, text of its answer or "", images of the question) of each turn."""
    turns, left = [], list(images)
    for index in range(0, len(messages), 2):
        question, *answers = [_typed(message) for message in messages[index : index + 2]]
        turns.append((question, answers[0].pieces[0] if answers else "", left[: question.num_images]))
        left = left[question.num_images :]
    return turns


def _check(messages: Seq[Message], images: Seq[NamedTiles], is_continued: bool) -> None:
    check_roles(messages, add_generation_prompt=not is_continued)
    num_places = 0
    for index, message in enumerate(map(_typed, messages)):
        if message.num_images and message.role != "user":
            raise ValueError(f"messages[{index}] has images and the role {message.role!r}: only users send images")
        num_places += message.num_images
        for piece in message.pieces:
            check_unicode(piece, f"messages[{index}]")
    if num_places != len(images):
        places, counted = plural(num_places, "place"), plural(len(images), "image")
        raise ValueError(f"the messages of users have {places} for {counted}: expected one each")


def _typed(message: Message) -> Message:
    """Return a message in whose texts `<image>` is just seven characters."""
    return dataclasses.replace(message, text=(message.text,)) if isinstance(message.text, str) else message


def _turn_ids(
    processor,
    question: Message,
    answer: str,
    images: Seq[NamedTiles],
    previous: KnownAnswer | None,
    system: str | None,
    *,
    is_open: bool = False,
) -> tuple[list[int], list[int]]:
    """Return the ids of a question as `tokenize_turn` does, and those of its answer.

    previous: the answer before, None in the first turn. is_open: the answer has no end, and may be "" for none.
    """
    template, tokenizer = processor.template, processor.tokenizer
    closing = [] if previous is None else render_closing(template)
    segments = closing + render_turn(question, template, is_first=previous is None, system=system)
    if answer or not is_open:
        rendered = render_answer(Message("assistant", (answer,)), template)
        segments += rendered[: -len(render_closing(template))] if is_open else rendered
    counts = [tiles.num_tokens for _, tiles in images]
    ids, is_trained = tokenize(segments, tokenizer, counts, is_start=previous is None)
    num_closing = len(tokenize(closing, tokenizer, (), is_start=False)[0])
    # Of these segments only the closing and the answer are trained, and there are token boundaries around the question.
    end = next((index for index in range(num_closing, len(ids)) if is_trained[index]), len(ids))
    first = num_closing if previous is not None and previous.is_closed else 0
    return ids[first:end], ids[end:]


def raw_prompt(processor, prompt: str | Seq[int]) -> Prompt:
    """Return a prompt of a text, in which special tokens count, or of ids.

    Raises ValueError for ids that are not in the vocabulary or stand for images, and if there is nothing.
    """
    tokenizer = processor.tokenizer
    if isinstance(prompt, str):
        check_unicode(prompt, "prompt")
        ids, text = _raw_ids(tokenizer, prompt), prompt
    else:
        ids = list(prompt)
        _check_ids(tokenizer, ids)
        text = tokenizer.decode(ids, skip_special=False)
    if not ids:
        raise ValueError("prompt is empty: expected a text or token ids")
    return Prompt(ids, text=text)


def _raw_ids(tokenizer, text: str) -> list[int]:
    specials = sorted((token for token in tokenizer.specials if token and token != IMAGE_MARK), key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, specials))})", text) if specials else [text]
    kinds = ("text", "special")
    segments = [Segment(part, False, kinds[index % 2]) for index, part in enumerate(parts) if part]
    ids, _ = tokenize(segments, tokenizer, ())
    has_two = tokenizer.add_bos and ids[:2] == [tokenizer.bos_id] * 2  # one is in the text
    return ids[1:] if has_two else ids


def _check_ids(tokenizer, ids: list[int]) -> None:
    image_id = tokenizer.specials.get(IMAGE_MARK)
    for index, token in enumerate(ids):
        if not 0 <= token < tokenizer.vocab_size:
            raise ValueError(
                f"prompt[{index}] is {token}: expected token ids from 0 to {tokenizer.vocab_size - 1}, those of the "
                "model's vocabulary"
            )
        if token == image_id:
            raise ValueError(f"prompt[{index}] is {token}, which stands for an image: send images in a chat")


def check_length(messages: Seq[Message], prompt: str | Seq[int] | None, max_length: int) -> None:
    """Raise PromptTooLongError for texts that cannot fit into max_length tokens, which would take long to tokenize."""
    texts = [piece for message in messages for piece in _typed(message).pieces]
    number = sum(map(len, texts)) + (len(prompt) if isinstance(prompt, str) else 0)
    if number > MAX_TOKEN_LENGTH * max_length:
        raise PromptTooLongError(
            f"this prompt has {number} characters of text, which are at least {number // MAX_TOKEN_LENGTH} tokens, but "
            f"the context holds {max_length}: shorten it"
        )


def check_room(prompt: Prompt, max_length: int) -> int:
    """Return how many tokens an answer may have. Raises PromptTooLongError with the counts if none."""
    number, num_images = len(prompt.keys), len(prompt.images)
    if number < max_length:
        return max_length - number
    of_images = sum(tiles.num_tokens for _, tiles in prompt.images)
    parts = f"{number - of_images} of text, {of_images} of {num_images} image{'s' if num_images > 1 else ''}"
    raise PromptTooLongError(
        f"this prompt has {number} tokens{f' ({parts})' if num_images else ''}, but the context holds {max_length}, "
        f"the answer included: shorten it{' or send fewer images' if num_images else ''}"
    )


def sequence_for(
    prompt: Prompt, processor, sampling: SamplingParams, room: int, eos_ids: Seq[int], *, guide: Guide | None = None
) -> Sequence:
    """Return a sequence that continues a prompt; see `ending_of`. Raises ValueError for a bad grammar."""
    ending = ending_of(processor, sampling, eos_ids, guide=guide)
    if prompt.is_continuing:
        ending = _continuing(ending, processor, sampling, is_raw=prompt.context is None)
    return Sequence(list(prompt.keys), dict(prompt.images), sampling, room, ending)


def _continuing(ending: Ending, processor, sampling: SamplingParams, *, is_raw: bool) -> Ending:
    """Return an ending whose text keeps its white space.

    The stop strings of the template do not end an answer to a raw prompt, nor one whose end a grammar decides.
    """
    closing_texts = () if is_raw or sampling.grammar is not None else ending.closing_texts
    decoder = StreamDecoder(processor.tokenizer, (*closing_texts, *sampling.stop), is_continuing=True)
    return dataclasses.replace(ending, decoder=decoder, closing_texts=closing_texts)

"""A conversation and its pictures to token ids, labels and tiles: the one way, for training and for chat."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..constants import IGNORE_INDEX
from ..conversation.messages import Conversation
from ..conversation.render import render
from ..conversation.templates import ChatTemplate
from ..conversation.tokenize import tokenize
from ..image.anyres import num_image_tokens
from ..image.errors import MissingImageError
from ..image.load import SCHEME, describe, load_image
from ..image.preprocess import preprocess
from ..image.spec import ImageSpec
from .sample import Sample


class SampleTooLongError(ValueError):
    """Not even the first question and answer fit into max_length."""


def encode(
    conversation: Conversation,
    *,
    tokenizer,
    template: ChatTemplate,
    spec: ImageSpec,
    folders: Sequence[str] = (),
    max_length: int | None = None,
    add_generation_prompt: bool = False,
    cache_folder: str | None = None,
) -> Sample:
    """Return the sample alone; see encode_turns."""
    return encode_turns(
        conversation,
        tokenizer=tokenizer,
        template=template,
        spec=spec,
        folders=folders,
        max_length=max_length,
        add_generation_prompt=add_generation_prompt,
        cache_folder=cache_folder,
    )[0]


def encode_turns(
    conversation: Conversation,
    *,
    tokenizer,
    template: ChatTemplate,
    spec: ImageSpec,
    folders: Sequence[str] = (),
    max_length: int | None = None,
    add_generation_prompt: bool = False,
    cache_folder: str | None = None,
) -> tuple[Sample, int]:
    """Return the sample, and how many turns (question and answer) were dropped from its end to fit max_length.

    folders: where relative picture paths are looked for, in order; empty: the current directory. max_length counts
    tokens with every picture already expanded; None: no limit. add_generation_prompt: end where the answer starts, with
    labels None. cache_folder: where pictures from the network are kept. Raises ValueError (ImageError for a picture,
    SampleTooLongError when nothing fits).
    """
    pictures = [load_image(find_picture(source, folders), cache_folder=cache_folder) for source in conversation.images]
    counts = [num_image_tokens(picture.size, spec) for picture in pictures]
    conversation, ids, is_trained, num_dropped = tokenize_to_fit(
        conversation,
        counts,
        tokenizer=tokenizer,
        template=template,
        max_length=max_length,
        add_generation_prompt=add_generation_prompt,
    )
    token_ids = np.array(ids, dtype=np.int64)
    labels = None if add_generation_prompt else np.where(is_trained, token_ids, IGNORE_INDEX)
    images = tuple(preprocess(picture, spec) for picture in pictures[: len(conversation.images)])
    return Sample(token_ids, labels, images), num_dropped


def tokenize_to_fit(
    conversation: Conversation,
    num_image_tokens: Sequence[int],
    *,
    tokenizer,
    template: ChatTemplate,
    max_length: int | None,
    add_generation_prompt: bool = False,
) -> tuple[Conversation, list[int], list[bool], int]:
    """Return what is kept of a conversation, its ids, whether each is trained, and how many turns were dropped.

    num_image_tokens: of each picture; the pictures themselves are not opened. Raises as `fit_turns`.
    """

    def to_tokens(part: Conversation) -> tuple[list[int], list[bool]]:
        segments = render(part, template, add_generation_prompt=add_generation_prompt)
        return tokenize(segments, tokenizer, num_image_tokens[: len(part.images)])

    num_dropped = 0
    ids, is_trained = to_tokens(conversation)
    if max_length is not None and len(ids) > max_length:
        conversation, num_dropped = fit_turns(conversation, lambda part: len(to_tokens(part)[0]), max_length)
        ids, is_trained = to_tokens(conversation)
    return conversation, ids, is_trained, num_dropped


def fit_turns(
    conversation: Conversation, num_tokens: Callable[[Conversation], int], max_length: int
) -> tuple[Conversation, int]:
    """Return the longest start of a conversation that fits and ends with an answer, and how many turns it drops.

    num_tokens: length of a conversation; it is asked for about log2(turns) starts, so that no knowledge of how a
    template ends a turn is needed here. The system turn stays; pictures of dropped turns go. Raises SampleTooLongError
    when the first turn is too long, and when the conversation ends with a question, which must not be cut off.
    """
    length = num_tokens(conversation)
    if length <= max_length:
        return conversation, 0
    ends = [index for index, message in enumerate(conversation.messages, start=1) if message.role == "assistant"]
    if not ends or ends[-1] != len(conversation.messages):
        what = "the conversation, which must keep its last question,"
        raise SampleTooLongError(_describe(what, length, conversation, max_length))
    num_kept = bisect.bisect_right(ends, max_length, key=lambda end: num_tokens(first_messages(conversation, end)))
    if not num_kept:
        first = first_messages(conversation, ends[0])
        raise SampleTooLongError(_describe("the first turn alone", num_tokens(first), first, max_length))
    return first_messages(conversation, ends[num_kept - 1]), len(ends) - num_kept


def first_messages(conversation: Conversation, num_messages: int) -> Conversation:
    """Return the first messages with their pictures."""
    messages = conversation.messages[:num_messages]
    return Conversation(messages, conversation.images[: sum(message.num_images for message in messages)])


def _describe(what: str, length: int, conversation: Conversation, max_length: int) -> str:
    return (
        f"{what} has {length} tokens, its {len(conversation.images)} pictures included, but max_length is "
        f"{max_length}: raise max_length, shorten the text or use fewer pictures"
    )


MAX_PATH = 1000  # characters of a path in a message
MAX_FOLDERS = 200  # that are looked into for a picture that is elsewhere
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")


def find_picture(source: Any, folders: Sequence[str]) -> Any:
    """Return a relative path joined to the first folder that has it; anything else unchanged.

    Without folders a path is relative to the current directory. Raises MissingImageError naming every place tried.
    """
    if not isinstance(source, (str, Path)) or not folders or _is_elsewhere(str(source)):
        return source
    places = [Path(folder, source).absolute() for folder in folders]
    for place in places:
        if os.path.isfile(place):  # False as well for what no path can be: too long, or with a null byte
            return str(place)
    tried = ", ".join(dict.fromkeys(describe(place, MAX_PATH) for place in places))
    raise MissingImageError(f"picture {describe(source)} not found; tried {tried}: check the path and image_folder")


def hint_for(source: Any, folders: Sequence[str]) -> str:
    """Return where a picture that was not found may be meant, "" where no guess holds: few places are looked at."""
    if not isinstance(source, (str, Path)) or _is_elsewhere(str(source)):
        return ""
    near = [Path(parent) for folder in folders for parent in (*Path(folder).parents[:2], *_subfolders(folder))]
    for folder in near:
        if os.path.isfile(folder / source):
            return f"; it would be found with image_folder {describe(folder, MAX_PATH)}"
    name = Path(source)
    shorter = [Path(*name.parts[start:]) for start in range(1, len(name.parts))]
    for folder in map(Path, folders):
        others = [folder / name.with_suffix(suffix) for suffix in SUFFIXES if name.name]
        others += [place / part for part in shorter for place in (folder, *folder.parents[:1])]
        for place in others:
            if os.path.isfile(place):
                return f"; there is {describe(place, MAX_PATH)}"
    return ""


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in itertools.islice(entries, MAX_FOLDERS) if entry.is_dir()]
    except OSError:  # a hint is no reason to fail
        return []


def _is_elsewhere(source: str) -> bool:
    """Tell whether no folder can matter: a URL, a data: URI, an absolute path."""
    return bool(SCHEME.match(source)) or source[:5].lower() == "data:" or os.path.isabs(os.path.expanduser(source))

"""Encode a conversation and its images to token ids, labels and tiles, for training and for chat."""

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
    """Return the sample, and the number of turns (question and answer) dropped from its end to fit max_length.

    folders: where to look for images with a relative path, in order; empty: the current directory. max_length: maximum
    tokens, images included; None: no limit. add_generation_prompt: end where the answer starts, with labels None.
    cache_folder: where images from the network are kept. Raises ValueError: ImageError for an image, SampleTooLongError
    if not even the first turn fits.
    """
    loaded = [load_image(find_image(source, folders), cache_folder=cache_folder) for source in conversation.images]
    counts = [num_image_tokens(image.size, spec) for image in loaded]
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
    tiles = tuple(preprocess(image, spec) for image in loaded[: len(conversation.images)])
    return Sample(token_ids, labels, tiles), num_dropped


def tokenize_to_fit(
    conversation: Conversation,
    num_image_tokens: Sequence[int],
    *,
    tokenizer,
    template: ChatTemplate,
    max_length: int | None,
    add_generation_prompt: bool = False,
) -> tuple[Conversation, list[int], list[bool], int]:
    """Return the turns that fit, their token ids, whether each token is trained, and the number of dropped turns.

    num_image_tokens: of each image; the images themselves are not opened. Raises SampleTooLongError as `fit_turns`.
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
    """Return the longest prefix of a conversation that fits and ends with an answer, and the number of dropped turns.

    num_tokens: returns the length of a conversation; called for about log2(turns) prefixes (a binary search), so that
    nothing here depends on how a template ends a turn. Keeps the system message and drops the images of
    dropped turns. Raises SampleTooLongError if the first turn is too long, or the conversation ends with a question,
    which cannot be dropped.
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
    """Return the first messages and their images."""
    messages = conversation.messages[:num_messages]
    return Conversation(messages, conversation.images[: sum(message.num_images for message in messages)])


def _describe(what: str, length: int, conversation: Conversation, max_length: int) -> str:
    num_images = len(conversation.images)
    included = f", {num_images} image{'s' if num_images > 1 else ''} included," if num_images else ""
    return (
        f"{what} has {length} tokens{included} but max_length is "
        f"{max_length}: raise max_length, shorten the text or use fewer images"
    )


MAX_PATH = 1000  # characters of a path in a message
MAX_FOLDERS = 200  # folders to look into for a hint where a missing image is
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")


def find_image(source: Any, folders: Sequence[str]) -> Any:
    """Return a relative path joined to the first folder that has the file, and any other source unchanged.

    Without folders, paths are relative to the current directory. Raises MissingImageError, which names all tried paths.
    """
    if not isinstance(source, (str, Path)) or not folders or _is_absolute(str(source)):
        return source
    paths = [Path(folder, source).absolute() for folder in folders]
    for path in paths:
        if os.path.isfile(path):  # also False for impossible paths: too long, or with a null byte
            return str(path)
    tried = ", ".join(dict.fromkeys(describe(path, MAX_PATH) for path in paths))
    raise MissingImageError(f"image {describe(source)} not found; tried {tried}: check the path and image_folder")


def hint_for(source: Any, folders: Sequence[str]) -> str:
    """Return a hint where an image that was not found may be, "" for none. Only a few folders are searched."""
    if not isinstance(source, (str, Path)) or _is_absolute(str(source)):
        return ""
    near = [Path(parent) for folder in folders for parent in (*Path(folder).parents[:2], *_subfolders(folder))]
    for folder in near:
        if os.path.isfile(folder / source):
            return f"; it would be found with image_folder {describe(folder, MAX_PATH)}"
    name = Path(source)
    shorter = [Path(*name.parts[start:]) for start in range(1, len(name.parts))]
    for folder in map(Path, folders):
        others = [folder / name.with_suffix(suffix) for suffix in SUFFIXES if name.name]
        others += [parent / part for part in shorter for parent in (folder, *folder.parents[:1])]
        for path in others:
            if os.path.isfile(path):
                return f"; there is {describe(path, MAX_PATH)}"
    return ""


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in itertools.islice(entries, MAX_FOLDERS) if entry.is_dir()]
    except OSError:  # a missing hint is not an error
        return []


def _is_absolute(source: str) -> bool:
    """Return whether folders do not matter for a source: a URL, a data: URI or an absolute path."""
    return bool(SCHEME.match(source)) or source[:5].lower() == "data:" or os.path.isabs(os.path.expanduser(source))

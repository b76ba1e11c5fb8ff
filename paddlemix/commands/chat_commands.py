"""What the commands of the chat do, such as /image and /save. Each returns the lines to print."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..generate.sampling import SamplingParams
from ..generate.session import ChatSession
from ..image.load import is_address, load_image
from ..output import named_file, replacing
from ..terminal.sizes import plural
from .chat_params import DEFAULT, FIELDS, changed, pairs_of, shown
from .chat_paths import paths_in

MAX_NAME = 200  # characters of a typed word in a message
END_WORDS = ("exit", "quit", "/exit", "/quit")


@dataclass
class Talk:
    """A conversation, and the images for its next question.

    pending, sent: paths of images that wait, and that are in the conversation. sources: folders of the model, into
    which `/save` refuses to write. start: how answers were sampled at the start.
    """

    session: ChatSession
    pending: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    sources: Sequence[Path] = ()
    start: SamplingParams = field(init=False)

    def __post_init__(self):
        self.start = self.session.sampling

    @property
    def context(self) -> int:
        """How many tokens the model's context holds."""
        return self.session.model.config.language.max_position_embeddings


class Command(NamedTuple):
    """A command. run: given the talk and the rest of the line; raises ValueError or OSError for a mistake."""

    usage: str
    text: str
    run: Callable[[Talk, str], Iterable[str]]

    @property
    def takes_words(self) -> bool:
        return " " in self.usage


def add_images(talk: Talk, rest: str) -> list[str]:
    """Add the images that a text names; return what they are."""
    paths = paths_in(rest)
    if not paths:
        return ["/image needs a path or a URL"]
    lines = [f"{short(path)}: {image_facts(talk.session, path)}" for path in paths]
    talk.pending += paths
    return [*lines, f"({plural(len(talk.pending), 'image')} for the next question)"]


def image_facts(session: ChatSession, path: str) -> str:
    """Return the size of an image, and what it is for the model. Raises ImageError."""
    tiles = session.processor.tiles(load_image(path))
    width, height = tiles.size
    parts = f"{plural(tiles.num_tokens, 'token')} in {plural(len(tiles.pixels), 'tile')}"
    return f"{width} x {height} px, {parts}"


def list_images(talk: Talk, _: str) -> list[str]:
    """Return the images of the conversation and those that wait."""
    if not talk.sent and not talk.pending:
        return ["(no images: /image PATH adds one to the next question)"]
    groups = ((talk.sent, "in the conversation"), (talk.pending, "for the next question"))
    named = [(path, where) for paths, where in groups for path in paths]
    return [f"{number}. {short(path)} ({where})" for number, (path, where) in enumerate(named, start=1)]


def clear(talk: Talk, _: str) -> list[str]:
    """Forget the conversation and its images."""
    talk.session.clear()
    talk.pending, talk.sent = [], []
    return ["(conversation cleared)"]


def set_system(talk: Talk, rest: str) -> list[str]:
    """Show or set the system text."""
    session = talk.session
    if rest:
        session.set_system(None if rest == DEFAULT else rest)
    if session.system is not None:
        return [f"(system text: {session.system})"]
    return [f"(system text of the template: {session.processor.template.system or 'none'})"]


def set_params(talk: Talk, rest: str) -> list[str]:
    """Show or set how answers are sampled: all settings, or those that were set."""
    session = talk.session
    session.sampling = changed(session.sampling, rest, talk.start, talk.context)
    names = {} if rest.split()[:1] == [DEFAULT] else dict(pairs_of(rest))
    return shown(session.sampling, names or FIELDS, talk.context)


def save(talk: Talk, name: str) -> list[str]:
    """Write the conversation as JSON: a list of one row to train on, with complete paths of images."""
    if not name:
        return ["/save needs a file name"]
    images = [image for image in (*talk.sent, *talk.pending) if not is_address(image)]
    complete = [image if is_address(image) else os.path.abspath(image) for image in talk.sent]
    text = json.dumps([{"messages": talk.session.messages, "images": complete}], ensure_ascii=False, indent=2)
    try:
        file_path = named_file(name, (*talk.sources, *images))
        if file_path.exists():
            raise ValueError(f"{short(name)} exists already: choose another name")
        if not talk.session.messages:
            return ["there is nothing to save yet: ask a question first"]
        with replacing(file_path) as file:
            # Half of a surrogate pair, from a file name that is not UTF-8, becomes its JSON escape.
            file.write((text + "\n").encode(errors="backslashreplace"))
    except OSError as error:
        raise ValueError(f"{short(name)} cannot be written: {error.strerror or error}") from error
    return [f"(saved to {os.path.abspath(file_path)})"]


def short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:60]}... ({len(name)} characters)"


# The loop adds those that answer or print: /regenerate and /help.
COMMANDS = {
    "/image": Command("/image PATH", "add an image (file or URL) to the next question", add_images),
    "/images": Command("/images", "list the images", list_images),
    "/system": Command("/system TEXT", f"set, show or (TEXT: {DEFAULT}) reset the system text", set_system),
    "/params": Command("/params NAME=VALUE ...", f"set, show or ({DEFAULT}) reset how answers are sampled", set_params),
    "/clear": Command("/clear", "forget the conversation and its images", clear),
    "/save": Command("/save FILE", "write the conversation as JSON", save),
}

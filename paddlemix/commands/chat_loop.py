"""The loop of the chat: read a question, print the answer as it is generated, run commands such as /image."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TextIO

from ..constants import IMAGE_TOKEN_ID
from ..generate.session import ChatSession, ContextFullError, Turn
from ..image.load import is_address, load_image
from ..output import OutputError, named_file, replacing
from ..terminal.interrupts import noted_interrupts
from ..terminal.visible import harmless, visible

MAX_NAME = 200  # characters of a typed word in a message
HELP = """/image PATH   add an image (file or URL) to the next question
/clear        forget the conversation and its images
/save FILE    write the conversation as JSON
/help         show this list
An empty line or the end of input quits; Ctrl-C stops an answer.
To send text that starts with "/", type a space before it."""


class ChatLoop:
    """A chat session and the images for its next question.

    sources: folders of the model, into which `/save` refuses to write. is_echoing: print
    the questions, for input that is not a terminal.
    """

    def __init__(
        self,
        session: ChatSession,
        images: Sequence[str],
        *,
        sources: Sequence[Path] = (),
        is_debug: bool = False,
        is_echoing: bool = False,
    ):
        self.session = session
        self.pending = list(images)
        self.sent: list[str] = []
        self.sources = list(sources)
        self.clean = visible if sys.stdout.isatty() else harmless
        self.is_debug = is_debug
        self.is_echoing = is_echoing
        self.commands: dict[str, Callable[[str], None]] = {
            "/image": self._add_image,
            "/clear": self._clear,
            "/save": self._save,
            "/help": lambda _: print(HELP),
        }

    def run(self) -> None:
        """Answer until an empty line or the end of input."""
        while True:
            try:
                line = input("USER: ")
            except EOFError:
                print()
                break
            except KeyboardInterrupt:
                print("\n(an empty line quits)")
                continue
            if self.is_echoing:
                print(visible(line))
            if not line.strip():
                break
            try:
                self._handle(line)
            except KeyboardInterrupt:  # while an image is loaded, or between two steps
                print("(stopped)")
        print("exit...")

    def answer_once(self, text: str) -> None:
        """Print the answer to one question and nothing else on standard output; notes go to standard error.

        Raises ValueError for a question that does not fit or a bad image.
        """
        try:
            pieces = self.session.stream(text, self.pending)
        except ContextFullError as error:
            raise ValueError(f"{error}: shorten the question, or ask about fewer images") from None
        for piece in pieces:
            print(self.clean(piece), end="", flush=True)
        print()
        self._print_notes(self.session.turns[-1], sys.stderr)

    def _handle(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word in self.commands:
            self.commands[word](rest.strip())
        elif line.startswith("/"):
            print(visible(f"unknown command {_short(word)}: see /help; to send this as text, type a space before it"))
        else:
            self._answer(line)

    def _answer(self, text: str) -> None:
        session, sampling = self.session, self.session.sampling
        if sampling.seed is not None:  # another seed for each turn, the same ones in each run
            sampling = dataclasses.replace(sampling, seed=sampling.seed + len(session.turns))
        try:
            pieces = session.stream(text, self.pending, sampling)
        except ContextFullError as error:  # the session is unchanged
            print(f"(not sent: {error}: /clear starts again)")
            return
        except ValueError as error:  # a deleted image
            print(visible(f"(not sent: {error})"))
            return
        except KeyboardInterrupt:
            print("(not sent)")
            return
        turn = self._print_answer(pieces)
        if turn in session.turns:
            self.sent += self.pending
            self.pending = []
            self._print_notes(turn)
        # Otherwise it was stopped before its first token, and its images go with the next question.

    def _print_answer(self, pieces: Generator[str, None, None]) -> Turn:
        """Print an answer as it is generated, until it ends or Ctrl-C; return its turn."""
        turn = self.session.turns[-1]
        print("ASSISTANT: ", end="", flush=True)
        try:
            with noted_interrupts() as seen:
                for piece in pieces:
                    print(self.clean(piece), end="", flush=True)
                    if seen:
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            pieces.close()
            print(" (stopped)", end="")
        print()
        return turn

    def _print_notes(self, turn: Turn, file: TextIO | None = None) -> None:
        """Print why an answer ended early, how full the context is, and with --debug the prompt and the output."""
        context = self.session.model.config.language.max_position_embeddings
        if turn.finish_reason == "length":
            print("(cut at --max-new-tokens)", file=file)
        elif turn.finish_reason == "context":
            advice = ": /clear starts again" if file is None else ""
            print(f"(the context of {context} tokens is full{advice})", file=file)
        elif self.session.num_tokens > 0.9 * context:
            print(f"({self.session.num_tokens} of {context} tokens of context are used)", file=file)
        if self.is_debug:
            print({"prompt": self._prompt_text(turn), "outputs": turn.answer}, file=file)

    def _prompt_text(self, turn: Turn) -> str:
        """Return a prompt's text with its special tokens and one mark for each image."""
        ids = turn.prompt_ids
        kept = [token for index, token in enumerate(ids) if token != IMAGE_TOKEN_ID or ids[index - 1] != token]
        return self.session.processor.tokenizer.decode(kept, skip_special=False)

    def _add_image(self, path: str) -> None:
        if not path:
            print("/image needs a path or a URL")
            return
        try:
            load_image(path)
        except (ValueError, OSError) as error:
            print(visible(f"error: {error}"))
            return
        self.pending.append(path)
        print(f"({len(self.pending)} image{'s' if len(self.pending) > 1 else ''} for the next question)")

    def _clear(self, _: str) -> None:
        self.session.clear()
        self.pending, self.sent = [], []
        print("(conversation cleared)")

    def _save(self, name: str) -> None:
        if not name:
            print("/save needs a file name")
            return
        text = json.dumps({"messages": self.session.messages, "images": self.sent}, ensure_ascii=False, indent=2)
        try:
            images = [image for image in (*self.sent, *self.pending) if not is_address(image)]
            with replacing(named_file(name, (*self.sources, *images))) as file:
                # Half of a surrogate pair, from a file name that is not UTF-8, becomes its JSON escape.
                file.write((text + "\n").encode(errors="backslashreplace"))
        except OutputError as error:
            print(visible(f"error: {error}"))
            return
        except OSError as error:
            print(visible(f"error: {_short(name)} cannot be written: {error.strerror or error}"))
            return
        print(visible(f"(saved to {name})"))


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:60]}... ({len(name)} characters)"

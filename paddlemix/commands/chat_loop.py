"""The loop of the chat: read a question, print the answer as it is generated, run commands such as /image."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TextIO

from ..constants import IMAGE_TOKEN_ID
from ..generate.sampling import SamplingParams
from ..generate.session import ChatSession, ContextFullError, Turn
from ..terminal.interrupts import noted_interrupts
from ..terminal.style import Style, spinner
from ..terminal.typed import typed_text
from ..terminal.visible import harmless, visible
from .chat_commands import COMMANDS, END_WORDS, Command, Talk, short
from .chat_input import read_line
from .chat_params import explained
from .chat_paths import images_of, is_like_an_image
from .parser import nearest

MAX_COMMAND = 20  # characters of a mistyped command
USAGE_WIDTH = 24  # of the commands in /help
NEXT_SEED = 1_000_003  # from the seed of a turn to that of its next try
WARMER = (0.7, 1.0, 1.5)  # temperatures to try for another answer
END = """The path of an image alone, typed or dropped, does what /image does.
An empty line, exit or quit ends the chat; Ctrl-C stops an answer.
To send a command or a path as text, type a space before it."""


class ChatLoop:
    """A chat session and the images for its next question.

    sources: see `Talk`. is_echoing: print the questions, for input that is not a terminal.
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
        self.talk = Talk(session, list(images), sources=list(sources))
        self.style = Style(sys.stdout)
        self.clean = visible if sys.stdout.isatty() else harmless
        self.is_debug = is_debug
        self.is_echoing = is_echoing
        self.num_tries = 0  # of the last answer, by /regenerate
        self.commands = {
            **COMMANDS,
            "/regenerate": Command("/regenerate", "answer the last question again", self._regenerate),
            "/help": Command("/help", "show this list", self._help),
        }

    def run(self) -> None:
        """Answer until a line that ends the chat, or the end of input."""
        while True:
            try:
                line = read_line(self.style)
            except EOFError:
                print()
                break
            except KeyboardInterrupt:
                print("\n(an empty line quits)")
                continue
            if self.is_echoing:
                print(visible(line))
            if not line.strip() or line.rstrip().lower() in END_WORDS:
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
            pieces = self.session.stream(typed_text(text, sys.getfilesystemencoding()), self.talk.pending)
        except ContextFullError as error:
            raise ValueError(f"{error}: shorten the question, or ask about fewer images") from None
        for piece in pieces:
            print(self.clean(piece), end="", flush=True)
        print()
        self._print_notes(self.session.turns[-1], sys.stderr)

    def _handle(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        name, rest = word.lower(), rest.strip()
        if rest and (name in END_WORDS[2:] or (name in self.commands and not self.commands[name].takes_words)):
            self._note(f"error: {name} takes no words, found {short(rest)!r}: type {name} alone", "error")
        elif name in self.commands:
            self._run(self.commands[name], rest)
        elif images_of(line):
            self._run(self.commands["/image"], line.strip())
            self._note("(taken as an image; to send the text itself, type a space before it)")
        elif line.startswith("/") or is_like_an_image(line):
            kind = "file" if "/" in word[1:] or is_like_an_image(line) else "command"
            hint = nearest(name, self.commands) if kind == "command" and len(word) <= MAX_COMMAND else ""
            self._note(f"unknown {kind} {short(word)}{hint or ': see /help'} (as text: a space before it)")
        else:
            self._ask(line)

    def _run(self, command: Command, rest: str) -> None:
        """Run a command and print what it returns, or what is wrong."""
        try:
            lines = list(command.run(self.talk, rest))
        except (ValueError, OSError) as error:
            self._note(f"error: {error}", "error")
            return
        for line in lines:
            self._note(line)

    def _note(self, text: str, kind: str = "note") -> None:
        """Print a line that is not part of the conversation."""
        print(self.style.paint(visible(text), kind))

    def _ask(self, text: str) -> None:
        """Answer a question, with the images that wait."""
        talk = self.talk
        try:
            typed = typed_text(text, sys.stdin.encoding or "utf-8")
            turn = self._answer(lambda: self.session.stream(typed, talk.pending, self._sampling(0)))
        except ValueError as error:
            self._note(f"(not sent: {error})", "error")
            return
        if turn is not None and turn in self.session.turns:
            self.num_tries = 0
            talk.sent += talk.pending
            talk.pending = []
            self._print_notes(turn)
        # Otherwise it was stopped before its first token, and its images go with the next question.

    def _regenerate(self, talk: Talk, _: str) -> list[str]:
        """Answer the last question again, with another seed; say so if the answer is the same."""
        sampling, turns = self._sampling(self.num_tries + 1), self.session.turns
        old = turns[-1].answer if turns else None
        turn = self._answer(lambda: self.session.stream_again(sampling))
        if turn is None or turn not in self.session.turns:
            return []
        self.num_tries += 1
        self._print_notes(turn)
        return same_answer(sampling.temperature) if turn.answer == old else []

    def _sampling(self, num_tries: int) -> SamplingParams:
        """Return the sampling of the next answer: another seed for each turn and try, the same ones in each run."""
        sampling = self.session.sampling
        if sampling.seed is None:
            return sampling
        number = len(self.session.turns) - bool(num_tries)
        return dataclasses.replace(sampling, seed=sampling.seed + number + num_tries * NEXT_SEED)

    def _answer(self, start: Callable[[], Generator[str, None, None]]) -> Turn | None:
        """Start an answer and print it; return its turn, None if it was stopped before. Raises ValueError."""
        what = "looking at the image" if self.talk.pending else "thinking"
        try:
            with spinner(what):
                pieces = start()
        except ContextFullError as error:  # the session is unchanged
            raise ValueError(f"{error}: /clear starts again") from None
        except KeyboardInterrupt:
            print("(not sent)")
            return None
        return self._print_answer(pieces, what)

    def _print_answer(self, pieces: Generator[str, None, None], what: str) -> Turn:
        """Print an answer as it is generated, until it ends or Ctrl-C; return its turn."""
        turn, mark = self.session.turns[-1], self.style.paint("ASSISTANT: ", "answer")
        try:
            with noted_interrupts() as seen:
                with spinner(what):
                    first = next(filter(None, pieces), "")
                print(mark, end="", flush=True)
                mark = ""
                for piece in itertools.chain([first], pieces):
                    print(self.clean(piece), end="", flush=True)
                    if seen:
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            pieces.close()
            print(f"{mark} (stopped)", end="")
        print()
        return turn

    def _print_notes(self, turn: Turn, file: TextIO | None = None) -> None:
        """Print why an answer ended early, how full the context is, and with --debug the prompt and the output."""
        context = self.talk.context
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

    def _help(self, talk: Talk, _: str) -> list[str]:
        lines = [f"{command.usage:<{USAGE_WIDTH}}{command.text}" for command in self.commands.values()]
        settings = explained(self.session.sampling, talk.context)
        return [*lines, *END.splitlines(), "The names that /params takes:", *settings]


def same_answer(temperature: float) -> list[str]:
    """Return why /regenerate gave the same answer at a temperature, and how to get another."""
    why = (
        f"at temperature {temperature:g} the likeliest tokens mostly win"
        if temperature
        else "temperature 0 never varies"
    )
    warmer = next((one for one in WARMER if one > temperature), None)
    hint = [] if warmer is None else [f"(for another one: /params temperature={warmer}, then /regenerate)"]
    return [f"(the same answer: {why})", *hint]

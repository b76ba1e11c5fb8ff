"""The chat in a terminal: reads questions, prints answers as they come, knows a few commands."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from ..constants import IMAGE_TOKEN_ID
from ..generate.sampling import SamplingParams
from ..generate.session import ChatSession, Turn
from ..image.load import is_address, load_image
from ..ops.quantize import choose_kind
from ..output import OutputError, named_file, replacing
from ..terminal.interrupts import noted_interrupts
from ..terminal.log import notice
from ..terminal.visible import harmless, visible

MAX_NAME = 200  # characters of what was typed in a message
HELP = """/image PATH   add a picture (file or URL) to the next question
/clear        forget the conversation and its pictures
/save FILE    write the conversation as JSON
/help         this list
An empty line or the end of input leaves; Ctrl-C stops an answer.
A text that starts with "/" is sent with a blank before it."""


class ChatLoop:
    """A session and the pictures that wait for the next question."""

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
        self.waiting = list(images)
        self.sent: list[str] = []
        self.sources = list(sources)  # folders of the model: nothing is saved there
        self.spell = visible if sys.stdout.isatty() else harmless
        self.is_debug = is_debug
        self.is_echoing = is_echoing  # input is no terminal: write the questions down
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
                print("\n(an empty line leaves)")
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

    def _handle(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word in self.commands:
            self.commands[word](rest.strip())
        elif line.startswith("/"):
            print(
                visible(
                    f"unknown command {_short(word)}: /help lists them; to send this as text, put a blank before it"
                )
            )
        else:
            self._answer(line)

    def _answer(self, text: str) -> None:
        session = self.session
        if session.sampling.seed is not None:  # each turn draws anew, and the run can be repeated
            sampling = dataclasses.replace(session.sampling, seed=session.sampling.seed + len(session.turns))
        else:
            sampling = session.sampling
        try:
            pieces = session.stream(text, self.waiting, sampling)
        except ValueError as error:  # no room, or a picture that is gone; nothing was changed
            print(visible(f"(not sent: {error})"))
            return
        except KeyboardInterrupt:
            print("(not sent)")
            return
        turn = self._print_answer(pieces)
        if turn in session.turns:
            self.sent += self.waiting
            self.waiting = []
            self._comment(turn)  # otherwise it was stopped before it began, and its pictures still wait

    def _print_answer(self, pieces: Generator[str, None, None]) -> Turn:
        """Print a started answer as it comes, until it ends or Ctrl-C; return its turn."""
        turn = self.session.turns[-1]
        print("ASSISTANT: ", end="", flush=True)
        try:
            with noted_interrupts() as seen:
                for piece in pieces:
                    print(self.spell(piece), end="", flush=True)
                    if seen:
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            pieces.close()
            print(" (stopped)", end="")
        print()
        return turn

    def _comment(self, turn: Turn) -> None:
        """Say why an answer ended early, how full the context is, and with --debug what went in and out."""
        context = self.session.model.config.language.max_position_embeddings
        if turn.finish_reason == "length":
            print("(cut at --max-new-tokens)")
        elif turn.finish_reason == "context":
            print(f"(the context of {context} tokens is full: /clear starts again)")
        elif self.session.num_tokens > 0.9 * context:
            print(f"({self.session.num_tokens} of {context} tokens of context are used)")
        if self.is_debug:
            print({"prompt": self._prompt_text(turn), "outputs": turn.answer})

    def _prompt_text(self, turn: Turn) -> str:
        """Return a prompt's text with its special tokens; a picture is one mark."""
        ids = turn.prompt_ids
        is_kept = [token != IMAGE_TOKEN_ID or ids[place - 1] != token for place, token in enumerate(ids)]
        return self.session.processor.tokenizer.decode(
            [token for token, keep in zip(ids, is_kept, strict=True) if keep], skip_special=False
        )

    def _add_image(self, path: str) -> None:
        if not path:
            print("/image needs a path or a URL")
            return
        try:
            load_image(path)
        except (ValueError, OSError) as error:
            print(visible(f"error: {error}"))
            return
        self.waiting.append(path)
        print(f"(the next question goes with {len(self.waiting)} picture{'s' if len(self.waiting) > 1 else ''})")

    def _clear(self, _: str) -> None:
        self.session.clear()
        self.waiting, self.sent = [], []
        print("(forgotten)")

    def _save(self, name: str) -> None:
        if not name:
            print("/save needs a file name")
            return
        text = json.dumps({"messages": self.session.messages, "images": self.sent}, ensure_ascii=False, indent=2)
        try:
            images = [image for image in (*self.sent, *self.waiting) if not is_address(image)]
            with replacing(named_file(name, (*self.sources, *images))) as file:
                # Half a surrogate pair, of a name that is no UTF-8, becomes what JSON has for it.
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


def chat(arguments: argparse.Namespace) -> int:
    """Load the model and talk. Returns the exit code; raises ValueError or OSError for a user's mistake."""
    sampling = SamplingParams(
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
        lookup=arguments.speculate,
    )
    quantization = choose_kind(arguments.load_8bit, arguments.load_4bit)
    for image in arguments.image_file:
        load_image(image)  # a wrong picture is told before the model is loaded
    from ..checkpoints.load import load_model
    from ..checkpoints.processor import LlavaProcessor
    from ..checkpoints.source import open_source
    from ..hub.hub import resolve
    from ..models.cpu.fused_layer import fuse_projections

    home = resolve(arguments.model_path, hub=arguments.hub, revision=arguments.revision)
    source = open_source(home, arguments.model_base)
    processor = LlavaProcessor.from_source(source)
    if arguments.conv_mode:  # a wrong name, too
        processor = processor.with_template(arguments.conv_mode)
    dtype = "float16" if arguments.fp16 else arguments.dtype
    model = load_model(source, dtype=dtype, device=arguments.device, quantization=quantization)
    fuse_projections(model)
    if model.config.untrained:
        parts = " and ".join(model.config.untrained)
        notice(f"{parts} of this model hold random values: answers about pictures mean nothing before `pretrain`")
    session = ChatSession(model, processor, sampling=sampling)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        import readline  # noqa: F401  gives input() a history and line editing

        print("/help lists the commands, an empty line leaves.")
    ChatLoop(
        session,
        arguments.image_file,
        sources=source.folders,
        is_debug=arguments.debug,
        is_echoing=not is_terminal,
    ).run()
    return 0

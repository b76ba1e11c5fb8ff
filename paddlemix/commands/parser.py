"""The parser of the command line, and how its help looks. Knows no command."""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping

from ..terminal.folding import BACKSLASH, COMMAND_PARTS, USAGE_PARTS, folded
from ..terminal.visible import visible

LIKE_AN_OPTION = 0.8  # similarity from which a setting counts as a mistyped option
# Of the examples in the helps, from the folder of the repository.
MODEL, IMAGE = "paddlemix/examples/llava/tiny/model", "paddlemix/examples/llava/tiny/shapes.png"
SHAPES = "python -m paddlemix.examples.llava.tiny.make_data --output work_dirs/shapes --num-train 64 --num-eval 20"
MAX_WIDTH, HELP_COLUMN = 100, 30  # of a help text, in characters
USAGE_INDENT, EXAMPLE_INDENT = " " * 11, " " * 6  # of the further lines of a usage and of an example
INVALID_NUMBER = re.compile(r"argument (\S+): invalid (int|float) value: (.+)", re.DOTALL)  # argparse's words
NGINX = "the server does not speak TLS; nginx in front of it does, for one or several servers (docs/en/serving.md)"
ABSENT = {"--ssl-certfile": NGINX, "--ssl-keyfile": NGINX}  # options of other tools that have no counterpart, and why
SYNONYMS = {"--image-dir": "--image-folder"}  # names that users bring from other tools, and ours, with hyphens


class HelpFormatter(argparse.HelpFormatter):
    """Help with a short usage, the default of each option, and examples that can be copied."""

    def __init__(self, prog: str):
        width = min(shutil.get_terminal_size().columns - 2, MAX_WIDTH)
        super().__init__(prog, max_help_position=HELP_COLUMN, width=width)

    def _format_usage(self, usage, actions, groups, prefix) -> str:
        """Name what has to be given, and leave the optional ones to the list below."""
        options = [action for action in actions if action.option_strings]
        if usage is None and options:
            places = [action for action in actions if not action.option_strings]
            words = [self._format_args(action, action.metavar or action.dest) for action in places]
            words += [f"{action.option_strings[0]} {self._value(action)}" for action in options if action.required]
            is_command = not any(isinstance(action, argparse._SubParsersAction) for action in places)
            usage = " ".join([self._prog, *words, *(["[options]"] if is_command else [])]).replace("%", "%%")
        text = super()._format_usage(usage, actions, groups, prefix)
        if prefix == "":  # argparse asks for the beginning of the names of parts
            return text
        lines = (folded(line, self._width, USAGE_PARTS, USAGE_INDENT) for line in text.split("\n"))
        return "\n".join(itertools.chain(*lines))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Return the names of an option, and its value once."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._value(action)}"

    def _value(self, action: argparse.Action) -> str:
        return self._format_args(action, self._get_default_metavar_for_optional(action))

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        known = {int: "N", float: "X"}
        return known.get(action.type) or super()._get_default_metavar_for_optional(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wrap paragraphs; a line that begins with a space is a command, and a long one gets backslashes."""
        filled: list[str] = []
        for is_kept, lines in itertools.groupby(text.splitlines(), lambda line: line[:1] in ("", " ")):
            block = [line if is_kept else line.strip() for line in lines]
            if is_kept:
                commands = (folded(line, width, COMMAND_PARTS, EXAMPLE_INDENT, BACKSLASH) for line in block)
                filled += itertools.chain(*commands)
            else:
                filled += textwrap.wrap(" ".join(block), width, break_on_hyphens=False)
        return "\n".join(indent + line for line in filled)

    def _get_help_string(self, action: argparse.Action) -> str:
        """Return the help with the default, unless it says it already."""
        text = action.help or ""
        has_value = action.option_strings and action.nargs != 0 and not action.required
        if not has_value or "default" in text or action.default in (None, argparse.SUPPRESS, [], ()):
            return text
        return f"{text} (default: %(default)s)".lstrip()


class Parser(argparse.ArgumentParser):
    """A parser whose errors can be printed safely, and name the nearest option or command."""

    def _get_formatter(self) -> HelpFormatter:
        return HelpFormatter(self.prog)

    def error(self, message: str):
        found = INVALID_NUMBER.fullmatch(message)
        if found:
            kind = "a whole number" if found[2] == "int" else "a number"
            message = f"{found[1].split('/')[0]} is {found[3]}: expected {kind}"
        super().error(visible(message))

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Return the arguments; words that are not options go to `settings` if the command takes settings."""
        part = self._named_part(words)
        if part is not None:
            return argparse.Namespace(**{**self._defaults, **vars(part.parse(words[1:]))})
        takes_settings = bool(self.get_default("takes_settings"))
        words = self._in_our_spelling(words)
        self._check_options(words, takes_settings)
        arguments, rest = self.parse_known_args(words)
        if takes_settings:
            arguments.settings = rest
        elif rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return arguments

    def parts(self) -> Mapping[str, Parser]:
        """Return the parsers of a command with parts, {} for one without."""
        return {} if self._subparsers is None else self._subparsers._group_actions[0].choices

    def _named_part(self, words: list[str]) -> Parser | None:
        """Return the parser of the part that the first word names, None for a command without parts.

        Exits for a word that names none.
        """
        parts = self.parts()
        if not parts or not words or words[0].startswith("-"):
            return None
        if words[0] not in parts:
            self.error(f"unknown name {words[0]}{nearest(words[0], parts) or '; --help lists the names'}")
        return parts[words[0]]

    def _in_our_spelling(self, words: list[str]) -> list[str]:
        """Return the words with options as they are declared: --data_dir is --data-dir, --image-dir --image_folder."""
        known = {option.replace("_", "-"): option for option in self._option_string_actions}
        is_open = bool(self.get_default("takes_settings"))
        known |= {one: known.get(ours, ours) for one, ours in SYNONYMS.items() if ours in known or is_open}
        end = words.index("--") if "--" in words else len(words)
        parts = [word.partition("=") for word in words[:end]]
        return [self._declared(name, known) + sign + value for name, sign, value in parts] + words[end:]

    def _declared(self, name: str, known: Mapping[str, str]) -> str:
        is_other = name.startswith("--") and name not in self._option_string_actions
        return known.get(name.replace("_", "-"), name) if is_other else name

    def _check_options(self, words: list[str], takes_settings: bool) -> None:
        """Exit for the first unknown option, before a missing one is reported. A setting may have any other name."""
        known = list(self._option_string_actions)
        for word in words[: words.index("--")] if "--" in words else words:
            name = word.partition("=")[0]
            is_abbreviation = self.allow_abbrev and any(option.startswith(name) for option in known)
            if not name.startswith("--") or name in known or is_abbreviation:
                continue
            if name in ABSENT:
                self.error(f"unknown option {name}: {ABSENT[name]}")
            hint = nearest(name, known, LIKE_AN_OPTION if takes_settings else 0.6)
            if hint or not takes_settings:
                self.error(f"unknown option {name}{hint or '; --help lists the options'}")


def nearest(name: str, known: Iterable[str], similarity: float = 0.6) -> str:
    """Return the end of an error text that names the nearest known name, "" if none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=similarity)
    return f": did you mean {near[0]}?" if near else ""


def sentence(text: str) -> str:
    """Return the description of a command from its module's docstring, "`paddlemix chat`: talk with a model ..."."""
    found = re.fullmatch(r"`paddlemix [^`]+`: (.)(.*)", text.strip(), re.DOTALL)
    return found[1].upper() + found[2] if found else text


def add_examples(parser: argparse.ArgumentParser, *commands: str) -> None:
    """Add commands that work as they are written to the end of a help."""
    title = "example:" if len(commands) == 1 else "examples:"
    examples = "\n".join([title, *(f"  {command}" for command in commands)])
    parser.epilog = f"{parser.epilog}\n\n{examples}" if parser.epilog else examples

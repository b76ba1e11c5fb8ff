"""What a terminal would obey, hide or turn around, made visible. The one place that decides which characters those are.

Whatever the package prints passes here, since it holds words of others: answers, names of files and tensors, keys of
JSON files, what a server says. That does not depend on where it is printed to, since what goes to a file or a program
today is shown in a terminal tomorrow; only answers keep there what no terminal obeys (`harmless`). What is exact stands
in the files that the package writes.
"""

from __future__ import annotations

import json
import re
from typing import Any

# C0 but tab and newline, DEL and C1; characters that turn text around (bidirectional embeddings, overrides, isolates);
# those that nobody sees and that join nothing; halves of surrogate pairs. Unicode 16: Cc, Cf, Cs, Zl and Zp.
# Not here, since scripts and emoji need them: joiners (200c, 200d), marks of direction (061c, 200e, 200f), the signs
# before Arabic, Syriac and Kaithi numbers, and variation selectors, of which one may stand after a character.
HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\xad\u180e\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
# A flag of a region (emoji of England) is a black flag, tags and a tag that ends it.
_FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f"
_OBEYED = re.compile(f"({_FLAG})|[{HIDDEN}]|(?<=[{_SELECTORS}])[{_SELECTORS}]")
# Of C0, what moves the cursor, rings, answers back, switches character sets, starts or ends a command.
_COMMANDS = re.compile("[\x05\x07\x08\x0b-\x0f\x18\x1a\x1b\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = str.maketrans({"\n": "\\n", "\t": "\\t"})


def visible(text: str) -> str:
    """Return a text as it can be printed: each character that a terminal would obey or hide stands there as `\\x1b`.

    New lines and tabs stay. Each character is looked at on its own, so that a text in pieces is as safe as a whole one.
    """
    return text if text.isascii() and text.isprintable() else _OBEYED.sub(_spelled, text)


def harmless(text: str) -> str:
    """Return a text for a file or a program: as it is, but for what a terminal obeys, as `visible` spells it."""
    return _COMMANDS.sub(lambda match: visible(match[0]), text)


def visible_line(text: str) -> str:
    """Return a text as `visible`, with new lines and tabs spelled too: a name cannot look like a line of ours."""
    return visible(text).translate(_BREAKS)


def visible_json(value: Any) -> str:
    """Return a value as JSON of nothing but printable ASCII, whose escapes lose nothing."""
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")


def _spelled(match: re.Match[str]) -> str:
    return match[0] if match[1] else match[0].encode("unicode_escape", "surrogatepass").decode("ascii")

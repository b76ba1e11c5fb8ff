"""Make control and hidden characters visible. The one place that decides which characters these are.

All printed text passes here, because it contains text of others: answers, names of files and tensors, keys of JSON
files, a server's messages. Where it is printed does not matter: a file or a program may show it in a terminal later.
Only answers keep characters that no terminal obeys (`harmless`). The files that the package writes are exact.
"""

from __future__ import annotations

import json
import re
from typing import Any

# C0 except tab and newline, DEL and C1; bidirectional embeddings, overrides and isolates, which reorder text; invisible
# characters that join nothing; halves of surrogate pairs. Unicode 16: Cc, Cf, Cs, Zl and Zp.
# Scripts and emoji need these, so they are not listed: joiners (200c, 200d), direction marks (061c, 200e, 200f), the
# signs before Arabic, Syriac and Kaithi numbers, and variation selectors, one after a character.
HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\xad\u180e\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
# The flag of a region (England) is a black flag, tags and an end tag.
_FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f"
_OBEYED = re.compile(f"({_FLAG})|[{HIDDEN}]|(?<=[{_SELECTORS}])[{_SELECTORS}]")
# Of C0, the characters that move the cursor, ring, answer back, switch character sets, start or end a command.
_COMMANDS = re.compile("[\x05\x07\x08\x0b-\x0f\x18\x1a\x1b\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = str.maketrans({"\n": "\\n", "\t": "\\t"})


def visible(text: str) -> str:
    """Return a text for printing: each character that a terminal would obey or hide is written as `\\x1b`.

    New lines and tabs stay. Each character is checked by itself, so a text in pieces is as safe as a whole one.
    """
    return text if text.isascii() and text.isprintable() else _OBEYED.sub(_escaped, text)


def harmless(text: str) -> str:
    """Return a text for a file or a program, unchanged except for characters that a terminal obeys (see `visible`)."""
    return _COMMANDS.sub(lambda match: visible(match[0]), text)


def visible_line(text: str) -> str:
    """Return a text as `visible` does, with new lines and tabs escaped too, so a name cannot imitate a line."""
    return visible(text).translate(_BREAKS)


def visible_json(value: Any) -> str:
    """Return a value as JSON in printable ASCII; its escapes lose nothing."""
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")


def _escaped(match: re.Match[str]) -> str:
    return match[0] if match[1] else match[0].encode("unicode_escape", "surrogatepass").decode("ascii")

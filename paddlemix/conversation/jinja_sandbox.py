"""Render a foreign chat template in a separate process, so that it cannot hang this one or use up its memory.

The environment is that of transformers (utils/chat_template_utils.py): whitespace options, loop controls, the
`generation` block, `tojson` without escapes, `raise_exception` and `strftime_now`.
"""

from __future__ import annotations

import functools
import json
import sys
from datetime import datetime
from typing import Any

from .limited_process import MAX_OUTPUT, run_limited

MAX_SOURCE = 1 << 18  # characters


@functools.lru_cache(maxsize=16)
def render_all(source: str, request: str) -> tuple[tuple[str | None, str], ...]:
    """Return for each call (text, "") or (None, reason). Raises ValueError if the template needs too much.

    request: JSON of a list of calls, each with the values for the template.
    """
    if len(source) > MAX_SOURCE:
        raise ValueError(f"it has {len(source):,} characters, expected at most {MAX_SOURCE:,}")
    try:
        output = run_limited(__name__, json.dumps([source, json.loads(request)]))
    except ValueError as error:
        raise ValueError(f"rendering it: {error}") from None
    return tuple((text, reason) for text, reason in json.loads(output))


def main() -> None:
    """Render the calls from standard input and write the results to standard output."""
    source, calls = json.load(sys.stdin)
    json.dump([_render(source, values) for values in calls], sys.stdout)


def _render(source: str, values: dict[str, Any]) -> tuple[str | None, str]:
    try:
        text = _environment().from_string(source).render(values)
    except Exception as error:  # a template can raise anything, even a division by zero
        return None, f"{type(error).__name__}: {error}"[:200]
    return (text, "") if len(text) <= MAX_OUTPUT // 16 else (None, f"it renders {len(text):,} characters")


def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: the contents of the block are rendered unchanged."""

        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def as_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    found.filters["tojson"] = as_json
    found.globals["raise_exception"] = raise_exception
    found.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return found

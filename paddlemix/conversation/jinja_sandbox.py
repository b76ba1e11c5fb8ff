"""A foreign chat template rendered in a process of its own, so that none can hang this one or take its memory.

The environment is that of transformers (utils/chat_template_utils.py): whitespace options, loop controls, the
`generation` block, `tojson` without escapes, `raise_exception` and `strftime_now`.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from datetime import datetime
from typing import Any

MAX_SECONDS, MAX_WAIT = 2, 20  # of a processor's time, and of waiting where a system knows no such limit
MAX_MEMORY, MAX_SOURCE, MAX_OUTPUT = 1 << 30, 1 << 18, 1 << 20  # bytes and characters


@functools.lru_cache(maxsize=16)
def render_all(source: str, request: str) -> tuple[tuple[str | None, str], ...]:
    """Return for each call (text, "") or (None, why not). Raises ValueError if the template takes too much.

    request: JSON of a list of calls, each with the values that the template gets.
    """
    if len(source) > MAX_SOURCE:
        raise ValueError(f"it has {len(source):,} characters, expected {MAX_SOURCE:,} at most")
    command = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
    stdin = json.dumps([source, json.loads(request)])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", command], input=stdin, capture_output=True, text=True, timeout=MAX_WAIT
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"rendering it takes longer than {MAX_WAIT} s") from None
    except OSError as error:
        raise ValueError(f"no process to render it in could be started: {error}") from None
    if done.returncode != 0 or len(done.stdout) > MAX_OUTPUT:
        raise ValueError("rendering it takes too much time or memory")
    return tuple((text, reason) for text, reason in json.loads(done.stdout))


def main() -> None:
    """Render what stands on standard input and write the results to standard output, within limits."""
    _limit_resources()
    source, calls = json.load(sys.stdin)
    json.dump([_render(source, values) for values in calls], sys.stdout)


def _limit_resources() -> None:
    try:
        import resource
    except ImportError:  # there are none on Windows, where the time limit of the caller has to do
        return
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _render(source: str, values: dict[str, Any]) -> tuple[str | None, str]:
    try:
        text = _environment().from_string(source).render(values)
    except Exception as error:  # a template can raise anything, a division by zero too
        return None, f"{type(error).__name__}: {error}"[:200]
    return (text, "") if len(text) <= MAX_OUTPUT // 16 else (None, f"it renders {len(text):,} characters")


def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: what is in the block stands there as it is."""

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

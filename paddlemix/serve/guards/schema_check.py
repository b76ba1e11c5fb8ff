"""Refuse JSON schemas that take too long to follow, before a process with the model gets them.

A small schema can ask for hours and all memory: `multipleOf` 1234567 builds as many states, and `allOf` with n patterns
takes time exponential in n. llguidance's own limits stop neither, and a call of it cannot be interrupted. So each new
schema is first tried in a process that the kernel ends at a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
from collections import OrderedDict

from ...generate.grammar import Guide
from ...generate.sampling import Grammar
from ..errors import ApiError

CODE = "import sys; sys.path[:] = sys.argv[1:]; from paddlemix.serve.guards.schema_check import main; main()"
PROCESSOR_SECONDS = 2  # of the process; most schemas take milliseconds, the start of the process 0.2 s
MAX_BYTES = 2 << 30  # of addresses, of which the libraries take the most
WALL_SECONDS = 30.0  # on a machine that is busy
MAX_CHECKS = 2  # at a time
MAX_KNOWN = 256  # schemas whose verdict is remembered
# Threads of libraries would take addresses, each of them many.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
REFUSED, ACCEPTED = b"refused: ", b"accepted"


class SchemaChecks:
    """Checks schemas, and remembers what came of it."""

    def __init__(self):
        self._places = asyncio.Semaphore(MAX_CHECKS)
        self._known: OrderedDict[str, str] = OrderedDict()  # schema -> what is wrong with it, "" if nothing

    async def check(self, grammar: Grammar | None) -> None:
        """Raise ApiError 400 if a grammar cannot be followed, or not in a reasonable time."""
        if grammar is None or grammar.schema is None:
            return
        if grammar.schema not in self._known:
            async with self._places:
                verdict = await _verdict(grammar.schema)
            self._known[grammar.schema] = verdict
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        if self._known[grammar.schema]:
            raise ApiError(400, self._known[grammar.schema], param="response_format.json_schema", code="invalid_value")


async def _verdict(schema: str) -> str:
    """Return what is wrong with a schema, "" if nothing."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CODE, *sys.path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
        start_new_session=True,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(schema.encode("utf-8")), WALL_SECONDS)
    except asyncio.TimeoutError:
        output = b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if output == ACCEPTED:
        return ""
    if output.startswith(REFUSED):
        return output.removeprefix(REFUSED).decode("utf-8")
    return "the JSON schema takes too long or too much memory to follow: use fewer patterns and smaller numbers"


def main() -> None:
    """Check the schema on standard input, within limits, and print the verdict."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    os.nice(10)  # the model's answers come first
    grammar = Grammar(sys.stdin.buffer.read().decode("utf-8"))
    try:
        Guide(_Letters(), grammar, ())
    except ValueError as error:
        verdict = REFUSED + str(error).encode("utf-8")
    else:
        verdict = ACCEPTED
    sys.stdout.buffer.write(verdict)


class _Letters:
    """A tokenizer with a token for each byte: schemas take as long as with any other."""

    vocab_size, eos_id, bos_id, hidden_ids = 257, 256, 256, frozenset({256})

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < self.eos_id else b"</s>"

    def encode(self, text: str, is_start: bool) -> list[int]:
        return list(text.encode("utf-8"))

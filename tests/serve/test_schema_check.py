"""JSON schemas that take too long are refused before a process with the model gets them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from paddlemix.generate.sampling import Grammar
from paddlemix.serve.errors import ApiError
from paddlemix.serve.guards import schema_check
from paddlemix.serve.guards.schema_check import SchemaChecks

pytest.importorskip("llguidance")

PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}}}


def check(*schemas: Any, checks: SchemaChecks | None = None) -> list[str]:
    """Return what is wrong with each schema, "" if nothing."""

    async def main():
        one = checks or SchemaChecks()
        results = await asyncio.gather(
            *(one.check(Grammar(json.dumps(schema))) for schema in schemas), return_exceptions=True
        )
        assert all(result is None or (isinstance(result, ApiError) and result.status == 400) for result in results)
        return ["" if result is None else result.message for result in results]

    return asyncio.run(main())


def test_ordinary_schemas_pass():
    many = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(500)}}
    assert check(PERSON, many, {"type": "string", "pattern": "(.*a){200}b"}) == ["", "", ""]


def test_schema_that_takes_too_long_is_refused():
    (message,) = check({"type": "integer", "multipleOf": 12_345_678})
    assert "takes too long or too much memory" in message


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "zzz"}, "Invalid type: zzz"),
        ({"$ref": "http://127.0.0.1/x"}, "http://127.0.0.1/x"),  # which is not fetched
        ({"enum": []}, "cannot be followed"),
        ({"type": "string", "pattern": "(?=a)b"}, "cannot be followed"),
    ],
)
def test_schema_that_cannot_be_followed_is_refused_with_the_reason(schema, text):
    assert text in check(schema)[0]


def test_grammar_without_a_schema_needs_no_process(monkeypatch):
    monkeypatch.setattr(schema_check, "_verdict", None)

    async def main():
        await SchemaChecks().check(None)
        await SchemaChecks().check(Grammar())

    asyncio.run(main())


def test_verdicts_are_remembered_up_to_a_number(monkeypatch):
    asked = []

    async def verdict(schema: str) -> str:
        asked.append(schema)
        return "" if "good" in schema else "bad"

    monkeypatch.setattr(schema_check, "_verdict", verdict)
    monkeypatch.setattr(schema_check, "MAX_KNOWN", 2)

    async def main():
        checks = SchemaChecks()
        for schema in ("good", "bad", "good", "bad", "good 2", "good"):
            try:
                await checks.check(Grammar(schema))
                assert "good" in schema
            except ApiError:
                assert schema == "bad"

    asyncio.run(main())
    assert asked == ["good", "bad", "good 2", "good"]


def test_canceled_check_ends_its_process():
    async def main():
        task = asyncio.create_task(SchemaChecks().check(Grammar('{"type": "integer", "multipleOf": 12345678}')))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5)
        assert task.cancelled()

    asyncio.run(main())

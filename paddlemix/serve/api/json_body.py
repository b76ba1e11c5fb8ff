"""From the bytes of a body to a checked request. Every mistake is a 400 that names the field."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import ApiError

# Objects of Python take ten times the memory of `[],[],[]`. No base64 and no reasonable text has so many of these.
MAX_STRUCTURE = 200_000
Model = TypeVar("Model", bound=BaseModel)


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body. Raises ApiError."""
    if sum(body.count(character) for character in (b",", b"[", b"{")) > MAX_STRUCTURE:
        raise ApiError(400, f"the body has more than {MAX_STRUCTURE} values: send less at a time", code="invalid_json")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ApiError(
            400, f"the body is not UTF-8 at byte {error.start}: send JSON in UTF-8", code="invalid_json"
        ) from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:  # also of an integer with thousands of digits
        raise ApiError(400, f"the body is not JSON: {str(error)[:300]}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body is a JSON {kind_of(value)}: expected an object", code="invalid_json")
    return value


def validated(model: type[Model], value: dict[str, Any]) -> Model:
    """Return a request as its model. Raises ApiError for the first field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = path_of(first["loc"])
    if first["type"] == "missing":
        raise ApiError(400, f"{param} is missing", param=param, code="missing_required_parameter")
    text = first["msg"][0].lower() + first["msg"][1:]
    raise ApiError(400, f"{param}: {text}, found {shown(first['input'])}", param=param, code="invalid_value")


def path_of(location: tuple[int | str, ...]) -> str:
    """Return the place of a value as clients write it: messages[0].content."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step[:100]}" if path else step[:100]
    return path


def shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    if isinstance(value, dict | list):
        return f"{kind_of(value)} of {len(value)}"
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value)
    except ValueError:  # an integer with more digits than Python prints
        return "a very large number"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def kind_of(value: Any) -> str:
    """Return what JSON calls the type of a value."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value

"""The OpenAPI description: requests and answers as they are, errors, and the key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ... import __version__
from .openapi_answers import ANSWERS
from .schema import ChatRequest, CompletionRequest

REF = "#/components/schemas/"
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
ERROR_CONTENT = {"application/json": {"schema": {"$ref": REF + "Error"}}}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": ERROR_CONTENT}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("The request is wrong."),
    401: _error("The key is missing or wrong."),
    403: _error("The page of another server sent the request."),
    404: _error("The model or the path is unknown."),
    503: _error("The model is being loaded, or the server stops. The header Retry-After says when to try again."),
}
ANSWER_ERRORS: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    408: _error("The body did not arrive in time."),
    413: _error("The body is too large."),
    429: _error("The server is too busy. The header Retry-After says when to try again."),
    500: _error("The server failed."),
    504: _error("The answer took too long."),
}


def answer_description(request: str, answer: str, examples: dict[str, Any]) -> dict[str, Any]:
    """Return what the decorator of a route for answers says.

    request, answer: names of schemas. examples: bodies by what they ask for.
    """
    shown = {name: {"summary": name, "value": value} for name, value in examples.items()}
    content = {
        "application/json": {"schema": {"$ref": REF + answer}},
        "text/event-stream": {"schema": {"type": "string", "description": "chunks, then data: [DONE]"}},
    }
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": REF + request}, "examples": shown}}}
    return {
        "responses": {200: {"description": "The answers.", "content": content}, **ANSWER_ERRORS},
        "openapi_extra": {"requestBody": body},
    }


def describe(app: FastAPI, *, has_keys: bool) -> dict[str, Any]:
    """Return the description of an app, made once."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(
        title="paddlemix",
        version=__version__,
        summary="A model for images and text, for clients of OpenAI's API",
        routes=app.routes,
        servers=[{"url": "/", "description": "this server"}],
    )
    components = document.setdefault("components", {})
    schemas = {name: schema for name, schema in components.get("schemas", {}).items() if "Validation" not in name}
    schemas |= {"Error": ERROR, **ANSWERS, **_request_schemas()}
    components["schemas"] = schemas
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # wrong queries are 400, as everything else
            if path.startswith("/v1/"):
                operation["security"] = [{"key": []}] if has_keys else [{}, {"key": []}]
    app.openapi_schema = document
    return document


def _request_schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for model in (ChatRequest, CompletionRequest):
        schema = model.model_json_schema(ref_template=REF + "{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    return schemas

"""All errors in OpenAI's shape, also those that the framework finds."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..api.json_body import path_of, shown
from ..errors import ApiError

RETRY_SECONDS = "5"  # where an error has no better guess


def add_error_handlers(app: FastAPI) -> None:
    """Make an app answer all errors in OpenAI's shape."""
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_wrong_query)


def error_response(error: ApiError) -> JSONResponse:
    """Return the answer with an error."""
    headers = dict(error.headers)
    if error.status in (429, 503) and "retry-after" not in {name.lower() for name in headers}:
        headers["Retry-After"] = RETRY_SECONDS
    return JSONResponse(error.body, error.status, headers)


async def _answer_api_error(request: Request, error: ApiError) -> JSONResponse:
    request.state.refusal = error  # for the log and the counters, see `request_scope`
    return error_response(error)


async def _answer_http_error(request: Request, error: HTTPException) -> JSONResponse:
    place, allowed = f"{request.method} {request.url.path[:200]}", (error.headers or {}).get("Allow", "")
    messages = {
        404: f"there is no {place}: expected {', '.join(_paths(request.app))}; /openapi.json describes all paths",
        405: f"{place} is not supported{allowed and f': expected {allowed}'}",
    }
    codes = {404: "unknown_path", 405: "method_not_allowed"}
    message = messages.get(error.status_code, str(error.detail))
    answer = ApiError(error.status_code, message, code=codes.get(error.status_code), headers=error.headers)
    return await _answer_api_error(request, answer)


def _paths(app: FastAPI) -> list[str]:
    """Return the methods and paths of the API, without those of the page and those with a part to fill in."""
    paths = {path: methods for path, methods in app.openapi()["paths"].items() if path.startswith("/v1/")}
    return [f"{name.upper()} {path}" for path, methods in paths.items() if "{" not in path for name in methods]


async def _answer_wrong_query(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    param = path_of(first["loc"][1:])  # the first word says where: query, path, header
    text = first["msg"][0].lower() + first["msg"][1:]
    found = "" if first["type"] == "missing" else f", found {shown(first.get('input'))}"
    return error_response(ApiError(400, f"{param}: {text}{found}", param=param, code="invalid_value"))

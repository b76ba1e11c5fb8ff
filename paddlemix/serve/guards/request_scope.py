"""What every request has: an id, headers of safety, a count in the metrics, and an answer even if the server fails."""

from __future__ import annotations

import re
import time
import traceback
import uuid

from fastapi.responses import JSONResponse
from h11 import LocalProtocolError
from starlette.datastructures import Headers, MutableHeaders

from ...terminal.log import notice
from ..errors import ApiError
from ..monitor.request_log import RequestRecord
from ..serving import Serving
from .body_limit import CLIENT_GONE, ClientGone
from .origins import OriginRules

ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
REFUSED = (401, 403, 404, 405)  # statuses of requests that are refused before they are read
MAX_PATH = 200  # characters in the log


class RequestScope:
    """An ASGI application around the routes."""

    def __init__(self, app, serving: Serving):
        self._app, self._serving = app, serving
        self._rules = OriginRules(serving.settings)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sent = headers.get("x-request-id", "")
        request_id = sent if ID.fullmatch(sent) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        answer, started = _Answer(send, request_id), time.monotonic()
        try:
            await self._respond(scope, receive, answer, headers)
        except ClientGone:
            answer.status = CLIENT_GONE
        finally:
            if answer.status is not None:
                self._serving.metrics.http_answered(answer.status, _template(scope))
                self._note_refusal(scope, answer, time.monotonic() - started)

    async def _respond(self, scope, receive, answer: _Answer, headers: Headers) -> None:
        try:
            self._rules.check(headers.get("host", ""), headers.get("origin"))
            await self._app(scope, receive, answer.send)
        except ClientGone:
            raise
        except ApiError as error:  # of the rules
            scope["state"]["refusal"] = error
            await JSONResponse(error.body, error.status, error.headers)(scope, receive, answer.send)
        except Exception:
            request_id = answer.request_id
            notice(f"request {request_id} failed:\n{traceback.format_exc()}")
            if answer.status is None:
                error = ApiError(500, f"the server failed; its log has the reason under the request id {request_id}")
                await JSONResponse(error.body, 500)(scope, receive, answer.send)

    def _note_refusal(self, scope, answer: _Answer, seconds: float) -> None:
        """Log and count a request that was refused before it became an exchange, which logs itself."""
        state, client = scope["state"], scope.get("client")
        refusal = state.get("refusal")
        if refusal is None or answer.status not in REFUSED or state.get("is_logged", False):
            return
        self._serving.metrics.rejected(refusal.code or refusal.type)
        self._serving.log.write(
            RequestRecord(
                id=answer.request_id,
                path=scope["path"][:MAX_PATH],
                client=client[0] if client else "",
                status=answer.status,
                error_code=refusal.code or refusal.type,
                total_seconds=seconds,
            )
        )


class _Answer:
    """The sending side of a request, which adds headers and notes the status."""

    def __init__(self, send, request_id: str):
        self._send, self.request_id = send, request_id
        self.status: int | None = None

    async def send(self, message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["x-content-type-options"] = "nosniff"
            headers["referrer-policy"] = "no-referrer"
        try:
            await self._send(message)
        except LocalProtocolError:  # of uvicorn, when what has come of the request meanwhile is not HTTP
            raise ClientGone from None


def _template(scope) -> str:
    """Return the path of the route that answered, so that clients cannot invent labels."""
    route = scope.get("route")
    return "none" if route is None else route.path

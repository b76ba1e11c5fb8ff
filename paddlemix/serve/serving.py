"""What all routes of a server share: its settings, its backend, and whether the model is loaded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from fastapi import Request

from .errors import LOADING_SECONDS, ApiError, stopping, unavailable
from .guards.body_limit import BodyReader
from .guards.schema_check import SchemaChecks
from .monitor.metrics import Metrics
from .monitor.request_log import RequestLog
from .protocol import Backend, ModelInfo
from .settings import ServeSettings


class Fetcher(Protocol):
    """Fetches images from hosts that are allowed."""

    async def fetch(self, url: str) -> bytes:
        """Return the bytes at a URL. Raises ApiError."""


class Serving:
    """The state of one app. The model is loaded in the background, so that /health answers from the first moment.

    on_ready: called when it is loaded, on_failure: with the error if it cannot be.
    """

    def __init__(
        self,
        settings: ServeSettings,
        backend: Backend,
        fetcher: Fetcher | None,
        metrics: Metrics,
        log: RequestLog,
    ):
        self.settings, self.backend, self.fetcher, self.metrics, self.log = settings, backend, fetcher, metrics, log
        self.bodies = BodyReader(settings.limits)
        self.schemas = SchemaChecks()
        self.created = int(time.time())
        self.on_ready: Callable[[], None] = lambda: None
        self.on_failure: Callable[[BaseException], None] | None = None
        self.is_loaded = False
        self._loading: asyncio.Task | None = None
        self._stopping: asyncio.Task | None = None

    def start(self) -> None:
        """Start to load the model."""
        self._loading = asyncio.create_task(self._load())

    async def stop(self) -> None:
        """Stop the backend after what runs; later calls wait for the first."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    @property
    def is_stopping(self) -> bool:
        return self._stopping is not None

    @property
    def info(self) -> ModelInfo:
        """What is known of the model. Raises ApiError while it is loaded."""
        if self.is_loaded:
            return self.backend.info
        raise stopping() if self.is_stopping else unavailable("loading", "the model is being loaded", LOADING_SECONDS)

    def name_of(self, model: str | None) -> str:
        """Return the name under which a request asks for the model, the first one if it names none."""
        names = self.settings.names
        if not model:
            return names[0]
        if model not in names:
            known = ", ".join(repr(name) for name in names)
            raise ApiError(
                404,
                f"the model {model[:200]!r} is not served here: expected {known}",
                param="model",
                code="model_not_found",
            )
        return model

    async def _load(self) -> None:
        try:
            await self.backend.start()
        except Exception as error:
            if self.on_failure is None:
                raise
            self.on_failure(error)
            return
        self.is_loaded = True
        self.on_ready()

    async def _stop(self) -> None:
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait({self._loading})
        await self.backend.stop(self.settings.limits.stop_seconds)


def serving_of(request: Request) -> Serving:
    """Return the state of the app that a request came to."""
    return request.app.state.serving

"""The web side of a server as one ASGI application: OpenAI's API, health, metrics and the page."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from .api import chat_route, completions_route, model_routes
from .api.openapi import describe
from .guards.auth import check_key
from .guards.error_handlers import add_error_handlers
from .guards.request_scope import RequestScope
from .images.image_urls import ImageFetcher
from .monitor.metrics import Metrics
from .monitor.request_log import RequestLog
from .page_files import add_page, read_page
from .protocol import Backend
from .serving import Fetcher, Serving
from .settings import ServeSettings


def create_app(
    settings: ServeSettings,
    backend: Backend,
    fetcher: Fetcher | None = None,
    metrics: Metrics | None = None,
    log: RequestLog | None = None,
) -> FastAPI:
    """Return the application of a server. Its lifespan starts and stops the backend.

    fetcher, metrics, log: None makes those of the settings; without allowed hosts, images by URL are refused.
    """
    if fetcher is None and settings.image_hosts:
        fetcher = ImageFetcher(settings.image_hosts)
    metrics = metrics or Metrics(settings.names[0], settings.metrics_prefix)
    log = log or RequestLog(settings.is_logging_requests)
    serving = Serving(settings, backend, fetcher, metrics, log)
    app = FastAPI(title="paddlemix", lifespan=_lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.serving = serving
    app.openapi = functools.partial(describe, app, has_keys=bool(settings.api_keys))
    api = APIRouter(dependencies=[Depends(check_key)])
    for router in (model_routes.v1, chat_route.router, completions_route.router):
        api.include_router(router)
    app.include_router(api)
    app.include_router(model_routes.health)
    add_page(app, read_page())
    add_error_handlers(app)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["x-request-id", "x-ignored-fields", "retry-after"],
        )
    app.add_middleware(RequestScope, serving=serving)  # the last one is the outermost
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    serving: Serving = app.state.serving
    serving.start()
    yield
    await serving.stop()

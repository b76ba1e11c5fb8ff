"""What a server tells about itself and its model."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from ... import __version__
from ...image.anyres import grid_shape, num_image_tokens, num_tiles
from ..errors import LOADING_SECONDS, ApiError
from ..protocol import Status
from ..serving import Serving, serving_of
from .openapi import ERRORS

MAX_EDGE = 100_000  # px
v1 = APIRouter(responses=ERRORS)
health = APIRouter()


@v1.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """List the names under which the model is served."""
    serving = serving_of(request)
    return {"object": "list", "data": [_card(serving, name) for name in serving.settings.names]}


@v1.get("/v1/models/{model:path}")
async def show_model(request: Request, model: str) -> dict[str, Any]:
    """Describe the model under one of its names."""
    serving = serving_of(request)
    return _card(serving, serving.name_of(model))


@v1.get("/v1/status")
async def show_status(request: Request) -> dict[str, Any]:
    """Tell how busy the server is, and what it takes."""
    serving = serving_of(request)
    status, limits = await status_of(serving), serving.settings.limits
    info = serving.info if serving.is_loaded else None
    return {
        "models": list(serving.settings.names),
        "max_model_len": info and info.max_model_len,
        "template": info and info.template,
        "device": info and info.device,
        "dtype": info and info.dtype,
        "has_structured_output": bool(info and info.is_structured_output_known),
        "num_running": status.num_running,
        "num_waiting": status.num_waiting,
        "is_ready": status.is_ready,
        "is_stopping": status.is_stopping,
        "limits": {
            "max_images": limits.max_images,
            "max_body_bytes": limits.max_body_bytes,
            "max_image_pixels": limits.max_image_pixels,
            "max_answers": limits.max_answers,
            "max_stops": limits.max_stops,
            "max_logprobs": limits.max_logprobs,
            "max_queue": limits.max_queue,
        },
        "version": __version__,
    }


@v1.get("/v1/image_tokens")
async def count_image_tokens(
    request: Request,
    width: Annotated[int, Query(ge=1, le=MAX_EDGE, description="px")],
    height: Annotated[int, Query(ge=1, le=MAX_EDGE, description="px")],
) -> dict[str, Any]:
    """Tell the tiles and tokens that an image of a size becomes. grid: columns and rows, null without a grid."""
    spec = serving_of(request).info.image
    size = width, height
    return {
        "num_tiles": num_tiles(size, spec),
        "num_tokens": num_image_tokens(size, spec),
        "grid": list(grid_shape(size, spec)) if spec.mode == "anyres" else None,
        "mode": spec.mode,
    }


@health.head("/health", include_in_schema=False)
@health.get("/health")
async def show_health() -> dict[str, str]:
    """Tell that the server runs."""
    return {"status": "ok"}


@health.head("/ready", include_in_schema=False)
@health.get("/ready", responses={503: {"description": "The model is loaded, or the server stops."}})
async def show_ready(request: Request) -> Response:
    """Tell whether requests are answered now."""
    serving = serving_of(request)
    status = await status_of(serving)
    if status.is_ready:
        return JSONResponse({"status": "ready"})
    word = "stopping" if status.is_stopping else "no process with the model" if serving.is_loaded else "loading"
    raise ApiError(503, f"not ready: {word}", code="not_ready", headers={"Retry-After": str(LOADING_SECONDS)})


@health.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def show_metrics(request: Request) -> Response:
    """Give the metrics to Prometheus."""
    serving = serving_of(request)
    body, kind = serving.metrics.render(await status_of(serving))
    return Response(body, headers={"Content-Type": kind})


async def status_of(serving: Serving) -> Status:
    """Return the status of the backend, not ready while the model is loaded or the server stops."""
    if not serving.is_loaded:
        return Status(is_ready=False, is_stopping=serving.is_stopping, num_workers=0)
    status = await serving.backend.status()
    if serving.is_stopping:
        return Status(False, True, status.num_workers, status.num_restarts, status.workers)
    return status


def _card(serving: Serving, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": serving.created,
        "owned_by": "paddlemix",
        "root": name,
        "parent": None,
        "max_model_len": serving.info.max_model_len,
        "permission": [],
    }

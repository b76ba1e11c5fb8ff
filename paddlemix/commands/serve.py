"""`paddlemix serve`: serve a model to clients of OpenAI's API, and on a web page."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from ..packages import missing
from ..serve.guards.access import all_keys, checked_origins
from .card_options import add_card_option, prepare_cards
from .loading import add_loading_options, quantization_of
from .options import add_model_options
from .parser import MODEL, add_examples
from .serve_options import add_cluster_options, add_limits, add_web_options, check_cluster

if TYPE_CHECKING:
    from ..serve.cluster.ray_settings import RaySettings
    from ..serve.settings import Limits, ModelOptions, ServeSettings

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")  # of the extra `serve`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_model_options(parser)
    add_loading_options(parser)
    add_card_option(parser)
    add_web_options(parser)
    add_limits(parser)
    add_cluster_options(parser)
    parser.set_defaults(sets_environment=True)  # processes with the model prepare their own
    add_examples(parser, f"paddlemix serve --model-path {MODEL} --served-model-name tiny")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C. Raises ValueError or OSError for a user's mistake."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise missing(f"a server needs {' and '.join(absent)}", "serve")
    check_cluster(arguments)
    prepare_cards(arguments)
    if arguments.ray:
        from ..serve.ray_app import serve_on_ray

        return serve_on_ray(settings_of(arguments), cluster_of(arguments))
    from ..serve.listener import open_socket
    from ..serve.web_server import run_server

    with open_socket(arguments.host, arguments.port) as listener:  # first: what follows may download for an hour
        settings = settings_of(arguments)
        from ..serve.workers.pool import Pool

        return run_server(settings, Pool(settings.model, settings.limits, settings.num_workers), listener)


def settings_of(arguments: argparse.Namespace) -> ServeSettings:
    """Return what the options say. Raises ValueError for values that cannot be used."""
    from ..serve.settings import ServeSettings, default_name

    limits, keys = _limits(arguments), all_keys(arguments.api_key)
    return ServeSettings(
        model=_model(arguments, limits),
        names=tuple(arguments.served_model_name or [default_name(arguments.model_path)]),
        host=arguments.host,
        port=arguments.port,
        api_keys=keys,
        image_hosts=tuple(arguments.allow_image_urls),
        origins=checked_origins(arguments.allow_origins, has_keys=bool(keys)),
        limits=limits,
        num_workers=arguments.workers,
        is_logging_requests=arguments.log_requests,
        metrics_prefix=arguments.metrics_prefix,
    )


def cluster_of(arguments: argparse.Namespace) -> RaySettings:
    """Return how many replicas --ray starts, and where."""
    from ..serve.cluster.ray_settings import RaySettings

    return RaySettings(
        num_replicas=arguments.replicas,
        min_replicas=arguments.min_replicas,
        max_replicas=arguments.max_replicas,
        address=arguments.ray_address,
    )


def _limits(arguments: argparse.Namespace) -> Limits:
    from ..serve.settings import Limits
    from ..tensor_files.shards import parse_size

    try:
        max_body_bytes = parse_size(arguments.max_body)
    except ValueError:
        raise ValueError(f"--max-body is {arguments.max_body!r}: expected a size, as 64MB or 500KB") from None
    return Limits(
        max_queue=arguments.max_queue,
        max_images=arguments.max_images,
        max_body_bytes=max_body_bytes,
        request_seconds=arguments.request_timeout,
        stop_seconds=arguments.stop_timeout,
    )


def _model(arguments: argparse.Namespace, limits: Limits) -> ModelOptions:
    """Return how to load the model, which is downloaded here if it must be: once, not in each process."""
    from ..serve.settings import ModelOptions
    from .options import resolve_models

    quantization = quantization_of(arguments)
    (folder,) = resolve_models(arguments, arguments.model_path)
    return ModelOptions(
        model_path=Path(folder),
        model_base=arguments.model_base,
        device=arguments.device,
        dtype="float16" if arguments.fp16 else arguments.dtype,
        conv_mode=arguments.conv_mode,
        quantization=quantization,
        max_running=arguments.max_running,
        max_model_len=arguments.max_model_len,
        cache_bytes=None if arguments.cache_gb is None else int(arguments.cache_gb * (1 << 30)),
        max_image_pixels=limits.max_image_pixels,
        num_cards=arguments.tensor_parallel,
    )

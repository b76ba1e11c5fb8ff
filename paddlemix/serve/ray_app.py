"""Serve a model on several machines, with `paddlemix serve --ray` or `serve run paddlemix.serve.ray_app:app`.

The application is that of one machine: the same FastAPI app, in front of replicas instead of processes. Ray's proxies
take the requests, one deployment has the app, one the board with the state of the replicas, and one the replicas.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..accelerators import version_of
from ..device import CPU, GPU, NPU
from ..packages import missing
from ..terminal.log import notice
from ..terminal.sizes import plural
from .cluster.ray_backend import RayBackend
from .cluster.ray_replica import HOST, ModelReplica, StatusBoard
from .cluster.ray_settings import RaySettings, settings_of
from .greeting import greet, warn_if_open
from .settings import ServeSettings
from .stop_signals import stop_signals

if TYPE_CHECKING:
    from ray.serve import Application

NAME = "paddlemix"
REPORT_SECONDS = 1.0  # between two reports of a replica
# Requests that a replica takes at a time, for each sequence that runs: the next ones are prepared meanwhile.
TAKEN_AHEAD = 2
CARDS = {GPU: "GPU", NPU: "NPU"}  # kinds of devices, with Ray's names of them
# Seconds for a replica to say how busy it is, before a conversation goes to another one. Ray's own 0.1 s is too short
# for processors that compute.
PATIENCE = {
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "2",
    "RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "4",
    "RAY_SERVE_MULTIPLEXED_MODEL_ID_MATCHING_TIMEOUT_S": "4",
}
QUIET = {"log_level": "WARNING", "enable_access_log": False}  # the app has a log of requests


def app(arguments: Mapping[str, Any]) -> Application:
    """Return the application for `serve run paddlemix.serve.ray_app:app model_path=M num_replicas=2`.

    The names are those of `ray_settings.settings_of`; in a file of `serve deploy` they are the `args`.
    """
    return application(*settings_of(arguments))


def application(settings: ServeSettings, cluster: RaySettings, host: str = HOST) -> Application:
    """Return the application for `serve.run`. host: module and class that answer jobs in a replica.

    Ray must be running: a replica's part of the processors, and the kind of card, are the cluster's.
    """
    from ray import serve

    path = Path(settings.model.model_path)
    model = replace(settings.model, model_path=path.absolute() if path.exists() else path, worker=0, num_workers=1)
    settings = replace(settings, model=model)
    limits = settings.limits
    resources = resources_of(model.device, cluster)
    board = serve.deployment(StatusBoard).options(ray_actor_options={"num_cpus": 0}, logging_config=QUIET).bind()
    models = (
        serve.deployment(ModelReplica, logging_config=QUIET)
        .options(
            **scale_of(cluster, model.max_running),
            max_ongoing_requests=TAKEN_AHEAD * model.max_running,
            health_check_period_s=REPORT_SECONDS,
            health_check_timeout_s=30.0,
            graceful_shutdown_timeout_s=limits.stop_seconds,
            ray_actor_options=resources,
        )
        .bind(model, board, host)
    )
    ingress = serve.deployment(serve.ingress(lambda: _web_app(settings))(Ingress), logging_config=QUIET)
    return ingress.options(
        name="web",
        max_ongoing_requests=10_000,  # the app and the replicas have limits of their own
        graceful_shutdown_timeout_s=limits.stop_seconds,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": PATIENCE}},
    ).bind(models, board)


class Ingress:
    """The deployment that has the app. It keeps the other deployments in the application."""

    def __init__(self, models: Any, board: Any):
        self._deployments = models, board


def _web_app(settings: ServeSettings):
    """Return the app with the replicas of the application behind it. Runs in the process that serves it."""
    from ray import serve

    from .app import create_app

    name = serve.get_replica_context().app_name
    models, board = (serve.get_deployment_handle(each, name) for each in ("ModelReplica", "StatusBoard"))
    return create_app(settings, RayBackend(models, board, settings.limits, settings.model.max_running))


def scale_of(cluster: RaySettings, max_running: int) -> dict[str, Any]:
    """Return the options of a deployment that say how many replicas it has."""
    if cluster.max_replicas is None:
        return {"num_replicas": cluster.num_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": cluster.min_replicas,
            "max_replicas": cluster.max_replicas,
            "target_ongoing_requests": cluster.target_ongoing_requests or max_running,
        }
    }


def resources_of(device: str | None, cluster: RaySettings) -> dict[str, Any]:
    """Return what a replica takes of its machine: one card, or an equal part of the processors.

    Ray shows each replica only its own card. Raises ValueError for more cards than there are.
    """
    import ray

    found = ray.cluster_resources()
    kind = (device or _best(found)).partition(":")[0]
    cores = max(int(found.get("CPU", 1)) // cluster.most, 1)
    cpus = cluster.cpus or (cores if kind == CPU else 1)
    _check_cards(kind, cluster, found)
    # Replicas inherit the environment of the process that starts Ray, which has set a number of threads for itself.
    threads = {"PADDLEMIX_NUM_THREADS": str(cpus), "OMP_NUM_THREADS": "1"}
    options = {"num_cpus": cpus, "runtime_env": {"env_vars": threads}}
    cards = {GPU: {"num_gpus": 1}, NPU: {"resources": {"NPU": 1}}}
    return options | cards.get(kind, {})


def _check_cards(kind: str, cluster: RaySettings, found: Mapping[str, float]) -> None:
    """Raise ValueError if there are too few cards: Ray would wait for them without an end."""
    num_cards = found.get(CARDS[kind], 0) if kind in CARDS else cluster.least
    if num_cards < cluster.least:
        raise ValueError(
            f"{cluster.least} replicas need a {kind} each, and the Ray cluster has {num_cards:g}: start fewer, or "
            "first join the machines with `ray start`"
        )


def _best(found: Mapping[str, float]) -> str:
    if found.get("GPU") and version_of("paddlepaddle-gpu") is not None:
        return GPU
    return NPU if found.get("NPU") else CPU


def serve_on_ray(settings: ServeSettings, cluster: RaySettings, host: str = HOST) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code. Raises ValueError for what a user can cause."""
    if importlib.util.find_spec("ray") is None:
        raise missing("--ray needs Ray Serve", "cluster")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve

    from .listener import address_of, open_socket

    open_socket(settings.host, settings.port).close()  # for a clear error if the port is taken
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while it starts: what has begun is ended
    try:
        ray.init(address=cluster.address, include_dashboard=False, log_to_driver=True, logging_level="WARNING")
    except ConnectionError as error:
        raise ValueError(f"there is no Ray cluster at {cluster.address}: {error}") from None
    warn_if_open(settings)
    try:
        serve.start(http_options={"host": settings.host, "port": settings.port}, logging_config=QUIET)
        _run(application(settings, cluster, host))
        info = serve.get_deployment_handle("ModelReplica", NAME).info.remote().result()
        greet(settings, info, address_of(settings.host, settings.port), _counted(cluster))
        with stop_signals(stopped.set):
            stopped.wait()
        notice(f"stopping: running requests may take {settings.limits.stop_seconds:g} s; Ctrl-C again stops at once")
    finally:
        serve.delete(NAME) if cluster.address else serve.shutdown()
        ray.shutdown()
    return 0


def _counted(cluster: RaySettings) -> str:
    if cluster.max_replicas is None:
        return plural(cluster.most, "replica")
    return f"{cluster.min_replicas} to {cluster.most} replicas"


def _run(application: Application) -> None:
    """Deploy the application and wait until it answers. Raises ValueError with what its replicas have said."""
    from ray import serve

    try:
        serve.run(application, name=NAME, route_prefix="/")
    except RuntimeError as error:
        deployments = serve.status().applications[NAME].deployments.values()
        said = next((each.message for each in deployments if "FAILED" in each.status), str(error))
        raise ValueError(f"the replicas cannot start: {_last_error(said)}") from None


def _last_error(text: str) -> str:
    """Return the error at the end of a traceback that Ray passes on."""
    lines = [line.strip() for line in text.splitlines() if "Error: " in line]
    return lines[-1].partition("Error: ")[2] if lines else text.strip()

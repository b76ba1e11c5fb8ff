"""The options of `paddlemix serve` that are not those of every command with a model."""

from __future__ import annotations

import argparse

from ..serve.guards.access import KEY_VARIABLE
from .options import whole

MIN_MODEL_LEN = 16  # tokens; fewer hold no chat template with a question and an answer


def add_web_options(parser: argparse.ArgumentParser) -> None:
    """Add where the server listens and who may use it."""
    group = parser.add_argument_group("network")
    group.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    group.add_argument("--port", type=whole(0), default=8000, help="port, 0 for any free one (default: 8000)")
    group.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="a key that opens /v1, or @FILE (or just the name of an existing file) with a key on each line; may be "
        f"repeated. Other users of the machine see a key in the command line, but not one in a file or in "
        f"${KEY_VARIABLE}",
    )
    group.add_argument(
        "--served-model-name",
        nargs="+",
        metavar="NAME",
        help="names under which clients ask for the model (default: the last part of --model-path)",
    )
    group.add_argument(
        "--allow-image-urls",
        nargs="+",
        type=_host_rule,
        default=[],
        metavar="HOST",
        help="hosts from which images are fetched: example.com, *.example.com (default: none, images come as data: "
        "URIs)",
    )
    group.add_argument(
        "--allow-origins",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="web pages of other servers that may use this one: https://chat.example.com; with a key also * (default: "
        "none)",
    )
    group.add_argument("--log-requests", action="store_true", help="log prompts and answers too")
    group.add_argument(
        "--metrics-prefix",
        default="paddlemix",
        metavar="WORD",
        help="first part of the names in /metrics; vllm lets its dashboards work (default: paddlemix)",
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add how much the server takes on at a time."""
    group = parser.add_argument_group("limits")
    group.add_argument("--workers", type=whole(1), default=1, metavar="N", help="processes with the model (default: 1)")
    group.add_argument(
        "--max-running", type=whole(1), default=16, metavar="N", help="answers at a time in a process (default: 16)"
    )
    group.add_argument(
        "--max-queue",
        type=whole(0),
        default=64,
        metavar="N",
        help="answers that wait, of all requests together; a request for n answers counts n times (default: 64)",
    )
    group.add_argument(
        "--max-model-len",
        type=whole(MIN_MODEL_LEN),
        default=None,
        metavar="N",
        help="tokens of a prompt and its answer (default: the model's context)",
    )
    group.add_argument(
        "--cache-gb",
        type=_positive,
        default=None,
        metavar="GB",
        help="memory of each process for keys and values (default: for --max-running short conversations)",
    )
    group.add_argument("--max-images", type=whole(0), default=8, metavar="N", help="images in a request (default: 8)")
    group.add_argument("--max-body", default="64MB", metavar="SIZE", help="size of a request (default: 64MB)")
    group.add_argument(
        "--request-timeout", type=_positive, default=600.0, metavar="S", help="seconds for an answer (default: 600)"
    )
    group.add_argument(
        "--stop-timeout",
        type=_positive,
        default=30.0,
        metavar="S",
        help="seconds for running answers when the server is stopped (default: 30)",
    )


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add how several machines share the work."""
    group = parser.add_argument_group("several machines")
    group.add_argument("--ray", action="store_true", help="answer with replicas of a Ray cluster in place of workers")
    group.add_argument("--replicas", type=whole(1), default=1, metavar="N", help="with --ray (default: 1)")
    group.add_argument("--min-replicas", type=whole(1), default=1, metavar="N", help="with --max-replicas (default: 1)")
    group.add_argument(
        "--max-replicas", type=whole(1), default=None, metavar="N", help="let Ray choose, by load, up to this many"
    )
    group.add_argument(
        "--ray-address", default=None, metavar="HOST:PORT", help="a cluster that runs (default: start one here)"
    )


def check_cluster(arguments: argparse.Namespace) -> None:
    """Raise ValueError for an option of --ray without it, which would change nothing."""
    given = {
        "--replicas": arguments.replicas != 1,
        "--min-replicas": arguments.min_replicas != 1,
        "--max-replicas": arguments.max_replicas is not None,
        "--ray-address": arguments.ray_address is not None,
    }
    for option, is_given in given.items():
        if is_given and not arguments.ray:
            hint = "" if option == "--ray-address" else "; did you mean --workers, the processes on this machine?"
            raise ValueError(f"{option} needs --ray{hint}")
    if arguments.ray and arguments.tensor_parallel > 1:
        raise ValueError(
            f"--tensor-parallel is {arguments.tensor_parallel}, and a replica of --ray has one card: start `paddlemix "
            "serve --tensor-parallel N` on each machine, behind nginx"
        )


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return number


def _host_rule(text: str) -> str:
    """Return a host of --allow-image-urls. Raises ArgumentTypeError for a URL with a path."""
    place = text.partition("://")[2] or text
    host, _, path = place.partition("=")[0].partition("/")
    if path:
        raise argparse.ArgumentTypeError(f"expected a host, as {host or 'example.com'}, found the URL or path {text!r}")
    return text

"""LLaVA's controller: the first of the three commands of its demo.

`paddlemix serve` needs none: it has the web page, the API and several workers in one command. This one is for scripts
that start all three: model_worker registers here, and gradio_web_server asks here where the worker is.
"""

from __future__ import annotations

import argparse

from .options import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of LLaVA's script."""
    from ..serve.llava_protocol.worker_registry import DISPATCH_METHODS

    parser.add_argument("--host", default="localhost", help="address to listen on (default localhost)")
    parser.add_argument("--port", type=whole(0), default=21001, help="(default 21001)")
    parser.add_argument(
        "--dispatch-method",
        choices=DISPATCH_METHODS,
        default="shortest_queue",
        help="how a worker is chosen: at random, or the one that was given the fewest connections (the default)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Answer until Ctrl-C or SIGTERM. Raises ValueError if the port cannot be used."""
    from ..serve.llava_protocol.worker_registry import WorkerRegistry, controller_server
    from ..serve.stop_signals import stop_signals
    from ..terminal.log import notice

    server = controller_server(WorkerRegistry(arguments.dispatch_method), arguments.host, arguments.port)
    with server, stop_signals(server.shutdown):
        notice(
            f"controller on http://{arguments.host}:{server.server_port}. It is not needed: `paddlemix serve "
            "--model-path M` starts the web page and the API in one command"
        )
        server.serve_forever(poll_interval=0.1)
    return 0

"""LLaVA's gradio_web_server: the third of the three commands of its demo. There is no gradio here.

It passes its port on to a worker that the controller knows, so that the worker's page and API answer on it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from functools import partial

from .llava_options import add_unused, name_unused, refuse
from .options import whole

UNUSED = {
    "--concurrency-count": "the worker's --limit-model-concurrency is how many answers are computed at a time",
    "--model-list-mode": "the worker that answers tells the page its model",
}
UNUSED_SWITCHES = {"--embed": "the page is the same in both cases"}
REFUSED = {
    "--share": "there is no public tunnel: put nginx with TLS and a key in front, see docs/en/serving.md",
    "--moderate": "questions are not sent to a moderation service: leave it out, or filter in front of the server",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of LLaVA's script."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1; LLaVA's: all)")
    parser.add_argument("--port", type=whole(0), default=7860, help="(default 7860)")
    parser.add_argument("--controller-url", "--controller", default="http://localhost:21001", help="whom to ask")
    add_unused(parser, UNUSED)
    add_unused(parser, UNUSED_SWITCHES, is_switch=True)
    for option in REFUSED:
        parser.add_argument(option, action="store_true", help="refused: not available here")


def run(arguments: argparse.Namespace) -> int:
    """Pass connections on until Ctrl-C or SIGTERM. Raises ValueError or OSError for a user's mistake."""
    refuse(arguments, REFUSED)
    name_unused(arguments, UNUSED | UNUSED_SWITCHES)
    asyncio.run(_forward(arguments))
    return 0


async def _forward(arguments: argparse.Namespace) -> None:
    from ..serve.llava_protocol.forwarding import forward
    from ..serve.llava_protocol.registration import worker_for_page
    from ..terminal.log import notice

    find_worker = partial(worker_for_page, arguments.controller_url.rstrip("/"))
    server = await forward(arguments.host, arguments.port, find_worker)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    notice(
        f"the page is at http://{arguments.host}:{server.sockets[0].getsockname()[1]} and comes from a worker. This "
        "command is not needed: `paddlemix serve --model-path M` has the page itself"
    )
    if arguments.host not in ("127.0.0.1", "localhost", "::1"):
        notice("other machines can reach this port: give model_worker a key in $PADDLEMIX_API_KEY")
    await stopped.wait()
    server.close()  # asyncio.run ends the connections

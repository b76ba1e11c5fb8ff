"""LLaVA's model_worker: the second of the three commands of its demo, and here the server itself.

It is `paddlemix serve` with LLaVA's options, port and registration. Its page and its API are on its own port as well.
"""

from __future__ import annotations

import argparse

from .card_options import add_card_option
from .llava_options import add_unused, device_of, name_unused
from .options import add_model_options, whole

UNUSED = {"--stream-interval": "every piece of an answer is sent when it is known"}
UNUSED_SWITCHES = {
    "--use-flash-attn": "the kernels are chosen by what the device has; `paddlemix doctor` shows them",
    "--multi-modal": "the checkpoint says whether the model takes images",
    "--keep-aspect-ratio": "the checkpoint says how images are prepared",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of LLaVA's script, those of its first version included."""
    add_model_options(parser)
    parser.add_argument("--host", default="localhost", help="address to listen on (default localhost)")
    parser.add_argument("--port", type=whole(0), default=21002, help="(default 21002)")
    parser.add_argument("--worker-address", default=None, help="how others reach it (default: http://HOST:PORT)")
    parser.add_argument("--controller-address", default="http://localhost:21001", help="where to register")
    parser.add_argument("--no-register", action="store_true", help="register nowhere")
    parser.add_argument("--model-name", default=None, help="name of the model (default: that of its folder)")
    parser.add_argument("--limit-model-concurrency", type=whole(1), default=5, help="answers at a time (default 5)")
    parser.add_argument("--load-8bit", action="store_true", help="keep the decoder's weights in 8 bits")
    parser.add_argument("--load-4bit", action="store_true", help="keep the decoder's weights in 4 bits")
    add_card_option(parser)
    add_unused(parser, UNUSED)
    add_unused(parser, UNUSED_SWITCHES, is_switch=True)
    parser.set_defaults(sets_environment=True)  # the processes with the model set theirs


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM. Raises ValueError or OSError for a user's mistake."""
    from ..serve.llava_protocol.registration import register_when_ready
    from ..terminal.log import notice
    from . import serve

    name_unused(arguments, UNUSED | UNUSED_SWITCHES)
    words = serve_words(arguments)
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    notice(f"this is `paddlemix serve {' '.join(words)}`")
    local = f"http://{arguments.host}:{arguments.port}"
    if not arguments.no_register:
        address = (arguments.worker_address or local).rstrip("/")
        register_when_ready(arguments.controller_address.rstrip("/"), address, name_of(arguments), local)
    return serve.run(parser.parse_args(words))


def serve_words(arguments: argparse.Namespace) -> list[str]:
    """Return the words after `paddlemix serve` that mean the same."""
    given = {
        "--host": arguments.host,
        "--port": arguments.port,
        "--model-path": arguments.model_path,
        "--model-base": arguments.model_base,
        "--device": device_of(arguments.device),
        "--dtype": arguments.dtype,
        "--hub": arguments.hub,
        "--revision": arguments.revision,
        "--served-model-name": name_of(arguments),
        "--max-running": arguments.limit_model_concurrency,
        "--tensor-parallel": arguments.tensor_parallel if arguments.tensor_parallel != 1 else None,
    }
    words = [word for option, value in given.items() if value is not None for word in (option, str(value))]
    return words + ["--load-8bit"] * arguments.load_8bit + ["--load-4bit"] * arguments.load_4bit


def name_of(arguments: argparse.Namespace) -> str:
    """Return the name of the model as LLaVA's worker makes it: that of the folder, with its parent for checkpoint-N."""
    parts = arguments.model_path.rstrip("/").split("/")
    is_numbered = parts[-1].startswith("checkpoint-") and len(parts) > 1
    return arguments.model_name or ("_".join(parts[-2:]) if is_numbered else parts[-1])

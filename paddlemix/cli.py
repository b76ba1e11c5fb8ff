"""The command `paddlemix`."""

from __future__ import annotations

import argparse
import gc
import importlib
import sys

from . import __version__
from .accelerators import explained
from .constants import BUNDLED_MODEL
from .device import prepare_environment
from .terminal.interrupts import kept_interrupts
from .terminal.log import complain
from .terminal.streams import standard_streams
from .terminal.visible import visible

TRAINERS = {"pretrain": "plain", "sft": None}  # command -> template (None: the model's own)
# Commands with a module of their own in commands/, in the order of the help text.
COMMANDS = {
    "convert": "bring a checkpoint into another layout",
    "inspect": "say what a checkpoint is, holds and lacks",
    "inspect-data": "say what a training configuration would read, and show it as the model sees it",
    "doctor": "check a training configuration on this machine, a short trial included; or a device",
    "compose": "make a model to start from out of a language model and a vision tower",
    "extract-projector": "write a model's projector to a file",
    "apply-delta": "add delta weights to their base",
    "make-delta": "subtract a base from a model",
    "bench": "measure how fast a model is on this machine",
}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints can be printed: a shell puts names of files into a command line."""

    def error(self, message: str):
        super().error(visible(message))


def main(argv: list[str] | None = None) -> int:
    """Run a command; return the exit code. A user's mistake is one line on standard error and code 1."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in TRAINERS:
        from .train.run import main as train

        return train(argv[1:], script=f"paddlemix {argv[0]}", template=TRAINERS[argv[0]])
    return run(None, argv)


def run(parser: argparse.ArgumentParser | None, argv: list[str]) -> int:
    """Parse, set the environment for the device, call the command, and turn mistakes into one line.

    parser: None for the one with every command.
    """
    try:
        with kept_interrupts(), standard_streams(), explained():
            parser = build_parser() if parser is None else parser
            arguments, rest = parser.parse_known_args(argv)
            if "takes_settings" in arguments:
                arguments.settings = rest
            elif rest:
                parser.error(f"unrecognized arguments: {' '.join(rest)}")
            if "sets_environment" not in arguments:
                prepare_environment(getattr(arguments, "device", None))
            return arguments.command(arguments)
    except BrokenPipeError:  # before OSError, which it is too
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        gc.freeze()  # before it ends, Python would look through all of paddle's objects, for seconds
        print("stopped", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every command."""
    parser = Parser(prog="paddlemix", description="LLaVA v1.5 and v1.6 on PaddlePaddle")
    parser.add_argument("--version", action="version", version=f"paddlemix {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_chat(commands.add_parser("chat", help="talk with a model about pictures"))
    for name, text in (("pretrain", "stage 1: train the projector"), ("sft", "stage 2: fine-tune, whole or with LoRA")):
        commands.add_parser(name, help=f"{text} ({name} config.json [--key value ...])", add_help=False)
    add_merge(commands.add_parser("merge", help="merge a LoRA folder into its base model"))
    for name, text in COMMANDS.items():
        module = importlib.import_module(f".commands.{name.replace('-', '_')}", __package__)
        module.add_arguments(commands.add_parser(name, help=text, description=module.__doc__)).set_defaults(
            command=module.run
        )
    return parser


def add_chat(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the chat's options and its function."""
    from .commands.chat import add_arguments

    add_arguments(parser, default_model=BUNDLED_MODEL)
    parser.set_defaults(command=_chat)
    return parser


def add_merge(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of merging and its function."""
    parser.add_argument("--model_name_or_path", "--model-path", default=None, help="base model (default: LoRA's own)")
    parser.add_argument("--lora_path", "--lora-path", required=True, help="folder with lora_config.json")
    parser.add_argument("--merge_model_path", "--output", help="folder to write to (default: LORA_PATH_merged)")
    parser.add_argument("--device", default=None, help="where to merge (default: the best there is)")
    parser.add_argument(
        "--base-quantization",
        choices=("none", "int8", "nf4"),
        default=None,
        help="what the base is rounded to before (default: what lora_config.json says it was trained over)",
    )
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that holds something else")
    parser.set_defaults(command=_merge)
    return parser


def _chat(arguments: argparse.Namespace) -> int:
    from .commands.chat_loop import chat

    return chat(arguments)


def _merge(arguments: argparse.Namespace) -> int:
    from .checkpoints.merge import merge
    from .checkpoints.source import AS_RECORDED
    from .hub.hub import resolve

    output = arguments.merge_model_path or arguments.lora_path.rstrip("/") + "_merged"
    base = None if arguments.model_name_or_path is None else resolve(arguments.model_name_or_path)
    chosen = arguments.base_quantization
    kind = AS_RECORDED if chosen is None else None if chosen == "none" else chosen
    merge(
        resolve(arguments.lora_path),
        output,
        base=base,
        device=arguments.device,
        base_quantization=kind,
        is_overwriting=arguments.overwrite,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`paddlemix bench`: measure how fast a model is on this machine, and how close to the machine's limit."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from ..terminal.visible import visible, visible_json
from .loading import add_quantization_options, quantization_of
from .options import add_model_options, resolve_models
from .parser import add_examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_model_options(parser)
    add_quantization_options(parser)
    lists = {
        "lengths": ("prompt lengths to prefill, in tokens", (128, 512, 2048)),
        "contexts": ("context lengths to decode at, in tokens", (128, 600, 3000)),
        "batches": ("numbers of rows to decode at once", (1, 4, 16)),
    }
    for name, (text, default) in lists.items():
        numbers = " ".join(map(str, default))
        parser.add_argument(
            f"--{name}", type=int, nargs="+", default=default, metavar="N", help=f"{text} (default: {numbers})"
        )
    parser.add_argument("--steps", type=int, default=32, metavar="N", help="tokens to decode (default 32)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="repetitions, for the median (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.epilog = "Sizes above the model's context are reduced to the largest that fits."
    add_examples(parser, "paddlemix bench --contexts 128 --lengths 128 --batches 1")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the results."""
    found = measure(arguments)
    print(visible_json(found) if arguments.json else visible(as_text(found)))
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load the model, measure it and return the results for JSON. Progress goes to standard error."""
    import dataclasses

    import paddle

    from .. import __version__
    from ..checkpoints.load import load_model
    from ..device_memory import peak_memory
    from ..doctor.machine import num_cores, processor, vector_flags
    from ..models.fast_decoder import decoder_for
    from .speed import Meter, Plan, machine_limits

    sizes = (tuple(numbers) for numbers in (arguments.lengths, arguments.contexts, arguments.batches))
    plan = Plan(*sizes, num_steps=arguments.steps, num_rounds=arguments.rounds)
    kind = quantization_of(arguments)
    (folder,) = resolve_models(arguments, arguments.model_path)
    _report(f"loading {folder}")
    start = time.perf_counter()
    model = load_model(
        folder, base=arguments.model_base, dtype=arguments.dtype, device=arguments.device, quantization=kind
    )
    seconds = time.perf_counter() - start
    dtype = str(model.language_model.norm.weight.dtype).split(".")[-1]
    meter, rows = Meter(model, dtype, plan), []
    for row in meter.rows(_processor(folder, arguments.model_base)):
        _report(_line(dataclasses.asdict(row)))
        rows.append(row)
    choices = decoder_for(model.language_model).choices()
    peak = peak_memory()
    _report("measuring what the machine can do")
    limits = machine_limits(dtype, plan.num_rounds)
    return {
        "model": str(arguments.model_path),
        "device": paddle.get_device(),
        "processor": {"name": processor(), "cores": num_cores(), "vector_flags": vector_flags()},
        "dtype": dtype,
        "weights": kind or dtype,
        "context": model.config.language.max_position_embeddings,
        "load_seconds": seconds,
        "limits": {"copy_bytes_per_second": limits["copy"], "matrix_flops_per_second": limits["matrix"]},
        "row_products": [dataclasses.asdict(choice) for choice in choices],
        "rows": [dataclasses.asdict(row.compared(limits)) for row in rows],
        "peak_memory_bytes": peak,
        "versions": {"paddlemix": __version__, "paddlepaddle": paddle.__version__},
    }


def _processor(folder, base):
    """Return a model's processor, or None with a notice for a folder without a tokenizer."""
    from ..checkpoints.processor import LlavaProcessor
    from ..terminal.log import notice

    try:
        return LlavaProcessor.from_pretrained(folder, base)
    except ValueError as error:
        notice(f"the turns of a conversation are not measured: {error}")
        return None


def _report(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


def as_text(found: dict[str, Any]) -> str:
    """Return the result as a table."""
    from ..models.cpu.projection import Choice

    limits, processor = found["limits"], found["processor"]
    copied, multiplied = limits["copy_bytes_per_second"] / 1e9, limits["matrix_flops_per_second"] / 1e9
    return "\n".join(
        [
            found["model"],
            f"  {found['device']}, {found['dtype']}, weights in {found['weights']}, context {found['context']:,}",
            f"  {processor['name']}, {processor['cores']} cores, {' '.join(processor['vector_flags'])}",
            f"  loaded in {found['load_seconds']:.2f} s, peak memory {found['peak_memory_bytes'] / 1e6:,.0f} MB",
            f"  the machine copies {copied:.1f} GB/s (read and written) and multiplies {multiplied:,.0f} GFLOP/s",
            *(f"  {Choice(**choice)}" for choice in found["row_products"]),
            "",
            f"{'':9}{'':16}{'time':>12}{'speed':>22}  of the machine's",
            *map(_line, found["rows"]),
        ]
    )


def _line(row: dict[str, Any]) -> str:
    speed = "" if row["rate"] is None else f"{row['rate']:,.1f} {row['unit']}"
    limit = "" if row["fraction"] is None else f"  {row['fraction']:.2f} {row['limit']}"
    return f"{row['what']:9}{row['size']:16}{row['seconds'] * 1e3:9,.1f} ms{speed:>22}{limit}".rstrip()

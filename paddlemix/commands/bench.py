"""`paddlemix bench`: measure how fast a model is on this machine, and how close to the machine's limit."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..terminal.visible import visible, visible_json
from .bench_report import compare, comparison_text, read_report
from .card_options import add_card_option, prepare_cards
from .loading import add_quantization_options, quantization_of
from .options import add_model_options, resolve_models
from .parser import add_examples

if TYPE_CHECKING:
    from .speed import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_model_options(parser)
    add_card_option(parser)
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
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="FILE",
        help="an earlier output of --json, to compare with what is measured now; two of them are compared with each "
        "other, and nothing is measured",
    )
    parser.epilog = (
        "Sizes above the model's context are reduced to the largest that fits. With `--json > FILE` the results "
        "are kept for a later `--compare FILE`."
    )
    add_examples(parser, "paddlemix bench --contexts 128 --lengths 128 --batches 1")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the results, compared with earlier ones if the user wishes. Raises ValueError for mistakes."""
    prepare_cards(arguments)
    reports = [read_report(path) for path in arguments.compare or ()]
    if len(reports) > 2:
        raise ValueError(f"--compare has {len(reports)} files: expected one, or two to compare with each other")
    if len(reports) == 2:
        found = compare(*reports)
        print(visible_json(found) if arguments.json else visible(comparison_text(found)))
        return 0
    found = measure(arguments)
    text = as_text(found)
    if reports:
        found["comparison"] = compare(reports[0], found)
        text += f"\n\n{comparison_text(found['comparison'])}"
    print(visible_json(found) if arguments.json else visible(text))
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load the model, measure it and return the results for JSON. Progress goes to standard error."""
    from .speed import Plan

    sizes = (tuple(numbers) for numbers in (arguments.lengths, arguments.contexts, arguments.batches))
    plan = Plan(*sizes, num_steps=arguments.steps, num_rounds=arguments.rounds)
    (folder,) = resolve_models(arguments, arguments.model_path)
    _report(f"loading {folder}")
    with _loaded(arguments, folder) as (model, seconds):
        return _measured(arguments, model, plan, folder, seconds)


@contextlib.contextmanager
def _loaded(arguments: argparse.Namespace, folder) -> Iterator[tuple[Any, float]]:
    """Yield the model, or this card's part of it, and the seconds that loading took."""
    from ..checkpoints.card_processes import Loading, join_cards, leading, started
    from ..checkpoints.load import load_model
    from ..checkpoints.source import open_source

    source, device, kind = open_source(folder, arguments.model_base), arguments.device, quantization_of(arguments)
    loading = Loading(arguments.model_base, None, arguments.dtype, device, kind)
    with started(arguments.tensor_parallel, source, loading):
        cards, start = join_cards(device), time.perf_counter()
        model = load_model(source, dtype=arguments.dtype, device=device, quantization=kind, cards=cards)
        with leading(model):
            yield model, time.perf_counter() - start


def _measured(arguments: argparse.Namespace, model, plan: Plan, folder, seconds: float) -> dict[str, Any]:
    """Measure a model that is loaded. seconds: that loading took."""
    import paddle

    from .. import __version__
    from ..device_memory import peak_memory
    from ..doctor.machine import num_cores, processor, vector_flags
    from ..models.fast_decoder import decoder_for
    from .speed import Meter, machine_limits

    dtype = str(model.language_model.norm.weight.dtype).split(".")[-1]
    meter, rows = Meter(model, dtype, plan), []
    for row in meter.rows(_processor(folder, arguments.model_base)):
        _report(_line(dataclasses.asdict(row)))
        rows.append(row)
    choices = decoder_for(model.language_model).choices()
    peak = peak_memory()
    _report("measuring what the machine can do")
    limits, device = machine_limits(dtype, plan.num_rounds), paddle.get_device()
    if device != "cpu":  # processes of a CPU share its limits
        limits = {name: limit * arguments.tensor_parallel for name, limit in limits.items()}
    kind = quantization_of(arguments)
    return {
        "model": str(arguments.model_path),
        "device": device,
        "tensor_parallel": arguments.tensor_parallel,
        "processor": {"name": processor(), "cores": num_cores(), "vector_flags": vector_flags()},
        "dtype": dtype,
        "weights": kind or dtype,
        "context": model.config.language.max_position_embeddings,
        "steps": meter.plan.num_steps,
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
    each = " on each card" if found["tensor_parallel"] > 1 else ""
    copied, multiplied = limits["copy_bytes_per_second"] / 1e9, limits["matrix_flops_per_second"] / 1e9
    return "\n".join(
        [
            found["model"],
            f"  {_device(found)}, {found['dtype']}, weights in {found['weights']}, context {found['context']:,}",
            f"  {processor['name']}, {processor['cores']} cores, {' '.join(processor['vector_flags'])}",
            f"  loaded in {found['load_seconds']:.2f} s, peak memory {found['peak_memory_bytes'] / 1e6:,.0f} MB{each}",
            f"  the machine copies {copied:.1f} GB/s (read and written) and multiplies {multiplied:,.0f} GFLOP/s",
            *(f"  {Choice(**choice)}" for choice in found["row_products"]),
            "",
            f"{'':9}{'':24}{'time':>12}{'speed':>22}  of the machine's",
            *map(_line, found["rows"]),
        ]
    )


def _device(found: dict[str, Any]) -> str:
    number = found["tensor_parallel"]
    return found["device"] + (f" and {number - 1} more, which share the decoder" if number > 1 else "")


def _line(row: dict[str, Any]) -> str:
    speed = "" if row["rate"] is None else f"{row['rate']:,.1f} {row['unit']}"
    limit = "" if row["fraction"] is None else f"  {row['fraction']:.2f} {row['limit']}"
    return f"{row['what']:9}{row['size']:24}{row['seconds'] * 1e3:9,.1f} ms{speed:>22}{limit}".rstrip()

"""Compare decoding with int8 and NF4 weights with decoding in float32: tokens per second of one row.

    python benchmarks/quantized_decode.py [--context 600] [--steps 24] [--rounds 5] [--threads 2]

Uses the decoder of small_llava.py, with all three models alternating in one process. The time is the median of the
engine's steps.
"""

from __future__ import annotations

import os
import statistics
import sys

from peers import parse, print_processor
from small_llava import decode_steps, model_folder, text_ids

KINDS = ("float32", "int8", "nf4")


def main() -> int:
    arguments = parse(__doc__, add_options)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with model_folder(arguments.folder) as folder:
        from paddlemix.device import prepare_environment

        prepare_environment("cpu")
        from paddlemix.checkpoints.load import load_model
        from paddlemix.commands.speed import decode_bytes

        models = {kind: load_model(folder, device="cpu", dtype="float32", quantization=of(kind)) for kind in KINDS}
        from paddlemix.generate.engine import Engine

    print_processor(arguments)
    engines = {kind: Engine(model, prefix_bytes=0) for kind, model in models.items()}
    seconds = {kind: [] for kind in KINDS}
    for number in range(arguments.rounds + 1):
        for kind in KINDS if number % 2 else reversed(KINDS):
            # The engine still knows the prompt of the first round, which is a warm-up.
            found, _ = decode_steps(engines[kind], text_ids(arguments.context), arguments.steps)
            seconds[kind] += found if number else []
    times = {kind: statistics.median(found) for kind, found in seconds.items()}
    for kind in KINDS:
        size = decode_bytes(models[kind], arguments.context, "float32") / 1e6
        print(f"{kind:8} {1 / times[kind]:7.1f} tokens/s, {size:7.1f} MB read per step")
    for kind in KINDS[1:]:
        print(f"decoding, {kind} to float32: {times['float32'] / times[kind]:.2f}")
    return 0


def add_options(parser) -> None:
    parser.add_argument("--context", type=int, default=600)
    parser.add_argument("--steps", type=int, default=24)


def of(kind: str) -> str | None:
    return None if kind == "float32" else kind


if __name__ == "__main__":
    sys.exit(main())

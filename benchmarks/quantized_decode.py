"""Compare decoding with int8 and NF4 weights with decoding in float32: tokens per second of one row.

    python benchmarks/quantized_decode.py [--context 600] [--steps 24] [--rounds 5] [--threads 2]

Uses the decoder of small_llava.py, with all three models alternating in one process. Quantized weights save memory; a
ratio below 1 shows what that costs.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

import numpy as np
from peers import parse
from small_llava import model_folder, text_ids

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
    engines = {kind: prepared(model, arguments) for kind, model in models.items()}
    seconds = {kind: [] for kind in KINDS}
    for number in range(arguments.rounds + 1):
        for kind in KINDS if number % 2 else reversed(KINDS):
            found = decode(engines[kind], arguments)
            if number:  # the first round is a warm-up
                seconds[kind].append(found)
    times = {kind: statistics.median(found) for kind, found in seconds.items()}
    for kind in KINDS:
        size = decode_bytes(models[kind], arguments.context, "float32") / 1e6
        print(f"{kind:8} {arguments.steps / times[kind]:7.1f} tokens/s, {size:7.1f} MB read per step")
    for kind in KINDS[1:]:
        print(f"decoding, {kind} to float32: {times['float32'] / times[kind]:.2f}")
    return 0


def add_options(parser) -> None:
    parser.add_argument("--context", type=int, default=600)
    parser.add_argument("--steps", type=int, default=24)


def of(kind: str) -> str | None:
    return None if kind == "float32" else kind


def prepared(model, arguments):
    """Return an engine that has prefilled a context."""
    import paddle

    from paddlemix.generate.engine import Engine

    engine = Engine(model, 1, arguments.context + arguments.steps)
    with paddle.no_grad():
        embeds = model.language_model.embed_tokens(paddle.to_tensor([text_ids(arguments.context)]))
    engine.read(embeds, np.arange(arguments.context)[None])
    return engine


def decode(engine, arguments) -> float:
    """Return the seconds of all decoding steps after the context."""
    engine.cache.trim(arguments.context)
    token = 5
    start = time.perf_counter()
    for step in range(arguments.steps):
        token = int(engine.read_ids([token], np.array([[arguments.context + step]])).argmax())
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())

"""Measure the memory of a decoder with float32, int8 and NF4 weights.

    python benchmarks/quantized_memory.py [--size 0.8] [--folder DIR]

Writes a random float16 model that consists almost entirely of the decoder's linear layers, and loads it in a separate
process for each kind. Prints the growth of resident memory through loading, its peak, the bytes of the weights, and the
loading time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from children import run_child

KINDS = ("float32", "int8", "nf4")
WIDTHS = {"vocab_size": 1000, "hidden_size": 2048, "intermediate_size": 5504, "num_attention_heads": 16}


def main() -> int:
    arguments = parse_arguments()
    if arguments.role == "make":
        return make(arguments)
    if arguments.role in KINDS:
        return load(arguments)
    grown = {}
    with tempfile.TemporaryDirectory(prefix="quantized-memory-", dir=arguments.folder) as folder:
        shared = ["--folder", folder, "--size", str(arguments.size)]
        run_child(__file__, "--role", "make", *shared)
        print(f"{'kind':8} {'growth':>10} {'peak':>10} {'weights':>10} {'loading':>9}")
        for kind in KINDS:
            cost = run_child(__file__, "--role", kind, *shared)
            before, after, stored, seconds = (float(word) for word in cost.output.split()[-4:])
            grown[kind] = after - before
            peak = cost.peak_bytes - before
            print(f"{kind:8} {grown[kind] / 1e6:7.0f} MB {peak / 1e6:7.0f} MB {stored / 1e6:7.0f} MB {seconds:7.1f} s")
    for kind in KINDS[1:]:
        print(f"ratio of resident memory, {kind} to float32: {grown[kind] / grown['float32']:.3f}")
    return 0


def make(arguments: argparse.Namespace) -> int:
    """Write the checkpoint, in a separate process so that its memory is not counted."""
    import dataclasses

    from synthetic import size_of, write_checkpoint

    from paddlemix.image.spec import ImageSpec
    from paddlemix.models.config import LanguageConfig, LlavaConfig, VisionConfig

    tower = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlavaConfig(
        language=LanguageConfig(**WIDTHS, num_hidden_layers=1),
        vision=VisionConfig(**tower, image_size=28),
        image=ImageSpec(side=28, patch_size=14),
        dtype="float16",
        eos_token_ids=(2,),
    )
    while 2 * size_of(config) < arguments.size * 1e9:  # float32 takes twice the stored bytes
        more = dataclasses.replace(config.language, num_hidden_layers=config.language.num_hidden_layers + 1)
        config = dataclasses.replace(config, language=more)
    write_checkpoint(Path(arguments.folder) / "model", "paddle", config)
    return 0


def load(arguments: argparse.Namespace) -> int:
    """Load once; print the resident bytes before and after, the bytes of the weights, and the seconds."""
    from paddlemix.device import prepare_environment

    prepare_environment("cpu")
    import paddle

    from paddlemix.checkpoints.load import load_model
    from paddlemix.models.quantized import quantized_layers
    from paddlemix.ops.dequantize import num_bytes

    paddle.matmul(paddle.ones([8, 8]), paddle.ones([8, 8])).numpy()  # load what the first product loads
    before, start = resident(), time.monotonic()
    quantization = None if arguments.role == "float32" else arguments.role
    model = load_model(Path(arguments.folder) / "model", dtype="float32", device="cpu", quantization=quantization)
    seconds = time.monotonic() - start
    stored = sum(4 * int(parameter.size) for parameter in model.parameters())
    stored += sum(num_bytes(layer.codes) for layer in quantized_layers(model).values())
    print(before, resident(), stored, seconds)
    return 0


def resident() -> int:
    """Return this process's resident bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size", type=float, default=0.8, help="minimum size of the float32 weights in gigabytes (10^9 bytes)"
    )
    parser.add_argument(
        "--folder", default=None, help="parent folder for temporary files (default: the system's temporary folder)"
    )
    parser.add_argument("--role", choices=("measure", "make", *KINDS), default="measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

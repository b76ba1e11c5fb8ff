"""Measure the memory of `paddlemix convert` on a checkpoint of several gigabytes. Exit with 1 above the limit.

    python benchmarks/convert_memory.py [--size 4.5] [--from official] [--to paddle] [--dtype DTYPE] [--folder DIR]

Writes a LLaVA with the widths of the 7B model and random weights, tensor by tensor, converts it in a separate process,
and prints that process's peak resident memory and time. Pages of the mapped source count as resident memory too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from children import run_child

LIMIT_BYTES = 10**9


def main() -> int:
    arguments = parse_arguments()
    if arguments.role == "make":
        return make(arguments)
    if arguments.role == "convert":
        return convert_one(arguments)
    with tempfile.TemporaryDirectory(prefix="convert-memory-", dir=arguments.folder) as folder:
        shared = ["--folder", folder, "--size", str(arguments.size), "--from", arguments.source, "--to", arguments.to]
        shared += ["--stored", arguments.stored] + (["--dtype", arguments.dtype] if arguments.dtype else [])
        run_child(__file__, "--role", "make", *shared)
        cost = run_child(__file__, "--role", "convert", *shared)
        size = sum(path.stat().st_size for path in (Path(folder) / "source").rglob("*") if path.is_file())
    print(cost.output)
    print(f"{arguments.source} -> {arguments.to}, {arguments.stored} -> {arguments.dtype or arguments.stored}")
    print(f"checkpoint: {size / 1e9:.2f} GB")
    print(f"time: {cost.seconds:.1f} s ({size / 1e6 / cost.seconds:.0f} MB/s)")
    print(f"peak resident memory: {cost.peak_bytes / 1e6:.0f} MB, limit {LIMIT_BYTES / 1e6:.0f} MB")
    print(f"ratio of peak memory to checkpoint: {cost.peak_bytes / size:.3f}")
    return int(cost.peak_bytes > LIMIT_BYTES)


def make(arguments: argparse.Namespace) -> int:
    """Write the checkpoint, in a separate process so that its memory is not counted."""
    from synthetic import config_of_size, write_checkpoint

    from paddlemix.models.config import LanguageConfig

    config = config_of_size(arguments.size * 1e9, arguments.stored, LanguageConfig())
    write_checkpoint(Path(arguments.folder) / "source", arguments.source, config)
    return 0


def convert_one(arguments: argparse.Namespace) -> int:
    """Convert like the command does."""
    from paddlemix.checkpoints.convert import convert

    folder = Path(arguments.folder)
    print(convert(folder / "source", folder / "result", arguments.to, dtype=arguments.dtype).text())
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=4.5, help="minimum size of the weights in gigabytes (10^9 bytes)")
    parser.add_argument("--from", dest="source", default="official", help="layout to convert from")
    parser.add_argument("--to", default="paddle", help="layout to convert to")
    parser.add_argument("--stored", default="float16", help="dtype of the checkpoint")
    parser.add_argument("--dtype", default=None, help="dtype to convert to (default: as stored)")
    parser.add_argument(
        "--folder", default=None, help="parent folder for temporary files (default: the system's temporary folder)"
    )
    parser.add_argument("--role", choices=("measure", "make", "convert"), default="measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

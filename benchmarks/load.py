"""Compare our `from_pretrained` with transformers' on the same llava-hf folder: peak memory and time, as ratios.

    python benchmarks/load.py [--size 1.5] [--rounds 3] [--folder DIR]

Both load the same weights from float16 to float32, which CPUs compute in, alternating in separate processes. The time
is that of the call, without imports. The memory is that of the whole process, libraries included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from children import run_child

LOADERS = ("ours", "transformers")
WIDTHS = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 16}


def main() -> int:
    arguments = parse_arguments()
    if arguments.role == "make":
        return make(arguments)
    if arguments.role in LOADERS:
        return load(arguments)
    seconds, peaks = ({name: [] for name in LOADERS} for _ in range(2))
    with tempfile.TemporaryDirectory(prefix="load-", dir=arguments.folder) as folder:
        shared = ["--folder", folder, "--size", str(arguments.size)]
        run_child(__file__, "--role", "make", *shared)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        print(f"checkpoint: {size / 1e9:.2f} GB of float16, loaded as float32")
        for number in range(arguments.rounds):
            for name in LOADERS if number % 2 == 0 else reversed(LOADERS):
                cost = run_child(__file__, "--role", name, *shared)
                seconds[name].append(float(cost.output.split()[-1]))
                peaks[name].append(cost.peak_bytes)
                print(f"{name:12} {seconds[name][-1]:6.2f} s  {peaks[name][-1] / 1e6:7.0f} MB")
    print(f"ratio of time, ours to transformers' (medians): {ratio(seconds):.2f}")
    print(f"ratio of peak memory, ours to transformers' (medians): {ratio(peaks):.2f}")
    return 0


def ratio(values: dict[str, list[float]]) -> float:
    ours, theirs = (statistics.median(values[name]) for name in LOADERS)
    return ours / theirs


def make(arguments: argparse.Namespace) -> int:
    """Write the checkpoint, in a separate process so that its memory is not counted."""
    from synthetic import config_of_size, write_checkpoint

    from paddlemix.models.config import LanguageConfig

    config = config_of_size(arguments.size * 1e9, "float16", LanguageConfig(**WIDTHS))
    write_checkpoint(Path(arguments.folder) / "model", "hf", config)
    return 0


def load(arguments: argparse.Namespace) -> int:
    """Load once and print a checksum and the seconds."""
    path = str(Path(arguments.folder) / "model")
    if arguments.role == "ours":
        from paddlemix.device import prepare_environment

        prepare_environment("cpu")
        import paddlemix.checkpoints.load
        from paddlemix import LlavaForConditionalGeneration

        assert paddlemix.checkpoints.load  # imports of from_pretrained are not timed
        start = time.monotonic()
        model = LlavaForConditionalGeneration.from_pretrained(path, dtype="float32", device="cpu")
        total = float(sum(parameter.astype("float32").sum() for parameter in model.parameters()))
    else:
        import torch
        from transformers import LlavaForConditionalGeneration

        start = time.monotonic()
        model = LlavaForConditionalGeneration.from_pretrained(path, torch_dtype=torch.float32)
        total = float(sum(parameter.detach().float().sum() for parameter in model.parameters()))
    # The sum reads every weight, so merely mapping the file is not enough.
    print(f"sum {total:.1f} seconds {time.monotonic() - start:.3f}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=1.5, help="minimum size of the weights in gigabytes (10^9 bytes)")
    parser.add_argument("--rounds", type=int, default=3, help="loads per side")
    parser.add_argument(
        "--folder", default=None, help="parent folder for temporary files (default: the system's temporary folder)"
    )
    parser.add_argument("--role", choices=("measure", "make", *LOADERS), default="measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""Show that the memory of the head and its loss grows with the trained tokens, not with the tokens of a batch.

    python benchmarks/head_memory.py [--tokens 2048] [--vocabulary 32000] [--width 512]

For each share of trained tokens, prints the host memory that the loss takes forward and backward, in addition to hidden
states and weights, as counted by Paddle's allocator. It is compared with the memory of logits for every position.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--width", type=int, default=512)
    arguments = parser.parse_args()
    whole = arguments.tokens * arguments.vocabulary * 4
    print(f"logits of every position in float32: {whole / 1e6:.0f} MB")
    for share in SHARES:
        peak = measure(arguments, share)
        print(f"{share:6.0%} trained: {peak / 1e6:7.0f} MB, {peak / whole:.2f} of those logits' memory", flush=True)
    return 0


def measure(arguments: argparse.Namespace, share: float) -> int:
    from paddlemix.device import prepare_environment

    prepare_environment("cpu")
    import paddle
    from paddle.base import core

    from paddlemix.constants import IGNORE_INDEX
    from paddlemix.models.loss import weighted_loss

    generator = np.random.default_rng(0)
    hidden = paddle.randn([1, arguments.tokens, arguments.width])
    weight = paddle.randn([arguments.width, arguments.vocabulary])
    hidden.stop_gradient = False
    labels = generator.integers(0, arguments.vocabulary, [1, arguments.tokens])
    labels[0, round(share * arguments.tokens) :] = IGNORE_INDEX
    before = core.host_memory_stat_current_value("Allocated", 0)
    core.host_memory_stat_reset_peak_value("Allocated", 0)

    def head(part):
        return paddle.matmul(part, weight)

    weighted_loss(hidden, labels, None, head, arguments.vocabulary).backward()
    return core.host_memory_stat_peak_value("Allocated", 0) - before


if __name__ == "__main__":
    sys.exit(main())

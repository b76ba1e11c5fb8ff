"""Compare attention and activations by MKL's functions with the plain operations that replace them.

    python benchmarks/vector_functions.py [--rounds 10] [--threads 1]

Both alternate in one process. With one thread the processor time counts, so that other processes disturb little; with
more threads the time of the clock does, because MKL's threads spin.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from unittest import mock

from paddlemix.device import prepare_environment

SHAPES = ((9, 3, 600, 64), (9, 3, 2400, 64), (32, 32, 700, 128))  # heads, kv heads, tokens, width of a head
WIDTHS = ((256, 1536), (2400, 1536), (600, 11008))  # rows, columns


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    prepare_environment("cpu")
    import paddle

    from paddlemix.device import use_device
    from paddlemix.ops.activation import gated_pair, quick_gelu
    from paddlemix.ops.plain_attention import plain_attention
    from paddlemix.ops.vector_math import vector_math

    use_device("cpu")
    if vector_math() is None:
        raise SystemExit("paddle has no MKL here, or it is disabled")
    vector_math().library.MKL_Set_Num_Threads_Local(arguments.threads)
    for heads, kv_heads, length, dim in SHAPES:
        query, key, value = (paddle.randn([1, number, length, dim]) for number in (heads, kv_heads, kv_heads))

        def attend(query=query, key=key, value=value):
            return plain_attention(query, key, value, is_causal=True)

        compare(f"causal attention, {heads} heads, {length} tokens", attend, arguments)
    for rows, columns in WIDTHS:
        pair = paddle.randn([1, rows, 2 * columns])
        compare(f"SwiGLU of [{rows}, {2 * columns}]", lambda pair=pair: gated_pair(pair, "silu"), arguments)
    patches = paddle.randn([1, 577, 4096])
    compare("CLIP's activation of [577, 4096]", lambda: quick_gelu(patches), arguments)
    return 0


def compare(name: str, work, arguments: argparse.Namespace) -> None:
    """Print the medians of both and the median of their ratios."""
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    pairs = [(plain_seconds(work, clock), seconds(work, clock)) for _ in range(arguments.rounds + 1)][1:]
    before, after = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"{name:45} plain {before:8.2f} ms, MKL {after:8.2f} ms, {ratio:.2f} times as fast", flush=True)


def plain_seconds(work, clock) -> float:
    modules = ("tiled_attention", "activation")
    first, second = (mock.patch(f"paddlemix.ops.{module}.is_usable", return_value=False) for module in modules)
    with first, second:
        return seconds(work, clock)


def seconds(work, clock) -> float:
    start = clock()
    work()
    return clock() - start


if __name__ == "__main__":
    sys.exit(main())

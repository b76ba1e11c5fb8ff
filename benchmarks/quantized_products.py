"""Time all products of a decoding step with the weights of the layers: in float32, and from int8 and NF4 codes.

    python benchmarks/quantized_products.py [--rows 1 2 4 8 16 32] [--rounds 15] [--threads 2]

Uses the shapes of the decoder of small_llava.py without its head. All ways alternate in one process; the value is the
minimum. Speeds are relative to paddle.matmul in float32. "plain" dequantizes by paddle's operations and then
multiplies, "weights" dequantizes by a loop, "loop" is a product by a loop. "blocks" is a batch of two halves.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
from peers import parse
from small_llava import DECODER


def main() -> int:
    arguments = parse(__doc__, add_options)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from paddlemix.device import prepare_environment, use_device

    prepare_environment("cpu")
    use_device("cpu")
    import paddle

    with paddle.no_grad():
        layers = [weights_of_layer(number) for number in range(DECODER["num_hidden_layers"])]
        size = sum(weight.size for layer in layers for weight in layer["float32"])
        print(f"{processor()}; {size:,} weights, {arguments.threads} threads")
        for num_rows in arguments.rows:
            report(num_rows, layers, size, arguments)
    return 0


def add_options(parser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])


def processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), "processor unknown"
        )


def shapes() -> list[tuple[int, int]]:
    """Return (out, in) of q, k, v, o, gate, up and down."""
    width, wide = DECODER["hidden_size"], DECODER["intermediate_size"]
    narrow = width // DECODER["num_attention_heads"] * DECODER["num_key_value_heads"]
    return [
        (width, width),
        (narrow, width),
        (narrow, width),
        (width, width),
        (wide, width),
        (wide, width),
        (width, wide),
    ]


def weights_of_layer(number: int) -> dict[str, list]:
    import paddle

    from paddlemix.ops.dequantize import on_device
    from paddlemix.ops.quantize import quantize

    random = np.random.default_rng(number)
    matrices = [random.standard_normal(shape, np.float32) / 8 for shape in shapes()]
    found = {kind: [on_device(quantize(matrix, kind)) for matrix in matrices] for kind in ("int8", "nf4")}
    return found | {"float32": [paddle.to_tensor(np.ascontiguousarray(matrix.T)) for matrix in matrices]}


def ways(num_rows: int) -> dict[str, tuple[str, object]]:
    """Return for each way the kind of its weights and a function of rows [R, in] and a weight."""
    import paddle

    from paddlemix.ops.dequantize import plain_dequantize, weights_of
    from paddlemix.ops.row_products import row_times_weight, rows_times_codes

    def plain(rows, codes):
        return paddle.matmul(rows, plain_dequantize(codes, rows.dtype), transpose_y=True)

    def weights(rows, codes):
        return paddle.matmul(rows, weights_of([codes]), transpose_y=True)

    found = {"float32 matmul": ("float32", paddle.matmul)}
    if num_rows == 1:
        found["float32 blocks"] = "float32", product_of_halves
        found["float32 loop"] = "float32", row_times_weight
    for kind in ("int8", "nf4"):
        found[f"{kind} plain"] = kind, plain
        found[f"{kind} weights"] = kind, weights
        found[f"{kind} loop"] = kind, lambda rows, codes: rows_times_codes(rows, [codes])
    return found


def product_of_halves(row, weight):
    """Return the product as a batch of two, for which MKL uses two threads."""
    from paddle import _C_ops

    num_in, num_out = weight.shape
    halves = _C_ops.reshape(weight, [2, num_in // 2, num_out])
    products = _C_ops.matmul(_C_ops.reshape(row, [2, 1, num_in // 2]), halves, False, False)
    return _C_ops.sum(products, [0], None, False)


def report(num_rows: int, layers: list[dict], size: int, arguments) -> None:
    import paddle

    rows = {num_in: paddle.randn([num_rows, num_in]) for _, num_in in shapes()}
    inputs = [rows[num_in] for _, num_in in shapes()]
    best = dict.fromkeys(ways(num_rows), float("inf"))
    for _ in range(arguments.rounds + 1):
        for name, (kind, multiply) in ways(num_rows).items():
            start = time.perf_counter()
            for layer in layers:
                for row, weight in zip(inputs, layer[kind], strict=True):
                    multiply(row, weight)
            best[name] = min(best[name], time.perf_counter() - start)
    num_bytes = {"float32": 4 * size, "int8": size, "nf4": size * 33 // 64}
    for name, seconds in best.items():
        speed = num_bytes[name.split()[0]] / seconds / 1e9
        ratio = best["float32 matmul"] / seconds
        print(f"{num_rows:3} rows, {name:15} {1e3 * seconds:7.2f} ms, {speed:5.1f} GB/s, {ratio:5.2f} times as fast")


if __name__ == "__main__":
    sys.exit(main())

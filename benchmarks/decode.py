"""Compare decoding with transformers: tokens per second of one answer after prompts of given lengths.

    python benchmarks/decode.py [--contexts 600 2400] [--steps 48] [--rounds 5] [--threads 2]

Uses the model of small_llava.py without an image, as `from_pretrained` returns it, in float32. Both sides decode
greedily with their caches: ours by steps of the engine, as `generate` does, transformers by its `generate`. The time of
a token is the median over the answers' tokens after the first one.

Also prints what part of the time goes into reading the weights once with all threads, at the speed of a loop that only
adds them up: compiled by numba if it is there, else by NumPy. The weights are those of the decoder's layers and of the
head, in the memory where the model has them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from peers import OURS, ROLES, THEIRS, Peer, alternate, compare_peers, median, parse, print_processor
from small_llava import decode_steps, load_ours, load_theirs, model_folder, text_ids

NUM_READS = 20  # per round, of which the fastest counts


def main() -> int:
    return compare_peers(__file__, parse(__doc__, add_options), ours, theirs, compare, model_folder)


def compare(peers: dict[str, Peer], arguments) -> None:
    print_processor(arguments)
    for context in arguments.contexts:
        answers = alternate(peers, arguments.rounds, context=context, steps=arguments.steps)
        if answers[OURS][0]["ids"] != answers[THEIRS][0]["ids"]:
            raise SystemExit("the two sides chose different tokens")
        seconds = {role: median(answers[role]) for role in ROLES}
        for role in ROLES:
            print(f"{role:13} {1 / seconds[role]:7.1f} tokens/s after {context}", flush=True)
        print(f"decoding, ours to transformers': {seconds[THEIRS] / seconds[OURS]:.2f}", flush=True)
        reading, how = min(answer["reading"] for answer in answers[OURS]), answers[OURS][0]["how"]
        print(f"reading the weights once takes {reading * 1e3:.1f} ms ({how}): {reading / seconds[OURS]:.2f} of a step")
    for choice in answers[OURS][0]["choices"]:
        print(f"  {choice}")


def add_options(parser) -> None:
    parser.add_argument("--contexts", type=int, nargs="+", default=[600, 2400])
    parser.add_argument("--steps", type=int, default=48)


def ours(arguments):
    model = load_ours(arguments.folder, arguments.threads)
    from paddlemix.generate.engine import Engine
    from paddlemix.models.fast_decoder import decoder_for

    decoder = decoder_for(model.language_model)
    weights = [part.weight for layer in decoder.layers for part in layer.projections]
    read, how = reader([array_of(each) for each in (*weights, model.language_model.embed_tokens.weight)], arguments)

    def answer(context: int, steps: int) -> dict:
        seconds, ids = decode_steps(Engine(model, prefix_bytes=0), text_ids(context), steps)
        reading = min(read() for _ in range(NUM_READS))
        found = {"seconds": statistics.median(seconds), "ids": ids, "reading": reading, "how": how}
        return found | {"choices": [str(choice) for choice in decoder.choices()]}

    return answer


def theirs(arguments):
    model = load_theirs(arguments.folder, arguments.threads)
    import torch
    from transformers import StoppingCriteriaList

    model.generation_config.eos_token_id = None

    def answer(context: int, steps: int) -> dict:
        ids, times = torch.tensor([text_ids(context)]), []

        def note(ids, scores, **_):
            times.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=steps + 1,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([note]),
        )
        return {"seconds": float(np.median(np.diff(times))), "ids": out[0, context:].tolist()}

    return answer


def array_of(tensor) -> np.ndarray:
    """Return a float32 tensor's memory as an array, without a copy."""
    import ctypes

    return np.ctypeslib.as_array((ctypes.c_float * int(tensor.size)).from_address(tensor.data_ptr()))


def reader(arrays: list[np.ndarray], arguments) -> tuple[Callable[[], float], str]:
    """Return a function that reads arrays once with all threads and returns the seconds, and how it does that."""
    add_up, how = adder()
    shares = [np.array_split(array, arguments.threads) for array in arrays]
    parts = [[share[number] for share in shares] for number in range(arguments.threads)]
    workers = ThreadPoolExecutor(arguments.threads)

    def read() -> float:
        start = time.perf_counter()
        list(workers.map(add_up, parts))
        return time.perf_counter() - start

    read()  # compiles
    return read, how


def adder() -> tuple[Callable[[list[np.ndarray]], float], str]:
    """Return a function that adds up arrays without the interpreter's lock, and the name of what it uses."""
    try:
        import numba
    except ImportError:
        return lambda arrays: float(sum(array.sum() for array in arrays)), "NumPy"

    @numba.njit(nogil=True, fastmath=True)
    def total(array):
        result = np.float32(0)
        for number in range(len(array)):
            result += array[number]
        return result

    return lambda arrays: float(sum(total(array) for array in arrays)), "numba"


if __name__ == "__main__":
    sys.exit(main())

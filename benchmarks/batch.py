"""Compare answers in batches with single answers and with transformers: total new tokens per second.

    python benchmarks/batch.py [--loads short shared] [--rows 16] [--new 32] [--rounds 5] [--threads 2]

There are two loads. "short": questions of 20 to 60 tokens. "shared": the same questions after a common prefix of
--prefix tokens, as long as a system text and an image of LLaVA 1.5; ours is then also measured without sharing it. All
use the model of small_llava.py, the same prompts, float32, greedy decoding and answers of a fixed length. The time
includes the prompts. Candidates alternate within each round; ratios are of medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
from peers import OURS, THEIRS, Peer, compare_peers, parse
from small_llava import load_ours, load_theirs, model_folder, text_ids

CANDIDATES = {  # name: (process, mode)
    "short": {"batch": (OURS, "batch"), "one by one": (OURS, "single"), "transformers": (THEIRS, "batch")},
    "shared": {
        "batch": (OURS, "batch"),
        "not shared": (OURS, "unshared"),
        "one by one": (OURS, "single"),
        "transformers": (THEIRS, "batch"),
    },
}


def main() -> int:
    return compare_peers(__file__, parse(__doc__, add_options), ours, theirs, compare_loads, model_folder)


def compare_loads(peers: dict[str, Peer], arguments) -> None:
    ratios = [line for load in arguments.loads for line in compare(load, peers, arguments)]
    print(*ratios, sep="\n")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--loads", nargs="+", choices=tuple(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--rows", type=int, default=16, help="questions per batch")
    parser.add_argument("--new", type=int, default=32, help="tokens per answer")
    parser.add_argument("--prefix", type=int, default=620, help="tokens of the common prefix of 'shared'")


def compare(load: str, peers: dict[str, Peer], arguments: argparse.Namespace) -> list[str]:
    """Time the candidates of a load; return a line for each ratio."""
    seconds: dict[str, list[float]] = {name: [] for name in CANDIDATES[load]}
    answers: dict[str, list] = {}
    for number in range(arguments.rounds + 1):
        names = list(CANDIDATES[load])
        for name in names if number % 2 else reversed(names):
            role, mode = CANDIDATES[load][name]
            # The first round is a warm-up, for which a few tokens are enough.
            num_new = arguments.new if number else 2
            prefix = arguments.prefix if load == "shared" else 0
            result = peers[role].ask(prefix=prefix, mode=mode, rows=arguments.rows, new=num_new)
            if number:
                seconds[name].append(result["seconds"])
                answers[name] = result["answers"]
    speed = {name: arguments.rows * arguments.new / statistics.median(times) for name, times in seconds.items()}
    for name, tokens in speed.items():
        same = sum(one == other for one, other in zip(answers["batch"], answers[name], strict=True))
        print(f"{load:7} {name:13} {tokens:7.1f} tokens/s  {same} of {arguments.rows} answers as batch", flush=True)
    return [f"{load}: batch to {name}: {speed['batch'] / speed[name]:.2f}" for name in list(speed)[1:]]


def prompts(num_rows: int, num_shared: int) -> list[list[int]]:
    """Return the ids of each row; the first num_shared are the same in all rows."""
    lengths = np.random.default_rng(0).integers(20, 61, num_rows).tolist()
    shared = [1, *text_ids(num_shared)]
    return [shared + text_ids(length, seed) for seed, length in enumerate(lengths, start=1)]


def ours(arguments: argparse.Namespace):
    model = load_ours(arguments.folder, arguments.threads)
    from paddlemix.data.collate import collate
    from paddlemix.data.sample import Sample
    from paddlemix.generate.batch import generate
    from paddlemix.generate.sampling import SamplingParams

    def answer(prefix: int, mode: str, rows: int, new: int) -> dict:
        samples = [Sample(np.array(ids), None) for ids in prompts(rows, prefix)]
        sampling = SamplingParams(max_new_tokens=new, ignore_eos=True)
        start, answers = time.perf_counter(), []
        for part in [[sample] for sample in samples] if mode == "single" else [samples]:
            answers += generate(model, collate(part), sampling, shares_prefixes=mode != "unshared")
        return {"seconds": time.perf_counter() - start, "answers": answers}

    return answer


def theirs(arguments: argparse.Namespace):
    model = load_theirs(arguments.folder, arguments.threads)
    import torch

    model.generation_config.eos_token_id = None  # answers have a fixed length

    def answer(prefix: int, mode: str, rows: int, new: int) -> dict:
        listed = prompts(rows, prefix)
        width = max(map(len, listed))
        ids = torch.tensor([[0] * (width - len(each)) + each for each in listed])
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in listed])
        start = time.perf_counter()
        found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0)
        return {"seconds": time.perf_counter() - start, "answers": found[:, width:].tolist()}

    return answer


if __name__ == "__main__":
    sys.exit(main())

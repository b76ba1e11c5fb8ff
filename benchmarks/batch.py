"""Compare answers in batches: total new tokens a second of ours, of ours one by one, and of transformers.

    python benchmarks/batch.py [--loads short shared] [--rows 16] [--new 32] [--rounds 5] [--threads 2]

Two loads. "short": questions of 20 to 60 tokens without a picture. "shared": the same, each after a system text of 40
tokens and one picture of 576 for all; ours then also without sharing what the rows begin with. The same weights and
prompts for all (see small_llava.py), float32, answers of a fixed length, greedy. The time is that of whole answers:
pictures are encoded and prompts read in it. Rivals take turns within each round; ratios are of medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peers import Peer, serve
from small_llava import IDS, NUM_IMAGE_TOKENS, load_ours, load_theirs, make

RIVALS = {  # name: (process, how)
    "short": {"batch": ("ours", "batch"), "one by one": ("ours", "single"), "transformers": ("transformers", "batch")},
    "shared": {
        "batch": ("ours", "batch"),
        "not shared": ("ours", "unshared"),
        "one by one": ("ours", "single"),
        "transformers": ("transformers", "batch"),
    },
}
NUM_SYSTEM = 40


def main() -> int:
    arguments = parse_arguments()
    if arguments.role is not None:
        return serve(ours(arguments) if arguments.role == "ours" else transformers(arguments))
    with tempfile.TemporaryDirectory(prefix="batch-", dir=arguments.folder) as home:
        make(Path(home) / "model")
        shared = ["--home", home, "--threads", str(arguments.threads)]
        roles = ("ours", "transformers")
        peers = {role: Peer(__file__, "--role", role, *shared, threads=arguments.threads) for role in roles}
        ratios = [line for load in arguments.loads for line in compare(load, peers, arguments)]
        for peer in peers.values():
            peer.close()
    print(*ratios, sep="\n")
    return 0


def compare(load: str, peers: dict[str, Peer], arguments: argparse.Namespace) -> list[str]:
    """Time the rivals of a load round by round; return a line for each ratio."""
    seconds: dict[str, list[float]] = {name: [] for name in RIVALS[load]}
    answers: dict[str, list] = {}
    for number in range(arguments.rounds + 1):
        names = list(RIVALS[load])
        for name in names if number % 2 else reversed(names):
            role, how = RIVALS[load][name]
            # The first round warms up; a few tokens are enough for that.
            num_new = arguments.new if number else 2
            result = peers[role].ask(load=load, how=how, rows=arguments.rows, new=num_new)
            if number:
                seconds[name].append(result["seconds"])
                answers[name] = result["answers"]
    speed = {name: arguments.rows * arguments.new / statistics.median(times) for name, times in seconds.items()}
    for name, tokens in speed.items():
        same = sum(one == other for one, other in zip(answers["batch"], answers[name], strict=True))
        print(f"{load:7} {name:13} {tokens:7.1f} tokens/s  {same} of {arguments.rows} answers as batch", flush=True)
    return [f"{load}: batch to {name}: {speed['batch'] / speed[name]:.2f}" for name in list(speed)[1:]]


def prompts(load: str, num_rows: int) -> list[np.ndarray]:
    """Return the ids of each row without a picture's; "shared" ones begin with the same system text."""
    rng = np.random.default_rng(0)
    system = rng.integers(*IDS, NUM_SYSTEM if load == "shared" else 0)
    return [np.concatenate([[1], system, rng.integers(*IDS, rng.integers(20, 61))]) for _ in range(num_rows)]


def with_picture(ids: np.ndarray, mark: int) -> np.ndarray:
    return np.concatenate([ids[: NUM_SYSTEM + 1], np.full(NUM_IMAGE_TOKENS, mark), ids[NUM_SYSTEM + 1 :]])


def picture() -> np.ndarray:
    return np.random.default_rng(1).standard_normal([1, 3, 336, 336]).astype(np.float32)


def ours(arguments: argparse.Namespace):
    model = load_ours(f"{arguments.home}/model")
    from paddlemix.constants import IMAGE_TOKEN_ID
    from paddlemix.data.collate import collate
    from paddlemix.data.sample import Sample
    from paddlemix.generate.batch import generate
    from paddlemix.generate.sampling import SamplingParams
    from paddlemix.image.tiles import ImageTiles

    tiles = ImageTiles(picture(), (336, 336), NUM_IMAGE_TOKENS)

    def run(load: str, how: str, rows: int, new: int) -> dict:
        samples = [Sample(ids, None) for ids in prompts(load, rows)]
        if load == "shared":
            samples = [Sample(with_picture(each.token_ids, IMAGE_TOKEN_ID), None, (tiles,)) for each in samples]
        sampling = SamplingParams(max_new_tokens=new, ignore_eos=True)
        model.feature_cache.clear()
        start, answers = time.perf_counter(), []
        for part in [[sample] for sample in samples] if how == "single" else [samples]:
            answers += generate(model, collate(part), sampling, shares_prefixes=how != "unshared")
            if how == "single":
                model.feature_cache.clear()  # each question as if it came alone
        return {"seconds": time.perf_counter() - start, "answers": answers}

    return run


def transformers(arguments: argparse.Namespace):
    model = load_theirs(f"{arguments.home}/model", arguments.threads)
    import torch

    mark = model.config.image_token_index

    def run(load: str, how: str, rows: int, new: int) -> dict:
        listed = prompts(load, rows)
        if load == "shared":
            listed = [with_picture(ids, mark) for ids in listed]
        width = max(map(len, listed))
        ids = torch.zeros([rows, width], dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, each in enumerate(listed):
            ids[row, width - len(each) :] = torch.tensor(each)
            mask[row, width - len(each) :] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        if load == "shared":
            inputs["pixel_values"] = torch.tensor(picture()).expand(rows, -1, -1, -1)
        start = time.perf_counter()
        with torch.no_grad():
            found = model.generate(**inputs, max_new_tokens=new, do_sample=False, pad_token_id=0)
        return {"seconds": time.perf_counter() - start, "answers": found[:, width:].tolist()}

    return run


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", nargs="+", choices=tuple(RIVALS), default=list(RIVALS))
    parser.add_argument("--rows", type=int, default=16, help="questions of a batch")
    parser.add_argument("--new", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", default=None, help="where to make the model (default: the temporary folder)")
    parser.add_argument("--role", choices=("ours", "transformers"), default=None, help=argparse.SUPPRESS)
    parser.add_argument("--home", default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

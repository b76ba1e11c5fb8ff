"""Compare 16 answers at once with one after the other, and with transformers' padded batch: new tokens per second.

    python benchmarks/batch.py [--loads short images shared] [--rows 16] [--new 32] [--rounds 5] [--threads 2]

There are three loads. "short": questions of 20 to 60 tokens. "images": the same, four of them each about another image
of one tile, which LLaVA 1.5 cuts an image into (AnyRes images of up to five tiles take so long that the rest hardly
counts). "shared": the questions of "short" after a common prefix of --prefix tokens; ours is then also measured with
prefixes of the same length that differ from their first token on. "one by one" shares nothing, and forgets images.

All use the model of one_tile_llava.py, the same prompts, float32, greedy decoding and answers of a fixed length. The
time includes the prompts and the images' features. Candidates alternate within each round; ratios are of medians. The
answers of all candidates that had the same prompts are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
from one_tile_llava import NUM_IMAGE_TOKENS, load_theirs, model_folder, noise_tile
from peers import OURS, THEIRS, Peer, compare_peers, parse, print_processor
from small_llava import load_ours, text_ids

AT_ONCE = {"at once": (OURS, "batch"), "one by one": (OURS, "single"), "transformers": (THEIRS, "batch")}
CANDIDATES = {  # name: (process, mode)
    "short": AT_ONCE,
    "images": AT_ONCE,
    "shared": {**AT_ONCE, "not shared": (OURS, "unshared")},
}
WITH_IMAGE = 4  # every fourth question of "images" has one


def main() -> int:
    return compare_peers(__file__, parse(__doc__, add_options), ours, theirs, compare_loads, model_folder)


def compare_loads(peers: dict[str, Peer], arguments) -> None:
    print_processor(arguments)
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
            work = {"has_images": load == "images", "prefix": prefix, "rows": arguments.rows, "new": num_new}
            result = peers[role].ask(mode=mode, **work)
            if number:
                seconds[name].append(result["seconds"])
                answers[name] = result["answers"]
    speed = {name: arguments.rows * arguments.new / statistics.median(times) for name, times in seconds.items()}
    for name, tokens in speed.items():
        same = sum(one == other for one, other in zip(answers["at once"], answers[name], strict=True))
        text = "other prompts" if name == "not shared" else f"{same} of {arguments.rows} answers as at once"
        print(f"{load:7} {name:13} {tokens:7.1f} tokens/s  {text}", flush=True)
    return [f"{load}: at once to {name}: {speed['at once'] / speed[name]:.2f}" for name in list(speed)[1:]]


def prompts(rows: int, has_images: bool, prefix: int, image_id: int, is_shared: bool = True) -> list[list[int]]:
    """Return the ids of each row. is_shared: the first `prefix` ids are the same in all rows."""
    lengths = np.random.default_rng(0).integers(20, 61, rows).tolist()
    shared = text_ids(prefix)
    found = []
    for row, length in enumerate(lengths):
        image = [image_id] * NUM_IMAGE_TOKENS if has_images and row % WITH_IMAGE == 0 else []
        first = [1] if is_shared else [3 + row]
        found.append([*first, *shared, *image, *text_ids(length, row + 1)])
    return found


def images_of(rows: int, has_images: bool) -> dict[int, object]:
    """Return the images by row."""
    return {row: noise_tile(row) for row in range(0, rows, WITH_IMAGE)} if has_images else {}


def ours(arguments: argparse.Namespace):
    model = load_ours(arguments.folder, arguments.threads)
    from paddlemix.constants import IMAGE_TOKEN_ID
    from paddlemix.data.collate import collate
    from paddlemix.data.sample import Sample
    from paddlemix.generate.batch import generate
    from paddlemix.generate.engine import Engine
    from paddlemix.generate.features import FeatureStore
    from paddlemix.generate.sampling import SamplingParams

    def answer(mode: str, rows: int, has_images: bool, prefix: int, new: int) -> dict:
        listed = prompts(rows, has_images, prefix, IMAGE_TOKEN_ID, mode != "unshared")
        images = images_of(rows, has_images)
        samples = [
            Sample(np.array(ids), None, (images[row],) if row in images else ()) for row, ids in enumerate(listed)
        ]
        sampling = SamplingParams(max_new_tokens=new, ignore_eos=True)
        start, answers = time.perf_counter(), []
        for part in [[sample] for sample in samples] if mode == "single" else [samples]:
            engine = Engine(model, features=FeatureStore())
            answers += generate(model, collate(part), sampling, engine=engine)
        return {"seconds": time.perf_counter() - start, "answers": answers}

    return answer


def theirs(arguments: argparse.Namespace):
    model = load_theirs(arguments.folder, arguments.threads)
    import torch

    model.generation_config.eos_token_id = None  # answers have a fixed length

    def answer(mode: str, rows: int, has_images: bool, prefix: int, new: int) -> dict:
        assert mode == "batch", mode
        listed = prompts(rows, has_images, prefix, model.config.image_token_id)
        width = max(map(len, listed))
        ids = torch.tensor([[0] * (width - len(each)) + each for each in listed])
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in listed])
        tiles = [image.pixels for image in images_of(rows, has_images).values()]
        pixels = {"pixel_values": torch.tensor(np.concatenate(tiles))} if tiles else {}
        options = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        start = time.perf_counter()
        found = model.generate(input_ids=ids, attention_mask=mask, **pixels, **options)
        return {"seconds": time.perf_counter() - start, "answers": found[:, width:].tolist()}

    return answer


if __name__ == "__main__":
    sys.exit(main())

"""Compare the time to the first token with transformers: prompts of text, and one with a LLaVA 1.6 image.

    python benchmarks/prefill.py [--lengths 600 2400] [--rounds 5] [--threads 2] [--without-image]

Uses the model of small_llava.py, as `from_pretrained` returns it, in float32. The image has 672 x 672 pixels (five
tiles, 2,928 tokens) and 60 tokens of text. Both sides get preprocessed pixels, a new image in every round, and generate
one token with `generate`.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from peers import OURS, ROLES, THEIRS, Peer, alternate, compare_peers, median, parse, print_processor
from small_llava import load_ours, load_theirs, model_folder, noise_tiles, text_ids

BEFORE, AFTER = 10, 50  # tokens of text around the image


def main() -> int:
    return compare_peers(__file__, parse(__doc__, add_options), ours, theirs, compare, model_folder)


def compare(peers: dict[str, Peer], arguments) -> None:
    print_processor(arguments)
    for length in (*arguments.lengths, *([] if arguments.without_image else [None])):
        answers = alternate(peers, arguments.rounds, length=length)
        tokens = {role: [answer["token"] for answer in answers[role]] for role in ROLES}
        if tokens[OURS] != tokens[THEIRS]:
            raise SystemExit(f"the two sides chose different tokens: {tokens}")
        name = f"{length} tokens" if length else "an image"
        for role in ROLES:
            print(f"{role:13} {median(answers[role]):6.2f} s for {name}", flush=True)
        print(f"prefill of {name}, ours to transformers': {median(answers[THEIRS]) / median(answers[OURS]):.2f}")


def add_options(parser) -> None:
    parser.add_argument("--lengths", type=int, nargs="*", default=[600, 2400])
    parser.add_argument("--without-image", action="store_true")


class Prompts:
    """The prompts of a side, which are new in every round and the same on both sides. image_token_id: of placeholders.

    Each call returns ids, and tiles or None.
    """

    def __init__(self, image_token_id: int):
        self.image_token_id = image_token_id
        self.number = 0

    def __call__(self, length: int | None) -> tuple[list[int], object]:
        self.number += 1
        if length is not None:
            return text_ids(length, seed=self.number), None
        tiles = noise_tiles(self.number)
        places = [self.image_token_id] * tiles.num_tokens
        return [*text_ids(BEFORE), *places, *text_ids(AFTER, seed=self.number)], tiles


def ours(arguments):
    model = load_ours(arguments.folder, arguments.threads)
    from paddlemix import SamplingParams
    from paddlemix.constants import IMAGE_TOKEN_ID
    from paddlemix.data.collate import collate
    from paddlemix.data.sample import Sample

    prompts, sampling = Prompts(IMAGE_TOKEN_ID), SamplingParams(max_new_tokens=1, ignore_eos=True)

    def answer(length: int | None) -> dict:
        ids, tiles = prompts(length)
        batch = collate([Sample(np.array(ids), None, (tiles,) if tiles else ())])
        start = time.perf_counter()
        ((token,),) = model.generate(batch, sampling)
        return {"seconds": time.perf_counter() - start, "token": token}

    return answer


def theirs(arguments):
    model = load_theirs(arguments.folder, arguments.threads)
    import torch

    model.generation_config.eos_token_id = None
    prompts = Prompts(model.config.image_token_id)

    def answer(length: int | None) -> dict:
        ids, tiles = prompts(length)
        ids, image = torch.tensor([ids]), {}
        if tiles:
            sizes = torch.tensor([tiles.size[::-1]])  # (height, width)
            image = {"pixel_values": torch.tensor(tiles.pixels)[None], "image_sizes": sizes}
        start = time.perf_counter()
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **image, max_new_tokens=1, do_sample=False
        )
        return {"seconds": time.perf_counter() - start, "token": int(out[0, -1])}

    return answer


if __name__ == "__main__":
    sys.exit(main())

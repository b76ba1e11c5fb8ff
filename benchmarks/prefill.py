"""Compare the prefill of a question with a LLaVA 1.6 image with transformers, vision included.

    python benchmarks/prefill.py [--rounds 5] [--threads 2]

Uses the model of small_llava.py, an image of 672 x 672 pixels (five tiles, 2,928 tokens) and 60 tokens of text, in
float32. Both sides get preprocessed pixels, keep a cache, and compute the logits of the last position only.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from peers import OURS, ROLES, THEIRS, Peer, alternate, compare_peers, median, parse
from small_llava import load_ours, load_theirs, model_folder, noise_tiles, text_ids

BEFORE, AFTER = 10, 50  # tokens of text around the image


def main() -> int:
    return compare_peers(__file__, parse(__doc__), ours, theirs, compare, model_folder)


def compare(peers: dict[str, Peer], arguments) -> None:
    answers = alternate(peers, arguments.rounds)
    logits = {role: np.array(answers[role][0]["logits"]) for role in ROLES}
    error = float(np.abs(logits[OURS] - logits[THEIRS]).max())
    if error > 1e-3 * float(np.abs(logits[THEIRS]).max()):
        raise SystemExit(f"the two sides' logits differ by {error}")
    for role in ROLES:
        print(f"{role:13} {median(answers[role]):6.2f} s, of which vision {median(answers[role], 'vision'):.2f} s")
    print(f"prefill with an image, ours to transformers': {median(answers[THEIRS]) / median(answers[OURS]):.2f}")


def ours(arguments):
    model = load_ours(arguments.folder, arguments.threads)
    import paddle

    from paddlemix.constants import IMAGE_TOKEN_ID
    from paddlemix.data.collate import collate
    from paddlemix.data.sample import Sample
    from paddlemix.generate.engine import Engine

    tiles = noise_tiles()
    ids = [*text_ids(BEFORE), *[IMAGE_TOKEN_ID] * tiles.num_tokens, *text_ids(AFTER, seed=1)]
    batch = collate([Sample(np.array(ids), None, (tiles,))])

    def answer() -> dict:
        start = time.perf_counter()
        with paddle.no_grad():
            embeds = model.embed(batch)
        vision = time.perf_counter() - start
        logits = Engine(model, 1, len(ids) + 32).read(embeds, np.arange(len(ids))[None])
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "vision": vision, "logits": logits[0, :1000].tolist()}

    return answer


def theirs(arguments):
    model = load_theirs(arguments.folder, arguments.threads)
    import torch

    tiles = noise_tiles()
    ids = [*text_ids(BEFORE), *[model.config.image_token_id] * tiles.num_tokens, *text_ids(AFTER, seed=1)]
    image = {
        "pixel_values": torch.tensor(tiles.pixels)[None],
        "image_sizes": torch.tensor([tiles.size[::-1]]),  # (height, width)
    }

    def answer() -> dict:
        start = time.perf_counter()
        model.get_image_features(**image, vision_feature_layer=-2, vision_feature_select_strategy="default")
        vision = time.perf_counter() - start
        start = time.perf_counter()
        out = model(input_ids=torch.tensor([ids]), **image, use_cache=True, logits_to_keep=1)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "vision": vision, "logits": out.logits[0, -1, :1000].tolist()}

    return answer


if __name__ == "__main__":
    sys.exit(main())

"""Compare decoding with transformers: tokens per second of one row after a context of given length.

    python benchmarks/decode.py [--contexts 600 3000] [--steps 48] [--rounds 5] [--threads 2]

Uses the model of small_llava.py without an image. Both sides decode greedily with their caches, in float32.
transformers runs its forward pass in a plain loop, which is faster than its `generate`.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from peers import OURS, ROLES, THEIRS, Peer, alternate, compare_peers, median, parse
from small_llava import load_ours, load_theirs, model_folder, text_ids


def main() -> int:
    return compare_peers(__file__, parse(__doc__, add_options), ours, theirs, compare, model_folder)


def compare(peers: dict[str, Peer], arguments) -> None:
    for context in arguments.contexts:
        answers = alternate(peers, arguments.rounds, context=context, steps=arguments.steps)
        if answers[OURS][0]["ids"] != answers[THEIRS][0]["ids"]:
            raise SystemExit("the two sides chose different tokens")
        seconds = {role: median(answers[role]) for role in ROLES}
        for role in ROLES:
            print(f"{role:13} {arguments.steps / seconds[role]:7.1f} tokens/s after {context}", flush=True)
        print(f"decoding, ours to transformers': {seconds[THEIRS] / seconds[OURS]:.2f}", flush=True)


def add_options(parser) -> None:
    parser.add_argument("--contexts", type=int, nargs="+", default=[600, 3000])
    parser.add_argument("--steps", type=int, default=48)


def ours(arguments):
    model = load_ours(arguments.folder, arguments.threads)
    import paddle

    from paddlemix.generate.engine import Engine

    def answer(context: int, steps: int) -> dict:
        engine = Engine(model, 1, context + steps)
        with paddle.no_grad():
            embeds = model.language_model.embed_tokens(paddle.to_tensor([text_ids(context)]))
        logits, ids = engine.read(embeds, np.arange(context)[None]), []
        start = time.perf_counter()
        for step in range(steps):
            ids.append(int(logits.argmax()))
            logits = engine.read_ids(ids[-1:], np.array([[context + step]]))
        return {"seconds": time.perf_counter() - start, "ids": ids}

    return answer


def theirs(arguments):
    model = load_theirs(arguments.folder, arguments.threads)
    import torch

    def answer(context: int, steps: int) -> dict:
        out, ids = model(input_ids=torch.tensor([text_ids(context)]), use_cache=True, logits_to_keep=1), []
        start = time.perf_counter()
        for _ in range(steps):
            ids.append(int(out.logits[0, -1].argmax()))
            step = torch.tensor([ids[-1:]])
            out = model(input_ids=step, past_key_values=out.past_key_values, use_cache=True)
        return {"seconds": time.perf_counter() - start, "ids": ids}

    return answer


if __name__ == "__main__":
    sys.exit(main())

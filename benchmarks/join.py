"""Measure a request that joins eight running ones: its first token, and how long the others wait for a token.

    python benchmarks/join.py [--lengths 600 2400] [--no-image] [--running 8] [--rounds 5] [--threads 2]

Uses the model of small_llava.py in float32. The running requests have prompts of 100 tokens. The one that joins has a
text of --lengths tokens, or an image of five tiles and 60 tokens of text (2,988 tokens). The engine computes it in
chunks, and the tower encodes its image tile by tile, between the steps of the others. Each round has new prompts and
new engines, so that nothing is known and the cache has to grow. It measures:

- step: a token of all running requests.
- alone: the first token of the same prompt in an engine that does nothing else.
- chunk: the longest part of the prompt that is computed between two steps, alone: a chunk, or a tile of the image.
- first token: of the joining request, against alone and two steps.
- longest gap: of the others between two tokens meanwhile, against chunk and step.
- late step: a token of all when the joining request is answered too, for as long as its long prompt is in the cache.

The answer of the joining request must be the one that it gets alone.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

from peers import parse, print_processor
from small_llava import load_ours, model_folder, noise_tiles, text_ids

PROMPT = 100  # tokens of the running requests
AFTER = 60  # tokens of text after an image
NEW = 8  # tokens of the joining request's answer
MAX_PLACES = 65_536  # with the default, an image's request waits: every slot is as long as the longest sequence


def main() -> int:
    arguments = parse(__doc__, add_options)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    print_processor(arguments)
    with model_folder(arguments.folder) as folder:
        model = load_ours(folder, arguments.threads)
    for length in [*arguments.lengths, *([] if arguments.no_image else [None])]:
        compare(model, length, arguments)
    return 0


def add_options(parser) -> None:
    parser.add_argument("--lengths", type=int, nargs="*", default=[600, 2400])
    parser.add_argument("--no-image", action="store_true")
    parser.add_argument("--running", type=int, default=8)


def compare(model, length: int | None, arguments) -> None:
    """Print the medians of all rounds and their ratios. length: None for an image."""
    # The first round is a warm-up.
    found = [measure(model, length, arguments.running, 100 * number) for number in range(arguments.rounds + 1)][1:]
    times = {name: statistics.median(each[name] for each in found) for name in found[0]}
    title = "image" if length is None else f"text of {length}"
    print(f"{title}: " + ", ".join(f"{name} {seconds * 1e3:.0f} ms" for name, seconds in times.items()))
    print(f"{title}: first token to alone and two steps: {times['first token'] / times['alone and two steps']:.2f}")
    print(f"{title}: longest gap to chunk and step: {times['longest gap'] / times['chunk and step']:.2f}", flush=True)


def measure(model, length: int | None, num_running: int, seed: int) -> dict[str, float]:
    """Return seconds by name, see the top of this file."""
    from paddlemix.generate.engine import Engine
    from paddlemix.generate.features import FeatureStore

    engine = Engine(model, max_places=MAX_PLACES, prefix_bytes=0, features=FeatureStore(0))
    running = [sequence_of(model, PROMPT, seed + 1 + number, 10_000) for number in range(num_running)]
    for sequence in running:
        engine.add(sequence)
    while engine.num_waiting or not all(sequence.num_generated > 1 for sequence in running):
        engine.step()
    step = statistics.median(steps(engine, 8))
    alone, answer = first_token(model, length, seed)
    joining = sequence_of(model, length, seed, NEW)
    engine.add(joining)
    gaps = []
    while not joining.num_generated:
        gaps += steps(engine, 1)
    num_gaps = len(gaps)
    while joining.is_open:
        gaps += steps(engine, 1)
    if joining.answer_ids != answer:
        raise SystemExit(f"another answer in company: {joining.answer_ids} instead of {answer}")
    chunk = longest_chunk(model, length, seed, engine.chunk - num_running)
    return {
        "step": step,
        "alone and two steps": alone + 2 * step,
        "first token": sum(gaps[:num_gaps]),
        "chunk and step": chunk + step,
        "longest gap": max(gaps),
        "late step": statistics.median(gaps[num_gaps:]),
    }


def steps(engine, number: int) -> list[float]:
    """Return the seconds of each of the engine's next steps."""
    seconds = []
    for _ in range(number):
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
    return seconds


def first_token(model, length: int | None, seed: int) -> tuple[float, list[int]]:
    """Return the seconds to a prompt's first token when nothing else runs, and its whole answer."""
    from paddlemix.generate.engine import Engine
    from paddlemix.generate.features import FeatureStore

    engine, alone = Engine(model, prefix_bytes=0, features=FeatureStore(0)), sequence_of(model, length, seed, NEW)
    engine.add(alone)
    seconds = 0.0
    while not alone.num_generated:
        seconds += sum(steps(engine, 1))
    while alone.is_open:
        engine.step()
    return seconds, alone.answer_ids


def longest_chunk(model, length: int | None, seed: int, size: int) -> float:
    """Return the seconds of the longest part of a prompt, in chunks of `size` positions, or of a tile of its image."""
    from paddlemix.generate.engine import ALONE, Engine
    from paddlemix.generate.features import FeatureStore

    sequence, store, seconds = sequence_of(model, length, seed, 1), FeatureStore(), []
    for name, image in sequence.images.items():
        start = time.perf_counter()
        model.encode_tiles(image.pixels[:1])
        seconds.append(time.perf_counter() - start)
        store.add(name, model.arrange(model.encode_tiles(image.pixels), image.size))
    engine = Engine(model, prefix_bytes=0, features=store, chunk=size // ALONE)
    engine.slots.reserve(len(sequence.keys) + 1)
    engine.add(sequence)
    while sequence.is_open:
        seconds += steps(engine, 1)
    return max(seconds)


def sequence_of(model, length: int | None, seed: int, num_new: int):
    """Return a request with a text of this length, or with an image if it is None."""
    from paddlemix.constants import IMAGE_TOKEN_ID
    from paddlemix.generate.cache_keys import keys_of
    from paddlemix.generate.sampling import SamplingParams
    from paddlemix.generate.sequence import Ending, Sequence
    from paddlemix.image.preprocess import content_key

    images, ids = [], text_ids(AFTER if length is None else length, seed)
    if length is None:
        tiles = noise_tiles(seed)
        images = [(content_key(tiles), tiles)]
        ids = [*[IMAGE_TOKEN_ID] * tiles.num_tokens, *ids]
    keys = keys_of(ids, images)
    sampling = SamplingParams(max_new_tokens=num_new, ignore_eos=True)
    return Sequence(keys, dict(images), sampling, num_new, Ending())


if __name__ == "__main__":
    sys.exit(main())

"""Compare `paddlemix eval run` with --batch-size 16, with 1, and with a plain loop over transformers: items a second.

    python benchmarks/eval_throughput.py [--loads pope captions text] [--rounds 3] [--threads 2]

There are three loads. "pope": six short questions about each image with answers of up to 4 tokens, as POPE has them.
"captions": one question about each image with answers of 32 tokens. "text": questions without an image, 16 tokens.

All use the model of one_tile_llava.py with the bundled tokenizer, vicuna's template, float32 and greedy decoding; the
embeddings of tokens that this tokenizer does not have are zero, so that they are not chosen. The time includes reading
and preprocessing of images. The loop asks one question after the other and forgets everything in between, as a script
that calls `generate` does; the runner keeps images and beginnings that are alike with either batch size. Candidates
alternate within each round; ratios are of medians. The answers of all candidates are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from one_tile_llava import image_spec, load_theirs
from one_tile_llava import model_folder as random_model
from peers import OURS, THEIRS, Peer, compare_peers, parse, print_processor
from small_llava import load_ours

TINY = Path(__file__).parents[1] / "paddlemix" / "examples" / "llava" / "tiny" / "model"
SIZE = (500, 375)  # (width, height) of the images in pixels, as many of COCO have
CANDIDATES = {"batch 16": (OURS, 16), "batch 1": (OURS, 1), "transformers": (THEIRS, 1)}


@dataclass(frozen=True)
class Load:
    num_images: int
    per_image: int
    max_new_tokens: int


LOADS = {"pope": Load(8, 6, 4), "captions": Load(16, 1, 32), "text": Load(0, 32, 16)}
NUM_KNOWN = 768  # tokens of the bundled vocabulary
WORDS = ("red", "green", "blue", "yellow", "star", "circle", "square", "triangle", "top", "left", "right", "bottom")


@contextmanager
def model_folder(folder: str | None) -> Iterator[str]:
    """Yield a folder with the model, whose embeddings are zero beyond the bundled vocabulary."""
    from safetensors.numpy import load_file, save_file

    with random_model(folder) as made:
        for path in Path(made).glob("*.safetensors"):
            tensors = load_file(path)
            for name in tensors:
                if name.endswith("embed_tokens.weight"):
                    tensors[name][NUM_KNOWN:] = 0
            save_file(tensors, path, metadata={"format": "pt"})
        yield made


def main() -> int:
    return compare_peers(__file__, parse(__doc__, add_options), ours, theirs, compare_loads, model_folder)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(rounds=3)
    parser.add_argument("--loads", nargs="+", choices=tuple(LOADS), default=list(LOADS))


def compare_loads(peers: dict[str, Peer], arguments) -> None:
    print_processor(arguments)
    ratios = [line for load in arguments.loads for line in compare(load, peers, arguments.rounds)]
    print(*ratios, sep="\n")


def compare(load: str, peers: dict[str, Peer], num_rounds: int) -> list[str]:
    """Time the candidates of a load; return a line for each ratio."""
    seconds: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    answers: dict[str, list] = {}
    for number in range(num_rounds + 1):
        for name in CANDIDATES if number % 2 else reversed(CANDIDATES):
            role, size = CANDIDATES[name]
            result = peers[role].ask(load=load, size=size, is_warm_up=not number)
            if number:
                seconds[name].append(result["seconds"])
                answers[name] = result["answers"]
    num_items = len(answers["batch 16"])
    rates = {name: num_items / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        same = sum(one == other for one, other in zip(answers["batch 16"], answers[name], strict=True))
        print(f"{load:8} {name:12} {rate:6.2f} items/s  {same} of {num_items} answers as batch 16", flush=True)
    return [f"{load}: batch 16 to {name}: {rates['batch 16'] / rates[name]:.2f}" for name in list(rates)[1:]]


def questions_of(load: Load, folder: Path, is_warm_up: bool):
    """Return the questions of a load, two of them for a warm-up, whose images are written to the folder."""
    from PIL import Image

    from paddlemix.evaluate.item import ImageFile, Question

    draw, found = np.random.default_rng(5), []
    for number in range(max(load.num_images, 1)):
        images = ()
        if load.num_images:
            path = folder / f"image-{number}.png"
            if not path.exists():
                Image.fromarray(draw.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)).save(path)
            images = (ImageFile(path),)
        for asked in range(load.per_image):
            text = f"Is there a {' '.join(draw.choice(WORDS, 6))}?"
            pieces = ("", f"\n{text}") if images else (text,)
            found.append(Question(f"{number}-{asked}", pieces, images))
    return found[:2] if is_warm_up else found


def processor_of():
    from paddlemix.checkpoints.processor import LlavaProcessor

    bundled = LlavaProcessor.from_pretrained(TINY)
    return LlavaProcessor(bundled.tokenizer, bundled.template, image_spec())


def ours(arguments: argparse.Namespace):
    model = load_ours(arguments.folder, arguments.threads)
    from paddlemix.evaluate.runner import Decoding, ask_all
    from paddlemix.generate.engine import Engine

    processor = processor_of()

    def answer(load: str, size: int, is_warm_up: bool) -> dict:
        questions = questions_of(LOADS[load], Path(arguments.folder), is_warm_up)
        decoding = Decoding(LOADS[load].max_new_tokens)
        start = time.perf_counter()
        found = {
            question.id: saved.output
            for question, saved in ask_all(model, processor, questions, decoding, engine=Engine(model, max_slots=size))
        }
        return {"seconds": time.perf_counter() - start, "answers": [found[one.id] for one in questions]}

    return answer


def theirs(arguments: argparse.Namespace):
    model = load_theirs(arguments.folder, arguments.threads)
    import torch

    from paddlemix.constants import IMAGE_TOKEN_ID
    from paddlemix.conversation.messages import Conversation, Message

    processor = processor_of()
    stop = processor.tokenizer.special_id(processor.template.answer_end)

    def one(question, max_new_tokens: int) -> str:
        conversation = Conversation([Message("user", question.pieces)], [image() for image in question.images])
        sample = processor.encode(conversation)
        ids = torch.tensor(np.where(sample.token_ids == IMAGE_TOKEN_ID, model.config.image_token_id, sample.token_ids))
        pixels = {"pixel_values": torch.tensor(sample.images[0].pixels)} if sample.images else {}
        options = {"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": 0, "eos_token_id": stop}
        found = model.generate(input_ids=ids[None], attention_mask=torch.ones_like(ids[None]), **pixels, **options)
        return processor.decode(found[0, len(ids) :].tolist())

    def answer(load: str, size: int, is_warm_up: bool) -> dict:
        assert size == 1, size
        questions = questions_of(LOADS[load], Path(arguments.folder), is_warm_up)
        start = time.perf_counter()
        answers = [one(question, LOADS[load].max_new_tokens) for question in questions]
        return {"seconds": time.perf_counter() - start, "answers": answers}

    return answer


if __name__ == "__main__":
    sys.exit(main())

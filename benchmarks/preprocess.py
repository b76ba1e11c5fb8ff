"""Compare data preparation with transformers: AnyRes images per second, and tokens with labels per second.

    python benchmarks/preprocess.py [--rounds 5] [--threads 2]

Images: JPEG files of six sizes, from memory to normalized tiles, one at a time. transformers runs its slow processor
(PIL and NumPy) and its fast one (torch, needs torchvision). The pixels must equal the slow one's; the fast one resizes
slightly differently. Labels: conversations of six turns to ids and labels, with one vocabulary and Qwen2's template.
transformers works as its users do: the chat template is applied up to the start and the end of every answer to find its
position.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from peers import OURS, ROLES, THEIRS, Peer, alternate, compare_peers, median, parse

SIZES = ((640, 480), (1024, 768), (1920, 1080), (480, 640), (800, 600), (500, 1200))  # (width, height)
NUM_CONVERSATIONS, NUM_TURNS = 40, 6
SYSTEM = "You are a helpful assistant."
CHAT_TEMPLATE = (  # Qwen2's, without a line feed after the last answer
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{% if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def main() -> int:
    return compare_peers(__file__, parse(__doc__), ours, theirs, compare, tokenizer_folder)


def compare(peers: dict[str, Peer], arguments) -> None:
    kinds = ["slow", "fast"] if find_spec("torchvision") else ["slow"]
    if "fast" not in kinds:
        print("transformers' fast image processor is not measured: it needs torchvision, which is not installed")
    ratios = {kind: show_images(peers, arguments.rounds, kind) for kind in kinds}
    labels = show_labels(peers, arguments.rounds)
    for kind, ratio in ratios.items():
        print(f"AnyRes images, ours to transformers' {kind} processor: {ratio:.2f}")
    print(f"tokens with labels, ours to transformers': {labels:.2f}")


def show_images(peers: dict[str, Peer], num_rounds: int, kind: str) -> float:
    answers = alternate(peers, num_rounds, work="images", kind=kind)
    mine, other = (np.load(answers[role][0]["pixels"]) for role in ROLES)
    errors = [float(np.abs(mine[name] - other[name]).max()) for name in mine.files]
    means = [float(np.abs(mine[name] - other[name]).mean()) for name in mine.files]
    print(f"pixels, ours and the {kind} processor's: maximum difference {max(errors):.1e}, mean {max(means):.1e}")
    if kind == "slow" and max(errors) > 1e-5:
        raise SystemExit("the two sides' pixels differ")
    for role in ROLES:
        print(f"{role:13} {len(SIZES) / median(answers[role]):7.1f} images/s ({kind})", flush=True)
    return median(answers[THEIRS]) / median(answers[OURS])


def show_labels(peers: dict[str, Peer], num_rounds: int) -> float:
    answers = alternate(peers, num_rounds, work="labels", kind="")
    first = {role: answers[role][0] for role in ROLES}
    is_same = first[OURS]["ids"] == first[THEIRS]["ids"] and first[OURS]["labels"] == first[THEIRS]["labels"]
    print(f"ids and labels of both sides are {'equal' if is_same else 'not equal'}")
    for role in ROLES:
        print(f"{role:13} {first[role]['num_tokens'] / median(answers[role]):9,.0f} tokens/s with labels", flush=True)
    rates = {role: first[role]["num_tokens"] / median(answers[role]) for role in ROLES}
    return rates[OURS] / rates[THEIRS]


def jpegs() -> list[bytes]:
    """Return JPEG files of smooth random colors."""
    from PIL import Image

    files = []
    for seed, size in enumerate(SIZES):
        coarse = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def conversations() -> list[list[str]]:
    """Return conversations of alternating questions and answers, with words made of random syllables."""
    rng = np.random.default_rng(0)
    syllables = [first + second for first in "bcdfghklmnprstvw" for second in ("a", "e", "i", "o", "u", "er", "an")]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(3000)]
    lengths = rng.integers(5, 80, (NUM_CONVERSATIONS, 2 * NUM_TURNS))
    return [[" ".join(rng.choice(words, length)) for length in row] for row in lengths]


@contextmanager
def tokenizer_folder(parent: str | None) -> Iterator[str]:
    """Yield a temporary folder with the tokenizer."""
    with tempfile.TemporaryDirectory(prefix="preprocess-", dir=parent) as folder:
        write_tokenizer(Path(folder))
        yield folder


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer trained on the conversations."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((text for turns in conversations() for text in turns), trainer)
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": specials[2], "pad_token": specials[0]}
    text = json.dumps({**settings, "chat_template": CHAT_TEMPLATE})
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def answer_with(arguments, to_pixels, to_labels):
    """Return a function that times to_pixels(kind, bytes) or to_labels(turns) -> (ids, labels)."""
    files, rows = jpegs(), conversations()
    saved = Path(arguments.folder) / f"{arguments.role}.npz"
    kinds = set()

    def answer(work: str, kind: str) -> dict:
        start = time.perf_counter()
        if work == "images":
            results = [to_pixels(kind, data) for data in files]
            seconds = time.perf_counter() - start
            if kind not in kinds:
                kinds.add(kind)
                pixels = {str(number): np.asarray(result) for number, result in enumerate(results)}
                np.savez(saved, **pixels)
            return {"seconds": seconds, "pixels": str(saved)}
        results = [to_labels(turns) for turns in rows]
        seconds = time.perf_counter() - start
        ids, labels = ([int(number) for number in part] for part in results[0])
        return {"seconds": seconds, "num_tokens": sum(len(one) for one, _ in results), "ids": ids, "labels": labels}

    return answer


def ours(arguments):
    from small_llava import image_spec

    from paddlemix.conversation.load_tokenizer import load_tokenizer
    from paddlemix.conversation.messages import Conversation, Message
    from paddlemix.conversation.templates import get_template
    from paddlemix.data.encode import encode_turns
    from paddlemix.image.load import load_image
    from paddlemix.image.preprocess import preprocess

    spec = image_spec()
    tokenizer, template = load_tokenizer(arguments.folder), get_template("qwen_2")

    def to_labels(turns: list[str]):
        messages = tuple(Message(("user", "assistant")[number % 2], text) for number, text in enumerate(turns))
        sample, _ = encode_turns(Conversation(messages), tokenizer=tokenizer, template=template, spec=spec)
        return sample.token_ids, sample.labels

    return answer_with(arguments, lambda kind, data: preprocess(load_image(data), spec).pixels, to_labels)


def theirs(arguments):
    import torch
    from PIL import Image
    from transformers import AutoTokenizer, LlavaNextImageProcessor

    from paddlemix.image.spec import ANYRES_GRIDS

    torch.set_num_threads(arguments.threads)
    options = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    options["image_grid_pinpoints"] = [[height, width] for width, height in ANYRES_GRIDS]
    processors = {
        "slow": LlavaNextImageProcessor(**options),
    }
    if find_spec("torchvision"):
        from transformers import LlavaNextImageProcessorFast

        processors["fast"] = LlavaNextImageProcessorFast(**options)
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)

    def to_pixels(kind: str, data: bytes):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        returned = "np" if kind == "slow" else "pt"
        return processors[kind](image, return_tensors=returned)["pixel_values"][0]

    def to_labels(turns: list[str]):
        messages = [{"role": "system", "content": SYSTEM}]
        messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
        ids = tokenizer.apply_chat_template(messages)
        labels = [-100] * len(ids)
        for end in range(3, len(messages) + 1, 2):
            first = len(tokenizer.apply_chat_template(messages[: end - 1], add_generation_prompt=True))
            last = len(tokenizer.apply_chat_template(messages[:end]))
            labels[first:last] = ids[first:last]
        return ids, labels

    return answer_with(arguments, to_pixels, to_labels)


if __name__ == "__main__":
    sys.exit(main())

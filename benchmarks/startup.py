"""Compare startup with transformers: time and memory from process start to the first token about an image.

    python benchmarks/startup.py [--layers 4] [--rounds 5] [--threads 2]

Uses a LLaVA 1.6 of about 500 MB in float32: the tower and the decoder of small_llava.py, with fewer layers. Each round
is a separate process that imports, loads, preprocesses an image of 672 x 672 pixels, prefills it with 60 tokens of text
and chooses the first token. Both sides must choose the same one. Afterwards `import paddlemix`, `paddlemix --help` and
the chat's first prompt with the bundled model are timed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from children import run_child
from peers import OURS, ROLES, THEIRS, median, parse
from small_llava import image_spec, load_ours, load_theirs, make, noise, text_ids

BEFORE, AFTER = 10, 50  # tokens of text around the image


def main() -> int:
    arguments = parse(__doc__, add_options)
    if arguments.make:
        make(arguments.folder, num_hidden_layers=arguments.layers)
        return 0
    if arguments.role:
        return first_token(arguments)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="startup-", dir=arguments.folder) as folder:
        shared = ["--folder", folder, "--threads", str(arguments.threads), "--layers", str(arguments.layers)]
        run_child(__file__, "--make", *shared)
        num_bytes = (Path(folder) / "model.safetensors").stat().st_size
        answers = {role: [] for role in ROLES}
        for number in range(arguments.rounds + 1):
            for role in ROLES if number % 2 else reversed(ROLES):
                answer = measure(role, shared)
                if number:  # the first round is a warm-up
                    answers[role].append(answer)
        show(answers, num_bytes)
    show_commands(arguments.rounds)
    return 0


def add_options(parser) -> None:
    parser.add_argument("--layers", type=int, default=4, help="layers of the decoder")
    parser.add_argument("--make", action="store_true", help="only write the model to --folder")


def measure(role: str, shared: list[str]) -> dict:
    start = time.monotonic()  # on Linux, all processes share this clock
    cost = run_child(__file__, "--role", role, *shared)
    answer = json.loads(cost.output.splitlines()[-1])
    return {**answer, "seconds": answer["end"] - start, "peak": cost.peak_bytes}


def show(answers: dict[str, list[dict]], num_bytes: int) -> None:
    """Print medians and ratios. Raises SystemExit if the first tokens differ."""
    tokens = {answer["token"] for role in ROLES for answer in answers[role]}
    if len(tokens) != 1:
        raise SystemExit(f"the two sides chose different first tokens: {sorted(tokens)}")
    print(f"weights: {num_bytes / 1e6:.0f} MB of float32")
    for role in ROLES:
        parts = ", ".join(
            f"{name} {median(answers[role], name):.2f}" for name in ("imports", "load", "preprocess", "read")
        )
        peak = median(answers[role], "peak")
        print(f"{role:13} {median(answers[role]):6.2f} s ({parts}), peak {peak / 1e6:,.0f} MB")
    allowed = 1.1 * num_bytes + 300e6
    print(f"peak memory, ours to 1.1 times the weights plus 300 MB: {median(answers[OURS], 'peak') / allowed:.2f}")
    peaks = median(answers[OURS], "peak") / median(answers[THEIRS], "peak")
    print(f"peak memory, ours to transformers': {peaks:.2f}")
    print(f"time to the first token, ours to transformers': {median(answers[OURS]) / median(answers[THEIRS]):.2f}")


def show_commands(num_rounds: int) -> None:
    """Print the times of the import, the help text and the first prompt; the latter two include process start."""
    timed = "import time; start = time.perf_counter(); import paddlemix; print(time.perf_counter() - start)"
    found = {"import paddlemix": [], "paddlemix --help": [], "chat's first prompt": []}
    for _ in range(num_rounds):
        out = subprocess.run([sys.executable, "-c", timed], check=True, capture_output=True, text=True).stdout
        found["import paddlemix"].append(float(out))
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "paddlemix.cli", "--help"], check=True, capture_output=True)
        found["paddlemix --help"].append(time.perf_counter() - start)
        found["chat's first prompt"].append(first_prompt())
    for name, seconds in found.items():
        print(f"{name}: {statistics.median(seconds) * 1e3:.0f} ms")


def first_prompt() -> float:
    """Return the seconds from the start of the chat's process to its first prompt."""
    start = time.perf_counter()
    command = [sys.executable, "-u", "-m", "paddlemix.cli", "chat", "--device", "cpu"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        text = b""
        while b"USER:" not in text:
            piece = os.read(process.stdout.fileno(), 4096)
            if not piece:
                raise SystemExit(f"the chat ended before its first prompt; it printed {text!r}")
            text += piece
        seconds = time.perf_counter() - start
        process.stdin.close()
        process.stdout.read()
    return seconds


def first_token(arguments) -> int:
    """Print the first token, the time at which it was chosen, and the seconds of each part."""
    token, times = (ours if arguments.role == OURS else theirs)(arguments, noise())
    end = time.monotonic()
    names = ("imports", "load", "preprocess", "read")
    parts = dict(zip(names, np.diff([*times, end]).tolist(), strict=True))
    print(json.dumps({"token": token, "end": end, **parts}))
    return 0


def ours(arguments, image):
    times = [time.monotonic()]
    from paddlemix.device import prepare_environment

    prepare_environment("cpu")
    import paddlemix.checkpoints.load
    from paddlemix import LlavaProcessor
    from paddlemix.constants import IMAGE_TOKEN_ID
    from paddlemix.data.collate import collate
    from paddlemix.data.sample import Sample
    from paddlemix.image.preprocess import preprocess

    assert paddlemix.checkpoints.load and LlavaProcessor  # imports are not counted as loading
    times.append(time.monotonic())
    model = load_ours(arguments.folder, arguments.threads)
    times.append(time.monotonic())
    tiles = preprocess(image, model.config.image)
    ids = [*text_ids(BEFORE), *[IMAGE_TOKEN_ID] * tiles.num_tokens, *text_ids(AFTER, seed=1)]
    times.append(time.monotonic())
    answer = model.generate(collate([Sample(np.array(ids), None, (tiles,))]), max_new_tokens=1)
    return answer[0][0], times


def theirs(arguments, image):
    times = [time.monotonic()]
    import torch
    from transformers import LlavaNextForConditionalGeneration, LlavaNextImageProcessor

    from paddlemix.image.anyres import num_image_tokens
    from paddlemix.image.spec import ANYRES_GRIDS

    assert LlavaNextForConditionalGeneration
    times.append(time.monotonic())
    model = load_theirs(arguments.folder, arguments.threads)
    times.append(time.monotonic())
    processor = LlavaNextImageProcessor(
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
        image_grid_pinpoints=[[height, width] for width, height in ANYRES_GRIDS],
    )
    inputs = processor(image, return_tensors="pt")
    num_tokens = num_image_tokens(image.size, image_spec())
    ids = [*text_ids(BEFORE), *[model.config.image_token_id] * num_tokens, *text_ids(AFTER, seed=1)]
    times.append(time.monotonic())
    out = model(input_ids=torch.tensor([ids]), **inputs, use_cache=True, logits_to_keep=1)
    return int(out.logits[0, -1].argmax()), times


if __name__ == "__main__":
    sys.exit(main())

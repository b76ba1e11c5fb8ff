"""Show what a LLaVA 1.5 of seven billion parameters takes on a machine without a card. Exit with 1 above a bound.

    python benchmarks/seven_b.py [--shape 7b|13b|tiny] [--folder DIR] [--steps inspect,convert,...] [--keep]

Makes a model of that shape with random weights in LLaVA's own layout, float16: 14 GB for 7b, 26 GB for 13b. Then each
step runs in a process of its own: inspect, convert to hf, load in int8, load in NF4, a chat turn with an image over
NF4, and a LoRA step over NF4 with recompute on a row of 512 tokens. Prints each step's time, the time of all its
threads together, which other programs change less, its peak resident memory, and the bound of that. The model is
removed at the end, unless --keep leaves it for the next run in the same folder.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from children import Cost, run_command
from large_llava import DECODERS, ROOT, cached_bytes, kept_bytes, make, stored_bytes

GB = 10**9
CONVERT_BOUND = GB
LIBRARIES = 2 * GB  # paddle, and the tensors in preparation
NUM_CACHED = 1024  # positions of keys and values: of an image, a question and an answer, and room to grow
STEP = LIBRARIES + 3 * GB  # and the adapters with their optimizer, the activations and the logits
SPARE_DISK = GB
MARK = "made-by-seven_b.json"  # in a folder that this script may remove: the shape
QUESTION = "What is in the image?"
NUM_ANSWERED, NUM_TRAINED_ON = 16, 512  # tokens
CHAT = *"--load-4bit --device cpu --temperature 0 --max-new-tokens".split(), str(NUM_ANSWERED), "--query", QUESTION
IMAGE_SIDE = 336
LORA = {
    "lora": True,
    "lora_rank": 8,
    "lora_target_modules": ["llama.layer.*proj.*"],
    "load_in_4bit": True,
    "recompute": True,
}
TRAINING = {
    "overwrite_output_dir": True,
    "per_device_train_batch_size": 1,
    "max_steps": 1,
    "logging_steps": 1,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "constant",
    "save_strategy": "no",
    "do_train": True,
    "disable_tqdm": True,
    "report_to": "none",
    "device": "cpu",
}


@dataclass(frozen=True)
class Step:
    """A step. command: after `python`, for the folder that has everything. bound: bytes of memory for a shape."""

    title: str
    command: Callable[[Path], list[str]]
    bound: Callable[[str], int]


def _command(*words: str) -> list[str]:
    return ["-m", "paddlemix", *words]


STEPS = {
    "inspect": Step("inspect", lambda at: _command("inspect", f"{at}/model"), lambda shape: CONVERT_BOUND),
    "convert": Step(
        "convert to hf",
        lambda at: _command("convert", "--to", "hf", f"{at}/model", f"{at}/hf"),
        lambda shape: CONVERT_BOUND,
    ),
    "int8": Step(
        "load in int8",
        lambda at: [__file__, "--role", "int8", "--folder", str(at)],
        lambda shape: kept_bytes(shape, "int8") + LIBRARIES,
    ),
    "nf4": Step(
        "load in NF4",
        lambda at: [__file__, "--role", "nf4", "--folder", str(at)],
        lambda shape: kept_bytes(shape, "nf4") + LIBRARIES,
    ),
    "chat": Step(
        f"chat turn, NF4, {NUM_ANSWERED} tokens",
        lambda at: _command("chat", *CHAT, "--model-path", f"{at}/model", "--image-file", f"{at}/image.png"),
        lambda shape: kept_bytes(shape, "nf4") + LIBRARIES + cached_bytes(shape, NUM_CACHED),
    ),
    "lora": Step(
        f"LoRA step over NF4, {NUM_TRAINED_ON} tokens",
        lambda at: _command("sft", f"{at}/lora.json"),
        lambda shape: kept_bytes(shape, "nf4") + STEP,
    ),
}


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if arguments.role == "make":
        return write_inputs(arguments.shape, arguments.folder)
    if arguments.role:
        return load(arguments.folder / "model", arguments.role)
    try:
        check_memory(arguments.shape, arguments.steps)
        with model_folder(arguments) as folder:
            return run_steps(arguments.shape, arguments.steps, folder)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run_steps(shape: str, names: list[str], folder: Path) -> int:
    """Run the steps and print their table; return 1 if a bound is broken."""
    from paddlemix.doctor.machine import num_cores, processor, vector_flags

    print(f"{processor()}, {num_cores()} cores, {' '.join(vector_flags())}")
    print(f"a LLaVA 1.5 of shape {shape}, {stored_bytes(shape) / GB:.1f} GB in float16, random weights")
    print(f"{'step':36} {'time':>9} {'processor':>10} {'peak':>10} {'bound':>10}", flush=True)
    is_within = True
    for name in names:
        step, bound = STEPS[name], STEPS[name].bound(shape)
        cost = measured(step.command(folder), folder / f"{name}.log")
        mark = "" if cost.peak_bytes <= bound else "  above the bound"
        times = f"{cost.seconds:7.1f} s {cost.processor_seconds:8.1f} s"
        print(f"{step.title:36} {times} {in_gb(cost.peak_bytes)} {in_gb(bound)}{mark}", flush=True)
        for line in remarks(name, cost.output + (folder / f"{name}.log").read_text(encoding="utf-8")):
            print(f"  {line}", flush=True)
        is_within &= not mark
        shutil.rmtree(folder / "hf", ignore_errors=True)  # as large as the model
    return int(not is_within)


def measured(command: list[str], log: Path) -> Cost:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return run_command([sys.executable, *command], log, {**os.environ, "PYTHONPATH": paths})


def in_gb(number: int) -> str:
    return f"{number / GB:7.2f} GB"


def remarks(name: str, output: str) -> list[str]:
    """Return what the output of a step says about its result."""
    if name == "chat":
        return [f"answer: {output.splitlines()[0][:80]}"]
    pattern = {"lora": r"\bloss +[0-9.]+", "int8": ".* are stored as int8.*", "nf4": ".* are stored as nf4.*"}.get(name)
    return re.findall(pattern, output)[:1] if pattern else []


def write_inputs(shape: str, folder: Path) -> int:
    """Write the model, an image, and a row with the settings of a LoRA step, in a separate process."""
    import numpy as np
    from PIL import Image

    make(shape, folder / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    turns = [("human", "What is this?"), ("gpt", "It is a red square.")] * NUM_TRAINED_ON  # those that fit are used
    turns = [{"from": role, "value": text} for role, text in turns]
    (folder / "train.json").write_text(json.dumps([{"conversations": turns}]), encoding="utf-8")
    paths = {"model_name_or_path": folder / "model", "dataset": folder / "train.json", "output_dir": folder / "out"}
    values = {**{name: str(path) for name, path in paths.items()}, "max_length": NUM_TRAINED_ON, **LORA, **TRAINING}
    (folder / "lora.json").write_text(json.dumps(values), encoding="utf-8")
    return 0


def load(folder: Path, kind: str) -> int:
    """Load the model as the commands do, and say what it takes."""
    from paddlemix.device import prepare_environment

    prepare_environment("cpu")
    from paddlemix.checkpoints.load import load_model
    from paddlemix.models.quantized import describe

    print(describe(load_model(folder, dtype="float32", device="cpu", quantization=kind)))
    return 0


def check_memory(shape: str, steps: list[str]) -> None:
    """Raise ValueError if a step's bound is more than the memory that is free."""
    from paddlemix.device_memory import memory_of

    needed, name = max((STEPS[name].bound(shape), name) for name in steps)
    found = memory_of("cpu")
    if found is not None and found[1] < needed:
        raise ValueError(
            f"{found[1] / GB:.1f} GB of memory are free, and step {name} of shape {shape} may take {needed / GB:.1f} "
            "GB: end other programs, or choose other steps (--steps) or a smaller --shape"
        )


@contextmanager
def model_folder(arguments: argparse.Namespace) -> Iterator[Path]:
    """Yield the folder with the model, made if it is not there; remove it at the end, also after Ctrl-C."""
    parent = arguments.folder or Path(tempfile.gettempdir())
    folder = parent.resolve() / f"seven_b-{arguments.shape}"
    is_there = (folder / MARK).is_file()
    if folder.exists() and not is_there:
        raise ValueError(f"{folder} is not of this script, or unfinished: remove it, or choose another --folder")
    check_disk(arguments, parent, is_there)
    try:
        if not is_there:
            folder.mkdir(parents=True)
            words = [__file__, "--role", "make", "--shape", arguments.shape, "--folder", str(folder)]
            cost = measured(words, folder / "make.log")
            (folder / MARK).write_text(json.dumps({"shape": arguments.shape}), encoding="utf-8")
            print(f"made {folder} in {cost.seconds:.0f} s with {in_gb(cost.peak_bytes).strip()} of memory", flush=True)
        yield folder
    finally:
        if not arguments.keep or not (folder / MARK).is_file():
            shutil.rmtree(folder, ignore_errors=True)


def check_disk(arguments: argparse.Namespace, parent: Path, is_there: bool) -> None:
    """Raise ValueError if the disk has no room for the model and its converted copy."""
    size = stored_bytes(arguments.shape)
    needed = size * ((not is_there) + ("convert" in arguments.steps)) + SPARE_DISK
    existing = next(one for one in (parent.resolve(), *parent.resolve().parents) if one.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ValueError(
            f"{free / GB:.1f} GB are free in {existing}, and the model takes {size / GB:.1f} GB, a converted copy as "
            f"much again: {needed / GB:.1f} GB are needed; choose another --folder, or --steps without convert"
        )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=tuple(DECODERS), default="7b", help="of the model (default: 7b)")
    parser.add_argument("--folder", type=Path, default=None, help="parent of the model's folder (default: temporary)")
    parser.add_argument(
        "--steps", type=_names, default=list(STEPS), help=f"some of {','.join(STEPS)}, in this order (default: all)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the model for the next run with the same --folder")
    parser.add_argument("--role", choices=("make", "int8", "nf4"), default=None, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in STEPS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no step: expected some of {','.join(STEPS)}")
    return names


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder is removed then too
    sys.exit(main())

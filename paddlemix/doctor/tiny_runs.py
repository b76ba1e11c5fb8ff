"""A few steps of training and a short chat with the bundled model, to compare with the CPU's."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from .. import device as devices
from ..constants import BUNDLED_MODEL
from .check import Check
from .error_text import library_to_preload, of_error

IMAGE = Path(BUNDLED_MODEL).parent / "shapes.png"
NUM_STEPS = 4
# The bundled model's greedy answers to these questions on a CPU in float32.
ANSWERS = {
    "Describe the picture.": "Top left a red star, top right a red triangle, bottom left a green square and bottom "
    "right a blue circle.",
    "How many shapes are there?": "The number of shapes is four.",
    "Which shape is green?": "The green shape is a square.",
}
ROWS = (("What is this?", "Four shapes, two of them red."), ("Where is the circle?", "It is below the triangle."))


def check_training(check: Check, device: str) -> None:
    """Train a few steps in float32, and in 16 bits with fp16_opt_level O2 where the device has them."""
    kinds = {"float32": {}}
    for dtype, switch in (("bfloat16", "bf16"), ("float16", "fp16")):
        if not device.startswith("cpu") and len(kinds) < 2 and devices.can_compute(dtype, device):
            kinds[f"{dtype} O2"] = {switch: True, "fp16_opt_level": "O2"}
    for name, changes in kinds.items():
        print(f"== training {name}", flush=True)
        try:
            losses, seconds = _train(device, changes)
        except Exception as error:  # the other dtype is still to be tried
            check.fail(f"{name}: {of_error(error)}")
            check.values["preload"] = library_to_preload(str(error))
            continue
        check.values[name] = losses
        numbers = " ".join(f"{loss:.4f}" for loss in losses)
        text = f"{name}: losses {numbers}; {seconds:.1f} s for {NUM_STEPS} steps"
        if len(losses) == NUM_STEPS and np.isfinite(losses).all() and losses[-1] < losses[0]:
            check.say(text)
        else:
            check.fail(f"{text}: expected {NUM_STEPS} finite losses, the last one below the first")


def _train(device: str, changes: dict) -> tuple[list[float], float]:
    from ..train.arguments import parse
    from ..train.run import build

    with tempfile.TemporaryDirectory(prefix="paddlemix-doctor-") as folder:
        turns = [["<image>\n" + question, answer] for question, answer in ROWS * 2]
        rows = [{"image": str(IMAGE), "conversations": [turn]} for turn in turns]
        data = Path(folder) / "rows.json"
        data.write_text(json.dumps(rows), encoding="utf-8")
        values = {
            "model_name_or_path": BUNDLED_MODEL,
            "dataset": str(data),
            "output_dir": str(Path(folder) / "out"),
            "device": device,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-3,
            "adam_epsilon": 0.01,  # so that rounding errors do not grow where gradients are tiny
            "lr_scheduler_type": "constant",
            "max_steps": NUM_STEPS,
            "logging_steps": 1,
            "save_strategy": "no",
            "do_train": True,
            "disable_tqdm": True,
            "report_to": "none",
            **changes,
        }
        trainer = build(parse(values), template=None, config_folder=None)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        return [float(loss) for _, loss in trainer.history.values.get("loss", ())], seconds


def check_chat(check: Check, device: str) -> None:
    """Ask the bundled model about the bundled image in each dtype that the device can compute."""
    for dtype in devices.DTYPES:
        print(f"== chat {dtype}", flush=True)
        if not devices.can_compute(dtype, device):
            continue
        try:
            answers, rate = _ask(device, dtype)
        except Exception as error:  # the other dtypes are still to be tried
            check.fail(f"{dtype}: {of_error(error)}")
            continue
        check.values[dtype] = answers
        check.values[f"{dtype} tokens/s"] = round(rate, 1)
        wrong = [question for question, answer in answers.items() if answer != ANSWERS[question]]
        text = f"{dtype}: {len(answers) - len(wrong)} of {len(answers)} answers right, {rate:,.0f} tokens/s"
        if not wrong:
            check.say(text)
            continue
        add = check.fail if dtype == "float32" else check.warn
        add(f"{text}; {wrong[0]!r} gave {answers[wrong[0]]!r}")


def _ask(device: str, dtype: str) -> tuple[dict[str, str], float]:
    """Return the answers, and the tokens a second without the first turn, in which kernels are prepared."""
    from ..checkpoints.load import load_model
    from ..checkpoints.processor import LlavaProcessor
    from ..generate.sampling import SamplingParams
    from ..generate.session import ChatSession

    model = load_model(BUNDLED_MODEL, dtype=dtype, device=device)
    session = ChatSession(model, LlavaProcessor.from_pretrained(BUNDLED_MODEL), sampling=SamplingParams(temperature=0))
    answers, start = {}, 0.0
    for number, question in enumerate(ANSWERS):
        start = time.perf_counter() if number == 1 else start
        answers[question] = session.ask(question, [IMAGE] if number == 0 else None)
    seconds = time.perf_counter() - start
    return answers, sum(len(turn.answer_ids) for turn in session.turns[1:]) / seconds

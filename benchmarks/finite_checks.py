"""Measure the cost of the checks for NaN and infinity in a training step, and of checking all weights.

    python benchmarks/finite_checks.py [--steps 6] [--threads 2]

Runs steps of full training in float32, with AdamW and clipped gradients, of a tiny decoder and of one with 135M
parameters (576 wide, 30 layers, vocabulary 49,152) on one row of 600 tokens, half of them trained. The time of a step
varies more than the checks cost, so the checks are timed separately: the sum of the logits and the norm of the
gradients.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from small_llava import DECODER

VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 336, "patch_size": 14}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "vocab_size": 512}
LENGTH = 600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="measured steps, after one warm-up step")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["PADDLEMIX_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from paddlemix.device import prepare_environment, use_device
    from paddlemix.doctor.machine import processor

    prepare_environment("cpu")
    use_device("cpu")
    print(processor())
    for name, decoder, num_steps in (("tiny", TINY, 10 * arguments.steps), ("135M", DECODER, arguments.steps)):
        steps, checks, start = measure(decoder, num_steps)
        print(
            f"{name}: a step takes {1e3 * steps:.1f} ms, of which checks {1e3 * checks:.2f} ms ({checks / steps:.2%}); "
            f"checking all weights takes {1e3 * start:.1f} ms",
            flush=True,
        )
    return 0


def measure(decoder: dict, num_steps: int) -> tuple[float, float, float]:
    """Return the median seconds of a step and of its checks, and the seconds of checking all weights."""
    import paddle

    from paddlemix import LlavaForConditionalGeneration
    from paddlemix.models import loss as loss_file
    from paddlemix.models.config import LanguageConfig, LlavaConfig, VisionConfig
    from paddlemix.train.watch import GradientCheck, LossWatch, check_weights

    model = LlavaForConditionalGeneration(LlavaConfig(LanguageConfig(**decoder), VisionConfig(**VISION)))
    model.initialize_weights(seed=0)
    model.train()
    clip = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(1e-5, parameters=model.parameters(), grad_clip=clip)
    watch = LossWatch(Path(tempfile.gettempdir()), 10.0, vocab_size=decoder["vocab_size"])
    state, batch, spent = SimpleNamespace(global_step=0), make_batch(decoder["vocab_size"]), [0.0]
    loss_file._flaw = timed(loss_file._flaw, spent)
    look = timed(GradientCheck(watch).on_optimizer_begin, spent)
    steps, checks = [], []
    for _ in range(num_steps + 1):  # the first one is a warm-up
        start, spent[0] = time.perf_counter(), 0.0
        loss = model.loss(batch)
        loss.backward()
        float(loss)
        look(None, state, None, model=model)
        optimizer.step()
        optimizer.clear_grad()
        steps.append(time.perf_counter() - start)
        checks.append(spent[0])
    start = time.perf_counter()
    check_weights(model, "benchmark")
    return statistics.median(steps[1:]), statistics.median(checks[1:]), time.perf_counter() - start


def timed(function, spent: list[float]):
    """Return a function that adds the seconds of each call to spent[0]; on CPUs Paddle runs synchronously."""

    def call(*arguments, model=None):
        start = time.perf_counter()
        result = function(*arguments) if model is None else function(*arguments, model=model)
        spent[0] += time.perf_counter() - start
        return result

    return call


def make_batch(vocab_size: int):
    from paddlemix.constants import IGNORE_INDEX
    from paddlemix.data.collate import collate_packs
    from paddlemix.data.sample import Sample

    ids = np.random.default_rng(0).integers(3, vocab_size, LENGTH)
    labels = np.where(np.arange(LENGTH) < LENGTH // 2, IGNORE_INDEX, ids)
    return collate_packs([[Sample(ids, labels)]])


if __name__ == "__main__":
    raise SystemExit(main())

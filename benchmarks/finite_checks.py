"""What the checks for numbers that are none cost a training step, and the weights' check at a start or a checkpoint.

    python benchmarks/finite_checks.py [--steps 6] [--threads 2]

Steps of full training in float32, AdamW with clipped gradients, of a tiny decoder and of one with 135M parameters (576
wide, 30 layers, vocabulary 49,152) on one row of 600 tokens, half of them trained. Steps with and without the checks
take turns in one process, and the median of each kind is told: what one step costs varies by more than the checks.
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
VISION |= {"image_size": 28, "patch_size": 14}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "vocab_size": 512}
LENGTH = 600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="of each kind, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["PADDLEMIX_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from paddlemix.checkup.host import processor
    from paddlemix.device import prepare_environment, use_device

    prepare_environment("cpu")
    use_device("cpu")
    print(processor())
    for name, decoder, num_steps in (("tiny", TINY, 10 * arguments.steps), ("135M", DECODER, arguments.steps)):
        seconds, start = measure(decoder, num_steps)
        without, with_checks = (statistics.median(seconds[kind]) for kind in (False, True))
        ratio = with_checks / without
        print(f"{name}: a step {1e3 * without:.1f} ms, with checks {1e3 * with_checks:.1f} ms: {ratio:.3f}", flush=True)
        print(f"{name}: all weights looked at in {1e3 * start:.1f} ms", flush=True)
    return 0


def measure(decoder: dict, num_steps: int) -> tuple[dict[bool, list[float]], float]:
    """Return the seconds of steps without and with checks, and those of a look at the weights."""
    import paddle

    from paddlemix.models import loss as loss_file
    from paddlemix.models.config import LanguageConfig, LlavaConfig, VisionConfig
    from paddlemix.models.llava import LlavaForConditionalGeneration
    from paddlemix.train.finite import GradientCheck, check_weights
    from paddlemix.train.watch import LossWatch

    model = LlavaForConditionalGeneration(LlavaConfig(LanguageConfig(**decoder), VisionConfig(**VISION)))
    model.initialize_weights(seed=0)
    model.train()
    clip = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(1e-5, parameters=model.parameters(), grad_clip=clip)
    watch = LossWatch(Path(tempfile.gettempdir()), 10.0, vocab_size=decoder["vocab_size"])
    check, state, batch = GradientCheck(watch, 1), SimpleNamespace(global_step=0), make_batch(decoder["vocab_size"])
    flaw, nothing = loss_file._flaw, paddle.zeros([])
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * num_steps + 2):
        is_checked = bool(number % 2)
        loss_file._flaw = flaw if is_checked else lambda logits: nothing
        start = time.perf_counter()
        loss = model.loss(batch)
        loss.backward()
        float(loss)
        if is_checked:
            check.on_optimizer_begin(None, state, None, model=model)
        optimizer.step()
        optimizer.clear_grad()
        if number >= 2:
            seconds[is_checked].append(time.perf_counter() - start)
    loss_file._flaw = flaw
    start = time.perf_counter()
    check_weights(model, "benchmark")
    return seconds, time.perf_counter() - start


def make_batch(vocab_size: int):
    from paddlemix.constants import IGNORE_INDEX
    from paddlemix.data.collate import collate_packs
    from paddlemix.data.sample import Sample

    ids = np.random.default_rng(0).integers(3, vocab_size, LENGTH)
    labels = np.where(np.arange(LENGTH) < LENGTH // 2, IGNORE_INDEX, ids)
    return collate_packs([[Sample(ids, labels)]])


if __name__ == "__main__":
    raise SystemExit(main())

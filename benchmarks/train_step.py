"""Compare LoRA fine-tuning with transformers + peft: trained tokens per second and peak memory, as ratios.

    python benchmarks/train_step.py [--samples 24] [--batch 4] [--threads 2]

Uses a LLaMA decoder of 135M parameters (576 wide, 30 layers, 9 query heads and 3 key heads, vocabulary 49,152) after a
small ViT with 576 image tokens per image. All variants train on the same samples, each with one image and a text of
varying length, in float32 with AdamW and adapters of rank 8 on every projection. Each variant runs in a separate
process: transformers with padded batches, ours with the same batches, and ours with the samples packed into rows of as
many tokens as an average batch. Reading and preprocessing images is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import numpy as np
from children import run_child
from small_llava import DECODER

VARIANTS = ("transformers", "ours", "packed")
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 336, "patch_size": 14}
NUM_IMAGE_TOKENS = 576
IMAGE_TOKEN = 49151  # transformers' image token
RANK, ALPHA, RATE = 8, 16, 1e-4
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=24, help="samples to train on, after a warm-up batch")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--role", choices=VARIANTS, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role is not None:
        print(json.dumps(measure(arguments)))
        return 0
    found = {}
    for role in VARIANTS:
        shared = ["--samples", str(arguments.samples), "--batch", str(arguments.batch)]
        cost = run_child(__file__, "--role", role, "--threads", str(arguments.threads), *shared)
        found[role] = {**json.loads(cost.output.splitlines()[-1]), "peak": cost.peak_bytes}
        figures = found[role]
        print(
            f"{role:13} {figures['trained'] / figures['seconds']:7.1f} trained tokens/s  "
            f"{figures['peak'] / 1e6:6.0f} MB  {figures['positions']} positions, loss {figures['loss']:.4f}",
            flush=True,
        )
    theirs = found["transformers"]
    for role in VARIANTS[1:]:
        speed = found[role]["trained"] / found[role]["seconds"] * theirs["seconds"] / theirs["trained"]
        print(f"{role} to transformers: speed {speed:.2f}, peak memory {found[role]['peak'] / theirs['peak']:.2f}")
    return 0


def lengths(num_samples: int) -> list[tuple[int, int]]:
    """Return the numbers of text tokens of each sample's question and answer: mostly short answers, some long."""
    generator = np.random.default_rng(0)
    questions = generator.integers(12, 80, num_samples)
    answers = np.minimum(generator.lognormal(4.2, 1.0, num_samples).astype(int) + 4, 900)
    return [(int(question), int(answer)) for question, answer in zip(questions, answers, strict=True)]


def measure(arguments: argparse.Namespace) -> dict:
    os.environ["PADDLEMIX_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    rows = lengths(arguments.samples + arguments.batch)
    run = run_transformers if arguments.role == "transformers" else run_ours
    return run(rows, arguments)


def cut(rows: list, size: int) -> list[list]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def timed(batches: list, step) -> dict:
    """Time a step for each batch after a warm-up; step returns (loss, positions, trained)."""
    step(batches[0])
    start, positions, trained, losses = time.perf_counter(), 0, 0, []
    for batch in batches[1:]:
        loss, num_positions, num_trained = step(batch)
        losses.append(loss)
        positions, trained = positions + num_positions, trained + num_trained
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "positions": positions, "trained": trained, "loss": float(np.mean(losses))}


def run_transformers(rows: list[tuple[int, int]], arguments: argparse.Namespace) -> dict:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = LlavaConfig(CLIPVisionConfig(**VISION), LlamaConfig(**DECODER), image_token_index=IMAGE_TOKEN)
    model = LlavaForConditionalGeneration(config)
    targets = rf".*language_model.*\.({'|'.join(PROJECTIONS)})"
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets)).train()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=RATE)
    generator = torch.Generator().manual_seed(1)

    def step(batch):
        width = NUM_IMAGE_TOKENS + max(question + answer for question, answer in batch)
        ids, labels = torch.zeros([len(batch), width], dtype=torch.long), torch.full([len(batch), width], -100)
        mask = torch.zeros_like(ids)
        for row, (question, answer) in enumerate(batch):
            end = NUM_IMAGE_TOKENS + question + answer
            ids[row, :NUM_IMAGE_TOKENS] = IMAGE_TOKEN
            ids[row, NUM_IMAGE_TOKENS:end] = torch.randint(3, 49000, [question + answer], generator=generator)
            labels[row, end - answer : end] = ids[row, end - answer : end]
            mask[row, :end] = 1
        pixels = torch.randn([len(batch), 3, 336, 336], generator=generator)
        loss = model(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item(), ids.numel(), int((labels != -100).sum())

    return timed(cut(rows, arguments.batch), step)


def run_ours(rows: list[tuple[int, int]], arguments: argparse.Namespace) -> dict:
    from paddlemix.device import prepare_environment, use_device

    prepare_environment("cpu")
    use_device("cpu")  # as the trainer does
    import paddle

    from paddlemix import LlavaForConditionalGeneration
    from paddlemix.constants import IGNORE_INDEX, IMAGE_TOKEN_ID
    from paddlemix.data.collate import collate_packs
    from paddlemix.data.packing import first_fit
    from paddlemix.data.sample import Sample
    from paddlemix.image.preprocess import ImageTiles
    from paddlemix.image.spec import ImageSpec
    from paddlemix.models.config import LanguageConfig, LlavaConfig, VisionConfig
    from paddlemix.train.arguments import ModelArguments
    from paddlemix.train.lora import add_lora

    image = ImageSpec(side=336, patch_size=14)
    model = LlavaForConditionalGeneration(LlavaConfig(LanguageConfig(**DECODER), VisionConfig(**VISION), image=image))
    model.initialize_weights(seed=0)
    for parameter in model.parameters():
        parameter.stop_gradient = True
    settings = ModelArguments(
        lora=True,
        lora_rank=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        lora_target_modules=[rf"language_model\..*{name}" for name in PROJECTIONS],
        freeze_mm_mlp_adapter=True,
    )
    wrapped = add_lora(model, settings, "float32", base="")
    wrapped.train()
    trained = [each for each in wrapped.parameters() if not each.stop_gradient]
    optimizer = paddle.optimizer.AdamW(RATE, parameters=trained)
    generator = np.random.default_rng(1)

    def sample(question: int, answer: int) -> Sample:
        ids = np.concatenate(
            [
                np.full(NUM_IMAGE_TOKENS, IMAGE_TOKEN_ID),
                generator.integers(3, 49000, question + answer),
            ]
        )
        labels = np.full(len(ids), IGNORE_INDEX)
        labels[len(ids) - answer :] = ids[len(ids) - answer :]
        pixels = generator.standard_normal([1, 3, 336, 336], dtype=np.float32)
        return Sample(ids, labels, (ImageTiles(pixels, (336, 336), NUM_IMAGE_TOKENS),))

    def step(batch):
        packed = collate_packs([[sample(*row) for row in batch]])
        loss = wrapped(packed, with_loss=True)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return loss.item(), packed.token_ids.size, int((packed.labels != IGNORE_INDEX).sum())

    batches = cut(rows, arguments.batch)
    if arguments.role == "packed":
        sizes = [NUM_IMAGE_TOKENS + question + answer for question, answer in rows[arguments.batch :]]
        capacity = int(np.mean(sizes) * arguments.batch)
        packs = first_fit(sizes, capacity)
        batches = [batches[0], *([rows[arguments.batch + number] for number in pack] for pack in packs)]
    return timed(batches, step)


if __name__ == "__main__":
    sys.exit(main())

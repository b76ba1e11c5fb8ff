"""Tiny training runs and chats on the simulated device, with a decoder whose heads are as wide as real ones.

Run as a script, `tiny_steps.py FOLDER TASK ...` runs each task and prints a line of JSON for it. A task is
train:KIND:DTYPE (kinds: see RUNS; a dtype is e.g. bf16-O2), chat:DTYPE (greedy and sampled answers) or
company:DTYPE (answers of sequences that share a small cache).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]
from paddlemix.device import prepare_environment  # noqa: E402

prepare_environment("npu")  # before paddle is imported
import paddle  # noqa: E402
import tiny_folder  # noqa: E402

RUNS = ("full", "lora", "pretrain", "packed")


def widen_heads() -> None:
    """Give tiny folders a head_dim of 64, which Ascend's fused_rope needs."""
    tiny_folder.LANGUAGE.update(hidden_size=128, num_attention_heads=2, num_key_value_heads=1)


def mark(word: str) -> None:
    print(f"== {word}", file=sys.stderr, flush=True)


def mark_custom_operations() -> None:
    """Log every call of a plugin's operation."""
    run = paddle.base.core.eager._run_custom_op

    def marked(name, first, *others):
        mark(f"custom {name} {str(first.dtype).split('.')[-1]}")
        return run(name, first, *others)

    paddle.base.core.eager._run_custom_op = marked


def options(kind: str, dtype: str) -> dict:
    """Return the settings of a run. dtype: e.g. "fp32", "bf16-O1" or "fp16-O2"."""
    import tiny_training

    name, _, level = dtype.partition("-")
    values = {} if name == "fp32" else {name: True, "fp16_opt_level": level}
    if kind == "lora":
        values |= {**tiny_training.LORA, "lora_dropout": 0.1}
    if kind == "pretrain":
        values |= tiny_training.PRETRAIN_FREEZE
    return values | ({"packing": True, "max_length": 256} if kind == "packed" else {})


def train(folder: Path, kind: str, dtype: str, device: str = "npu") -> list[float]:
    """Train two steps and return their losses. The second step is marked in the log."""
    import tiny_training
    from paddlenlp.trainer import TrainerCallback

    from paddlemix.train import run

    class Marks(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            if state.global_step == 1:
                mark(f"begin train {kind} {dtype}")

        def on_step_end(self, args, state, control, **others):
            if state.global_step == 2:
                mark(f"end train {kind} {dtype}")

    data = tiny_folder.write_rows(folder, 8)
    settings = tiny_training.settings(folder, data, "anyres", device=device, max_steps=2, **options(kind, dtype))
    trainer = tiny_training.build(settings)
    trainer.add_callback(Marks())
    run.execute(trainer, trainer.args)
    return trainer.recorder.losses


def chat(dtype: str, device: str = "npu") -> dict:
    """Return the answer ids of two chats and a batch. The log marks one decoded token in the way of each chat."""
    from paddlemix.generate.sampling import SamplingParams
    from paddlemix.generate.session import ChatSession

    model, processor = load(dtype, device)
    ways = {"greedy": {}, "sampled": {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 0}}
    found = {}
    for way, values in ways.items():
        sampling = SamplingParams(max_new_tokens=6, ignore_eos=True, **values)
        session = ChatSession(model, processor, sampling=sampling)
        session.ask("What is this?", [tiny_folder.random_image(1)])
        mark_step(session, f"{way} {dtype}")
        session.ask("And this?", [tiny_folder.random_image(2), tiny_folder.random_image(3)])
        found[way] = [turn.answer_ids for turn in session.turns]
    batch = processor.collate([processor.encode(_conversation(text)) for text in ("Hello", "What is all of this?")])
    found["batch"] = model.generate(batch, SamplingParams(max_new_tokens=4, ignore_eos=True))
    return found


def load(dtype: str, device: str) -> tuple:
    from paddlemix import LlavaForConditionalGeneration, LlavaProcessor

    folder = tiny_folder.folder("anyres")
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype, device=device)
    return model, LlavaProcessor.from_pretrained(folder)


def mark_step(session, name: str) -> None:
    """Mark the engine's step for one token of an answer that nobody reads."""
    from paddlemix.generate.turn import new_turn, sequence_of

    turn = new_turn(session.processor, "Hello", [])
    sequence = sequence_of(session.processor, [turn], session.sampling, session.model.config)
    session.engine.add(sequence)
    while not sequence.num_generated:
        session.engine.step()
    mark(f"begin {name}")
    session.engine.step()
    mark(f"end {name}")
    session.engine.cancel(sequence)


def company(dtype: str, device: str = "npu") -> dict:
    """Return the answer ids of sequences that share an engine, and how often it copied what was known.

    stored: from the prefix store; copied: from other slots. The log marks all of it, and a step of four tokens alone.
    """
    from paddlemix.generate.engine import Engine
    from paddlemix.generate.sampling import SamplingParams
    from paddlemix.generate.turn import named_image, new_turn, sequence_of

    model, processor = load(dtype, device)
    images = [named_image(processor, tiny_folder.random_image(seed)) for seed in (1, 2)]
    engine = Engine(model, max_slots=4, chunk=32)
    stored, copied = [], []
    engine.slots.cache.put = noting(engine.slots.cache.put, stored)
    engine.slots.cache.copy_prefix = noting(engine.slots.cache.copy_prefix, copied)
    questions = [("What is this? " * (1 + number % 5), images[: number % 3]) for number in range(10)]
    found = []
    for lookup in (0, 3):
        sampling = SamplingParams(temperature=0, max_new_tokens=20, ignore_eos=True, lookup=lookup)
        turns = [new_turn(processor, text, shown) for text, shown in questions]
        sequences = [sequence_of(processor, [turn], sampling, model.config) for turn in turns]
        mark(f"begin company {lookup} {dtype}")
        for sequence in sequences:
            engine.add(sequence)
        while len(answering := [each for each in sequences if each.is_open and each.num_generated]) < 4:
            engine.step()
        assert all(each.num_left > 4 for each in answering), "one of them could end, and another one begin"
        mark(f"begin four {lookup} {dtype}")
        engine.step()
        mark(f"end four {lookup} {dtype}")
        while engine.has_work:
            engine.step()
        mark(f"end company {lookup} {dtype}")
        found.append([sequence.answer_ids for sequence in sequences])
    return {"answers": found[0], "with lookup": found[1], "stored": len(stored), "copied": len(copied)}


def noting(method, calls: list):
    """Return a method that notes its calls."""

    def noted(*arguments):
        calls.append(arguments)
        return method(*arguments)

    return noted


def _conversation(text: str):
    from paddlemix.conversation.messages import Conversation, Message

    return Conversation([Message.typed(text)])


def main() -> None:
    folder = Path(sys.argv[1])
    widen_heads()
    mark_custom_operations()
    for task in sys.argv[2:]:
        name, *arguments = task.split(":")
        result = train(folder, *arguments) if name == "train" else {"chat": chat, "company": company}[name](*arguments)
        print(json.dumps({task: result}), flush=True)


if __name__ == "__main__":
    main()

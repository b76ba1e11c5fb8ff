"""Ask a model the held-out questions and print how many answers are correct, by kind."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from paddlemix.conversation.messages import Conversation, Message
from paddlemix.device import prepare_environment
from paddlemix.examples.llava.tiny.score import score, table
from paddlemix.output import replacing


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-path", type=Path, required=True, help="model folder")
    parser.add_argument("--data", type=Path, required=True, help="folder that make_data.py wrote")
    parser.add_argument("--output", type=Path, help="JSONL file for the answers")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-rows", type=int, default=None, help="number of questions (default: all)")
    arguments = parser.parse_args(argv)
    rows = [json.loads(line) for line in (arguments.data / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = rows[: arguments.max_rows]
    answered = list(answer(arguments.model_path, arguments.data, rows, arguments.batch_size))
    if arguments.output:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answered)
        with replacing(arguments.output) as file:
            file.write(text.encode())
    num_images = len({row["image"] for row in rows} - {None})
    print(f"{arguments.model_path}: {len(rows)} questions about {num_images} held-out images")
    print(table(score(answered)))


def answer(model_path: Path, data: Path, rows: list[dict], batch_size: int) -> Iterator[dict]:
    """Yield each row with the model's greedy answer."""
    prepare_environment("cpu")
    from paddlemix import LlavaForConditionalGeneration, LlavaProcessor, SamplingParams

    model = LlavaForConditionalGeneration.from_pretrained(model_path)
    processor = LlavaProcessor.from_pretrained(model_path)
    sampling = SamplingParams(max_new_tokens=80)
    for start in tqdm(range(0, len(rows), batch_size), desc="asking"):
        part = rows[start : start + batch_size]
        batch = processor.collate([processor.encode(_conversation(row), folders=[str(data)]) for row in part])
        for row, token_ids in zip(part, model.generate(batch, sampling), strict=True):
            yield {**row, "answer": processor.decode(token_ids)}


def _conversation(row: dict) -> Conversation:
    images = [row["image"]] if row["image"] else []
    return Conversation([Message.typed(row["question"], len(images))], images)


if __name__ == "__main__":
    main()

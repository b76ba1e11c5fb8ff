"""Train the tiny model's SentencePiece vocabulary on generated texts, with LLaMA's settings."""

from __future__ import annotations

import argparse
import io
import random
import string
from collections.abc import Iterable, Iterator
from pathlib import Path

from paddlemix.conversation.templates import get_template
from paddlemix.examples.llava.tiny.questions import ask_all, caption, text_only
from paddlemix.examples.llava.tiny.shapes import random_scene
from paddlemix.output import replacing, write_json

SYSTEM_TEXT = get_template("vicuna_v1").system
NUM_SCENES = 2000
VOCAB_SIZE = 768
SEED = 0
CONFIG = {
    "legacy": True,
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<unk>",
    "tokenizer_class": "LlamaTokenizer",
}


def texts(num_scenes: int = NUM_SCENES, seed: int = SEED) -> Iterator[str]:
    """Yield the texts of the model: prompts, questions, answers and captions of random scenes."""
    rng = random.Random(seed)
    for _ in range(num_scenes):
        scene = random_scene(rng)
        yield SYSTEM_TEXT
        yield caption(scene)
        for qa in ask_all(scene, rng) + rng.sample(text_only(), 2):
            yield f"USER: {qa.question} ASSISTANT: {qa.answer}"
            yield qa.question
            yield qa.answer


def train_model(sentences: Iterable[str], vocab_size: int = VOCAB_SIZE) -> bytes:
    """Train byte-pair encoding with byte fallback and LLaMA's ids (unk 0, bos 1, eos 2). Repeatable."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        required_chars=string.ascii_letters + string.digits + string.punctuation,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main(argv: list[str] | None = None) -> None:
    """Write tokenizer.model and tokenizer_config.json into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to, made if it is missing")
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE)
    arguments = parser.parse_args(argv)
    write_tokenizer(arguments.output, texts(), arguments.vocab_size)
    print(f"wrote {arguments.vocab_size} pieces to {arguments.output}")


def write_tokenizer(output: Path, sentences: Iterable[str], vocab_size: int) -> None:
    """Train on sentences and write tokenizer.model and tokenizer_config.json into a folder."""
    model = train_model(sentences, vocab_size)
    with replacing(output / "tokenizer.model") as file:
        file.write(model)
    write_json(output / "tokenizer_config.json", CONFIG)


if __name__ == "__main__":
    main()

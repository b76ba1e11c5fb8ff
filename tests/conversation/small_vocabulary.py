"""A LLaMA-type SentencePiece vocabulary, and transformers' LlamaTokenizer on the same folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import sentencepiece

WORDS = """A chat between a curious user and an artificial intelligence assistant. USER ASSISTANT Human Assistant system
The assistant gives helpful, detailed, and polite answers to the user's questions. INST SYS image caption question
What is in the picture? A red square and a blue circle. def print(hello): return world  Hello, who are you? I am 12 34
Renewable energy sources are those that can be replenished naturally. naïve café 你好 世界 图片 里 有 什么"""
CHAT_MARKS = ("<|im_start|>", "<|im_end|>")
MARKS = (*CHAT_MARKS, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>")
MARKS += ("<eoh>", "<eoa>", "<|begin_of_sentence|>", "<|end_of_sentence|>")
PHI_MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")  # separate, since they are text in Zephyr


def train_model(symbols: tuple[str, ...] = ()) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS.split("\n") * 2),
        model_writer=model,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        character_coverage=0.995,
        user_defined_symbols=list(symbols),
        minloglevel=2,
        num_threads=1,
    )
    return model.getvalue()


def write_folder(
    folder: Path,
    model: bytes,
    *,
    legacy: bool | None,
    vocabulary: str = "tokenizer.model",
    marks=MARKS,
    named=(),
    stripping=(),
) -> Path:
    """Write a tokenizer folder with chat marks behind the vocabulary.

    named: marks with a role. stripping: marks that swallow the white space after them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / vocabulary).write_bytes(model)
    size = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    flags = {"lstrip": False, "normalized": False, "single_word": False, "special": True}
    added = {}
    for index, text in enumerate(marks):
        added[str(size + index)] = {"content": text, "rstrip": text in stripping, **flags}
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    config |= {
        "added_tokens_decoder": added,
        "additional_special_tokens": list(named),
        "tokenizer_class": "LlamaTokenizer",
    }
    config |= {} if legacy is None else {"legacy": legacy}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def load_reference(folder: Path, legacy: bool):
    """Return transformers' slow tokenizer.

    For legacy = False it merges NormalizerSpec(add_dummy_prefix=False) into the model with protobuf classes that need a
    newer protobuf than paddle allows. Appending the encoded field is the same: protobuf merges what comes twice.
    """
    transformers = pytest.importorskip("transformers")

    class LlamaTokenizer(transformers.LlamaTokenizer):
        def get_spm_processor(self, from_slow=False):
            content = Path(self.vocab_file).read_bytes() + b"\x1a\x02\x18\x00"  # field 3 {field 3: 0}
            return sentencepiece.SentencePieceProcessor(model_proto=content)

    return (transformers.LlamaTokenizer if legacy else LlamaTokenizer).from_pretrained(folder)

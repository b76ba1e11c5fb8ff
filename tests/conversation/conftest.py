"""A LLaMA-type SentencePiece vocabulary, and transformers' LlamaTokenizer on the same folder."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import pytest
import sentencepiece

from paddlemix.conversation.tokenizer import load_tokenizer

WORDS = """A chat between a curious user and an artificial intelligence assistant. USER ASSISTANT Human Assistant system
The assistant gives helpful, detailed, and polite answers to the user's questions. INST SYS image caption question
What is in the picture? A red square and a blue circle. def print(hello): return world  Hello, who are you? I am 12 34
Renewable energy sources are those that can be replenished naturally. naïve café 你好 世界 图片 里 有 什么"""
CHAT_MARKS = ("<|im_start|>", "<|im_end|>")


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
    folder: Path, model: bytes, *, legacy: bool | None, vocabulary: str = "tokenizer.model", marks=CHAT_MARKS, named=()
) -> Path:
    """Write a tokenizer folder with ChatML marks behind the vocabulary; named: those with a role."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / vocabulary).write_bytes(model)
    size = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    added = {str(size + index): {"content": text, **flags} for index, text in enumerate(marks)}
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


@pytest.fixture(scope="session")
def model() -> bytes:
    return train_model()


@pytest.fixture(scope="session", params=["trained", "mistral"])
def any_model(request, model) -> bytes:
    """The small vocabulary, and a released one of 32,000 pieces where the package that carries it is installed."""
    if request.param == "trained":
        return model
    package = importlib.util.find_spec("mistral_common")
    if package is None:
        pytest.skip("a real vocabulary: pip install --no-deps mistral-common")
    return Path(package.submodule_search_locations[0], "data", "tokenizer.model.v1").read_bytes()


@pytest.fixture(scope="session", params=[True, False], ids=["legacy", "not-legacy"])
def pair(request, any_model, tmp_path_factory):
    """Our tokenizer and transformers' on one folder."""
    folder = write_folder(tmp_path_factory.mktemp("pair"), any_model, legacy=request.param)
    return load_tokenizer(folder), load_reference(folder, request.param)


@pytest.fixture(scope="session")
def legacy_pair(any_model, tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("pair"), any_model, legacy=True)
    return load_tokenizer(folder), load_reference(folder, True)


@pytest.fixture(scope="session", params=["named", "symbol"])
def marks(request, model) -> dict:
    """Other ways to declare ChatML marks: with a role, or <|im_start|> as a symbol of the model itself, as in Yi."""
    if request.param == "named":
        return {"model": model, "named": CHAT_MARKS}
    return {"model": train_model(CHAT_MARKS[:1]), "marks": CHAT_MARKS[1:]}


@pytest.fixture(scope="session", params=[True, False], ids=["legacy", "not-legacy"])
def marks_pair(request, marks, tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("marks"), legacy=request.param, **marks)
    return load_tokenizer(folder), load_reference(folder, request.param)


@pytest.fixture(scope="session")
def legacy_folder(model, tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("legacy"), model, legacy=True)


@pytest.fixture(scope="session")
def tokenizer(legacy_folder):
    return load_tokenizer(legacy_folder)


@pytest.fixture
def write_tokenizer(model):
    """Return a function that writes a tokenizer folder."""
    return lambda folder, **options: write_folder(folder, model, **options)

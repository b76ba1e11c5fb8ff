"""Small tokenizers of the kinds that folders have, with added tokens; and how a written one is compared."""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.tokenizer import Tokenizer

LINES = ["What colour is shape 3?", "It is red. A blue circle", "def f(x): return x", "naïve café 你好"] * 8
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
NEW = {"<|reserved|>": {"special": True}, "<tool_call>": {}, "</tool_call>": {}, "qzx": {}, "<r>": {"rstrip": True}}
TEXTS = (
    "What colour is shape 3?",
    "It is  red,\n\n naïve 你好 🙂",
    "a<tool_call>hello</tool_call>b",
    "a qzx, b<r>  c",
    "<tool_call>",
)
KINDS = ("byte-level", "byte-level-space", "llama", "sentencepiece", "sentencepiece-not-legacy", "gemma")


def write_folder(folder: Path, kind: str) -> Path:
    """Write a tokenizer folder of a kind, stated as different versions of transformers do."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "gemma" or kind.startswith("sentencepiece"):
        (folder / "tokenizer.model").write_bytes(_model(kind != "gemma"))
        name = "GemmaTokenizer" if kind == "gemma" else "LlamaTokenizer"
        first = {"tokenizer_class": name, "legacy": kind != "sentencepiece-not-legacy", "model_max_length": 2048}
        added = {
            str(300 + place): {"content": text, **FLAGS, **flags} for place, (text, flags) in enumerate(NEW.items())
        }
        settings = {**first, "added_tokens_decoder": added}
    else:
        spec = _llama() if kind == "llama" else _byte_level(kind.endswith("space"))
        first = max(spec["model"]["vocab"].values()) + 1
        new = [{"id": first + n, "content": text, **FLAGS, **flags} for n, (text, flags) in enumerate(NEW.items())]
        # Not in their order and with a gap, which the library would number anew.
        new[-1]["id"] += 2
        spec["added_tokens"] = [*new[::-1], *spec["added_tokens"]]
        (folder / "tokenizer.json").write_text(json.dumps(spec))
        settings = {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "is_local": True}
        settings |= {"extra_special_tokens": ["<|reserved|>"], "add_bos_token": kind == "llama"}
    names = {"bos_token": "<s>", "eos_token": {"content": "</s>", **FLAGS}, "unk_token": "<unk>", "pad_token": "<nope>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, **settings}))
    return folder


def check_same(reference, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Assert that a tokenizer of transformers has our ids, for tokens and for texts."""
    ids = {text: reference.convert_tokens_to_ids(text) for text in tokenizer.specials}
    assert ids == tokenizer.specials
    assert len(reference) == vocab_size
    start = [tokenizer.bos_id] if tokenizer.add_bos else []
    for text in TEXTS:
        if not (text.startswith("<") and tokenizer.has_text_prefix):  # where the slow and the fast class differ
            assert reference(text)["input_ids"] == start + tokenizer.encode(text, is_start=True), text


def check_written(reference, folder: Path, source: Tokenizer, num_new: int) -> None:
    """Assert the same of a folder that was written; num_new: tokens that were added to the source's."""
    written = load_tokenizer(folder)
    assert source.specials.items() <= written.specials.items()
    assert written.vocab_size == source.vocab_size + num_new and written.add_bos == source.add_bos
    check_same(reference, written, written.vocab_size)


def _model(has_prefix: bool) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        add_dummy_prefix=has_prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
    )
    content = model.getvalue()
    assert sentencepiece.SentencePieceProcessor(model_proto=content).get_piece_size() == 300
    return content


def _byte_level(adds_space: bool) -> dict:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds_space)
    tokenizer.decoder, tokenizer.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return json.loads(tokenizer.to_str())


def _llama() -> dict:
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator([word for line in LINES for word in line.split()], trainer)
    spec = json.loads(tokenizer.to_str())
    return {**spec, "added_tokens": spec["added_tokens"][:3]}

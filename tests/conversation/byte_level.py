"""Small byte-level tokenizer.json files like those of released models, and texts that are hard to tokenize."""

from __future__ import annotations

import json
import random
from pathlib import Path

import tokenizers
from small_vocabulary import WORDS
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

# How the released files split a text into words: the two differ in how many digits stay together.
WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = {
    "llama_3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen_2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "mpt": ["<|endoftext|>", "<|padding|>", "<|im_start|>", "<|im_end|>"],
}
NAMES = {
    "llama_3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen_2": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "mpt": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
}
LINES = [*WORDS.split("\n"), "Привет, мир! Как дела?", "こんにちは 世界", "안녕하세요", "مرحبا بالعالم", "नमस्ते", "สวัสดี"]
LINES += [
    "for i in range(10):\n    if x != y:\n        return {'a': [1, 2]}\n\n",
    "\t\tint main(void) { }\r\n",
    "😀👍🏽 it's I'LL",
]
FRAGMENTS = [
    *(word for line in LINES for word in line.split()),
    *(
        "naïve",
        "nai\u0308ve",
        "Å",
        "A\u030a",
        "ﬁ",
        "①",
        "½",
        "Ⅷ",
        "١٢٣",
        "１２３",
        "12345678",
        "3.14",
        "1e-5",
        "ß",
        "İ",
        "ǆ",
    ),
    *("😀", "👩‍👩‍👧", "🇨🇳", "👍🏽", "\u200b", "\u200d", "\ufeff", "\u00a0", "\u2028", "\u3000", "\ufffd", "\U0010fffd"),
    *("\x00", "\x01", "\x07", "\x1b[0m", "\x7f", "\x85", "\t", "\n", "\r\n", "\r", "\n\n\n", "\v", "\f"),
    *(
        " ",
        "  ",
        " " * 7,
        " " * 16,
        " " * 33,
        "\t" * 5,
        " \n ",
        "▁",
        "Ġ",
        "Ċ",
        "'s",
        "'LL",
        "n't",
        "’s",
        "--",
        "...",
        "!!!",
    ),
    *(
        "def f(x):",
        "    return x",
        "{",
        "}",
        "=>",
        "//",
        "/*",
        "*/",
        "<div>",
        "</div>",
        "&amp;",
        "\\n",
        "$",
        "`",
        '"""',
    ),
    *(
        "<s>",
        "</s>",
        "<unk>",
        "<image>",
        "[INST]",
        "<0x0A>",
        "<|",
        "|>",
        "<|im_",
        "im_end|>",
        "<| im_end |>",
        "<|eot_id",
        "<|a|>",
    ),
    *sorted({token for named in SPECIALS.values() for token in named}),
]


def train(kind: str) -> dict:
    """Return the contents of a tokenizer.json of a kind, its special tokens where the released files have them.

    They stand behind the vocabulary, but GPT-NeoX's two, which MPT took over, at its start.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=kind == "llama_3"))
    if kind != "llama_3":
        tokenizer.normalizer = normalizers.NFC()
    if kind == "mpt":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        pattern = Regex(WORD.replace("DIGITS", r"\p{N}{1,3}" if kind == "llama_3" else r"\p{N}"))
        words = pre_tokenizers.Split(pattern, "isolated")
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    first = SPECIALS[kind][:2] if kind == "mpt" else []
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(LINES * 3, trainer)
    if kind == "mpt":  # as in GPT-NeoX: runs of spaces are tokens, but not special
        tokenizer.add_tokens([AddedToken(" " * length, normalized=True) for length in range(24, 1, -1)])
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIALS[kind]])
    as_bytes = processors.ByteLevel(trim_offsets=False)
    if kind == "llama_3":
        bos = "<|begin_of_text|>"
        start = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", [(bos, tokenizer.token_to_id(bos))])
        tokenizer.post_processor = processors.Sequence([as_bytes, start])
    else:
        tokenizer.post_processor = as_bytes
    return json.loads(tokenizer.to_str())


def write_folder(folder: Path, kind: str) -> Path:
    """Write a tokenizer folder of a kind; Qwen2 has no BOS, which it states with null."""
    (folder / "tokenizer.json").write_text(json.dumps(train(kind)), encoding="utf-8")
    config = {"bos_token": None, "tokenizer_class": "PreTrainedTokenizerFast", **NAMES[kind]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def hard_texts(num_texts: int) -> list[str]:
    """Return many texts, the same ones each time: fragments with and without spaces between, and any characters."""
    rng = random.Random(20)
    texts = dict.fromkeys(FRAGMENTS)
    while len(texts) < num_texts:
        parts = rng.choices(FRAGMENTS, k=rng.randrange(2, 14))
        if rng.random() < 0.3:
            parts += [chr(rng.choice((rng.randrange(0x300), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))))]
            rng.shuffle(parts)
        texts[rng.choice(("", "", " ")).join(parts)] = None
    return list(texts)

"""tokenizer.json, byte-level and LLaMA-type, compared with transformers' fast tokenizer."""

from __future__ import annotations

import json
import pickle

import official
import pytest
import tokenizers
from small_vocabulary import CHAT_MARKS, WORDS
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.render import render
from paddlemix.conversation.templates import get_template
from paddlemix.conversation.tokenize import tokenize

NAMES = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ROUNDS = [("<image>\nHello, who  are you?", "I am naïve 😀.\n"), ("and </ s> this", "你好")]


def train_byte_level(adds_space: bool) -> dict:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*NAMES, *CHAT_MARKS], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(WORDS.split("\n"), trainer)
    return json.loads(tokenizer.to_str())


def train_llama(kind: str) -> dict:
    """Return a LLaMA-type file that adds a space in a normalizer (older files) or a pre-tokenizer (newer ones)."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if kind == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    words = [word for line in WORDS.split("\n") for word in line.split()]
    trainer = trainers.BpeTrainer(vocab_size=520, special_tokens=[*NAMES, *BYTES], limit_alphabet=60)
    tokenizer.train_from_iterator(words, trainer)
    spec = json.loads(tokenizer.to_str())
    size = max(spec["model"]["vocab"].values()) + 1
    spec["added_tokens"] = spec["added_tokens"][: len(NAMES)]
    like = spec["added_tokens"][0]
    spec["added_tokens"] += [dict(like, id=size + i, content=mark) for i, mark in enumerate(CHAT_MARKS)]
    return spec


KINDS = {
    "byte-level": lambda: train_byte_level(False),
    "byte-level-space": lambda: train_byte_level(True),
    "llama-prepend": lambda: train_llama("prepend"),
    "llama-always": lambda: train_llama("always"),
    "llama-first": lambda: train_llama("first"),
}


def write(folder, spec, **config):
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "add_bos_token": True, **config}))
    return folder


@pytest.fixture(scope="module", params=KINDS)
def fast_pair(request, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = write(tmp_path_factory.mktemp("fast"), KINDS[request.param]())
    # transformers overrides the file's add_prefix_space with its own argument, False by default.
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_prefix_space": "space" in request.param,
    }
    file = str(folder / "tokenizer.json")
    return load_tokenizer(folder), transformers.PreTrainedTokenizerFast(tokenizer_file=file, **names)


@pytest.mark.parametrize("name", ["vicuna_v1", "chatml_direct", "llama_2"])
def test_ids_equal_transformers_on_the_rendered_text(name, fast_pair):
    tokenizer, reference = fast_pair
    template = get_template(name)
    messages = []
    for question, answer in ROUNDS:
        messages += [Message("user", question), Message("assistant", answer)]
    ids, _ = tokenize(render(Conversation(messages), template), tokenizer, [1])
    prompt = official.STYLES[name][0](template.system, ROUNDS, None)
    assert ids == official.chunk_ids(reference, prompt)
    assert tokenizer.decode(ids, skip_special=False) == "<s>" + prompt


def test_special_tokens_in_text_stay_text(fast_pair):
    tokenizer, _ = fast_pair
    text = "a </s><|im_end|> <s>b<unk>"
    ids = tokenizer.encode(text, is_start=True)
    assert not set(ids) & set(tokenizer.specials.values())
    assert tokenizer.decode(ids) == text


def test_decoding_equals_transformers(fast_pair):
    tokenizer, reference = fast_pair
    for text in ("Hello, who are you?", "naïve 你好 😀\n x"):
        ids = tokenizer.encode(text, is_start=True)
        assert tokenizer.decode([*ids, tokenizer.eos_id]).strip() == reference.decode(ids).strip()


def test_merge_to_a_special_token_is_not_used(tmp_path):
    spec = train_llama("prepend")
    vocabulary = spec["model"]["vocab"]
    for piece in ("</", "s>", "/", "<", ">"):
        vocabulary.setdefault(piece, len(vocabulary) + 10)
    spec["model"]["merges"] = [["<", "/"], ["s", ">"], ["</", "s>"], *spec["model"]["merges"]]
    ids = load_tokenizer(write(tmp_path, spec)).encode("</s>", is_start=False)
    assert ids == [vocabulary["</"], vocabulary["s>"]]


def test_bos_follows_the_file_without_a_setting(tmp_path):
    spec = train_byte_level(False)
    path = write(tmp_path, spec)
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    assert not load_tokenizer(path).add_bos
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    step = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
    (path / "tokenizer.json").write_text(json.dumps(spec | {"post_processor": step}))
    assert load_tokenizer(path).add_bos


def test_pickled_and_saved_tokenizers_are_the_same(fast_pair, tmp_path):
    tokenizer, _ = fast_pair
    tokenizer.save(tmp_path)
    for other in (pickle.loads(pickle.dumps(tokenizer)), load_tokenizer(tmp_path)):
        for is_start in (True, False):
            text = "Hello, who are you? 你好"
            assert other.encode(text, is_start=is_start) == tokenizer.encode(text, is_start=is_start)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "holds a JSON list, expected an object"),
        ('{"model": {"type": "Odd"}}', "is not a tokenizer file"),
    ],
)
def test_broken_file_is_refused(content, message, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=rf"tokenizer\.json in {tmp_path} {message}"):
        load_tokenizer(tmp_path)


def test_missing_end_token_is_refused(tmp_path):
    with pytest.raises(ValueError, match="its eos_token '<end>' is not in the vocabulary"):
        load_tokenizer(write(tmp_path, train_byte_level(False), eos_token="<end>"))

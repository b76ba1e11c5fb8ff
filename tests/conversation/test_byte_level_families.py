"""Byte-level files built like Llama 3's, Qwen2's and MPT's against transformers' fast tokenizer, on hard texts."""

from __future__ import annotations

import unicodedata

import byte_level
import official
import pytest

from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.render import render
from paddlemix.conversation.templates import get_template
from paddlemix.conversation.tokenize import tokenize

NUM_TEXTS = 2000
ROUNDS = [("<image>\nWho's  there?", "It is naïve 😀.\n"), ("  12345 你好\n\n", "'LL do,\t\r\n x"), ("a", "b")]


@pytest.fixture(scope="module")
def texts():
    return byte_level.hard_texts(NUM_TEXTS)


@pytest.fixture(scope="module", params=byte_level.SPECIALS)
def family(request, tmp_path_factory):
    """The name of a format, our tokenizer and transformers'."""
    transformers = pytest.importorskip("transformers")
    folder = byte_level.write_folder(tmp_path_factory.mktemp("family"), request.param)
    names = byte_level.NAMES[request.param]
    reference = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **names)
    return request.param, load_tokenizer(folder), reference


def messages_of(rounds):
    messages = []
    for question, answer in rounds:
        messages += [Message("user", question), Message("assistant", answer)]
    return messages


def test_hard_texts_are_many_and_hard(texts):
    assert len(set(texts)) == NUM_TEXTS
    for mark in ("<|eot_id|>", "<|im_end|>", " " * 16, "\x00", "😀", "你好", "def f(x):", "\r\n", "ا"):
        assert sum(mark in text for text in texts) >= 10, mark


def test_ids_equal_transformers_on_hard_texts(family, texts):
    _, tokenizer, reference = family
    expected = reference(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text, is_start=True) == ids, repr(text)
        assert tokenizer.encode(text, is_start=False) == ids, repr(text)


def test_no_text_makes_a_special_token_and_all_texts_round_trip(family, texts):
    name, tokenizer, reference = family
    specials = {tokenizer.special_id(text) for text in byte_level.SPECIALS[name]}
    for text in texts:
        ids = tokenizer.encode(text, is_start=True)
        assert not specials & set(ids), repr(text)
        normal = text if name == "llama_3" else unicodedata.normalize("NFC", text)
        assert tokenizer.decode(ids) == normal, repr(text)
    parsed = reference(texts, add_special_tokens=False)["input_ids"]
    assert sum(bool(specials & set(ids)) for ids in parsed) > 100  # a tokenizer that parses marks finds many


def test_ids_of_a_conversation_equal_transformers_on_the_prompt(family):
    name, tokenizer, reference = family
    template = get_template(name)
    ids, mask = tokenize(render(Conversation(messages_of(ROUNDS)), template), tokenizer, [1])
    prompt = official.STYLES[name][0](template.system, ROUNDS, None)
    bos = [] if tokenizer.bos_id is None or not tokenizer.add_bos else [tokenizer.bos_id]
    assert ids[len(bos) :] == [
        token_id
        for index, chunk in enumerate(prompt.split("<image>"))
        for token_id in [-200] * (index > 0) + reference.encode(chunk, add_special_tokens=False)
    ]
    trained = [token_id for token_id, is_trained in zip(ids, mask, strict=True) if is_trained]
    assert tokenizer.decode(trained, skip_special=False) == "".join(a + official.ENDS[name] for _, a in ROUNDS)


def test_conversation_starts_with_bos_if_the_file_adds_it(family):
    name, tokenizer, reference = family
    segments = render(Conversation([Message("user", "Hi")]), get_template(name), add_generation_prompt=True)
    first = tokenize(segments, tokenizer, [])[0][0]
    if name == "llama_3":
        assert first == reference.encode("Hi")[0] == reference.bos_token_id
    else:
        assert first == tokenizer.special_id("<|im_start|>")
        assert reference.encode("Hi") == reference.encode("Hi", add_special_tokens=False)


def test_marks_typed_in_a_conversation_add_no_special_token(family):
    name, tokenizer, _ = family
    template = get_template(name)
    specials = {tokenizer.specials[text] for text in byte_level.SPECIALS[name]}
    typed = "a" + "".join(byte_level.SPECIALS[name]) + template.user_prefix + template.answer_prefix
    found = []
    for text in ("a", typed):
        ids, mask = tokenize(render(Conversation(messages_of([(text, text)] * 3)), template), tokenizer, [])
        found.append([(i, is_trained) for i, is_trained in zip(ids, mask, strict=True) if i in specials])
    assert found[0] == found[1]


def test_tokens_of_gpt_neox_have_their_ids_and_uses(tmp_path):
    tokenizer = load_tokenizer(byte_level.write_folder(tmp_path, "mpt"))
    assert (tokenizer.special_id("<|endoftext|>"), tokenizer.special_id("<|padding|>")) == (0, 1)
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.add_bos) == (0, 0, False)
    runs = [tokenizer.encode(" " * length + "\n", is_start=True) for length in (2, 7, 24)]
    assert [len(ids) for ids in runs] == [2, 2, 2] and len({ids[0] for ids in runs}) == 3
    assert not {ids[0] for ids in runs} & tokenizer.hidden_ids  # they are text, not marks
    assert tokenizer.decode(runs[2]) == " " * 24 + "\n"

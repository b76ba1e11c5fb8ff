"""Streamed text against the text decoded at once."""

from __future__ import annotations

import io
import json
import random

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.generate.stream import StreamDecoder

LINES = ["Hello, who are you? A red square ### and a blue circle", "naïve café 你好 世界", "USER: what ASSISTANT: this"]
STOPS = [(), ("###",), ("\n###", "USER:"), ("ab", "b", "xabc"), ("</s>", "你好")]
PARTS = ["#", "##", "###", "\n", " ", "USER", ":", "a", "b", "x", "c", "</s>", "你", "好", "😀", "Hello", "é", "  "]


def sentencepiece_folder(folder):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=0.99,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def byte_level_folder(folder):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=["<end>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    return folder


@pytest.fixture(scope="module", params=[sentencepiece_folder, byte_level_folder], ids=["sentencepiece", "byte-level"])
def tokenizer(request, tmp_path_factory):
    return load_tokenizer(request.param(tmp_path_factory.mktemp("tokenizer")))


def cut(text, stops):
    """Return the text before the stop string that a reader of single characters would meet first."""
    for end in range(len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))]
    return text


def stream(tokenizer, ids, stops):
    decoder = StreamDecoder(tokenizer, stops)
    return [decoder.append(token_id) for token_id in ids] + [decoder.finish()], decoder


@pytest.mark.parametrize("stops", STOPS)
def test_streamed_text_equals_the_decoded_text(stops, tokenizer):
    rng = random.Random(0)
    for _ in range(100):
        text = "".join(rng.choices(PARTS, k=rng.randrange(1, 25)))
        ids = tokenizer.encode(text, is_start=rng.random() < 0.5)
        parts, decoder = stream(tokenizer, ids, stops)
        assert "".join(parts) == cut(tokenizer.decode(ids), stops).strip()
        assert decoder.is_stopped == any(stop in tokenizer.decode(ids) for stop in stops)


def test_random_ids_stream_to_the_decoded_text(tokenizer):
    rng = random.Random(1)
    for _ in range(100):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(30)]
        parts, _ = stream(tokenizer, ids, ())
        assert "".join(parts) == tokenizer.decode(ids).strip()


def test_character_of_several_tokens_comes_whole(tokenizer):
    ids = tokenizer.encode("a😀", is_start=False)
    parts, _ = stream(tokenizer, ids, ())
    assert len(ids) == 5 and parts == ["a", "", "", "", "😀", ""]


def test_broken_character_at_the_end_is_shown(tokenizer):
    parts, _ = stream(tokenizer, tokenizer.encode("a😀", is_start=False)[:-1], ())
    assert "".join(parts) == "a\N{REPLACEMENT CHARACTER}"


def test_start_of_a_stop_string_waits_until_it_is_none(tokenizer):
    decoder = StreamDecoder(tokenizer, ["###"])
    ids = [
        token_id
        for text in ("x", "#", "#", "b", "#", "#", "#", "x")
        for token_id in tokenizer.encode(text, is_start=False)
    ]
    assert [decoder.append(token_id) for token_id in ids] == ["x", "", "", "##b", "", "", "", ""]
    assert decoder.is_stopped and decoder.finish() == ""


def test_answer_loses_its_leading_space_and_special_tokens(tokenizer):
    ids = [*tokenizer.encode(" Hello", is_start=False), tokenizer.eos_id]
    parts, decoder = stream(tokenizer, ids, ())
    assert "".join(parts) == "Hello" and not decoder.is_stopped


def test_stop_strings_must_be_a_list_of_texts(tokenizer):
    for stops in ("###", [""]):
        with pytest.raises(ValueError, match="stop strings must be a list"):
            StreamDecoder(tokenizer, stops)


def test_text_that_continues_another_is_exact_at_both_ends(tokenizer):
    rng = random.Random(4)
    for _ in range(100):
        rest = "".join(rng.choices(PARTS, k=6))
        ids = tokenizer.encode(rest, is_start=False)
        decoder = StreamDecoder(tokenizer, is_continuing=True)
        text = "".join([decoder.append(token_id) for token_id in ids]) + decoder.finish()
        assert text == rest


def test_stop_string_cuts_a_text_that_continues_another_before_it_only(tokenizer):
    decoder = StreamDecoder(tokenizer, ["###"], is_continuing=True)
    text = "".join(map(decoder.append, tokenizer.encode(" \n b \n### c", is_start=False))) + decoder.finish()
    assert text == " \n b \n" and decoder.stop_string == "###"

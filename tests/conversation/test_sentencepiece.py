"""The SentencePiece tokenizer alone: files, special tokens, decoding."""

from __future__ import annotations

import io
import json
import pickle
import random

import pytest
import sentencepiece
from small_vocabulary import MARKS, WORDS, load_reference, train_model, write_folder

from paddlemix.conversation import sentencepiece_proto
from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.render import render
from paddlemix.conversation.templates import get_template
from paddlemix.conversation.tokenize import tokenize

TEXTS = [
    "Hello, who are you?",
    " two  spaces ",
    "\n\nnaïve 你好 😀",
    "\x00\x1f\t",
    "12 34 </s><unk>",
    "def f():\n    return 1",
]


@pytest.mark.parametrize("text", TEXTS)
def test_encoded_text_decodes_to_itself(text, pair):
    tokenizer = pair[0]
    for is_start in (True, False):
        ids = tokenizer.encode(text, is_start=is_start)
        assert tokenizer.decode(ids) == (text if is_start else text.removeprefix(" "))
        assert not set(ids) & set(tokenizer.specials.values())


def test_decoding_skips_special_tokens_like_transformers(pair):
    tokenizer, reference = pair
    rng = random.Random(0)
    for _ in range(50):
        words = rng.choices(["Hello", "who", "naïve", "你好", "12"], k=5)
        ids = [tokenizer.bos_id, *tokenizer.encode(" ".join(words), is_start=True), tokenizer.eos_id]
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert (
        tokenizer.decode([tokenizer.bos_id, -200, -200, tokenizer.eos_id], skip_special=False)
        == "<s><image><image></s>"
    )


def test_model_that_removes_spaces_still_has_transformers_ids(write_tokenizer, tmp_path):
    model = io.BytesIO()
    lines = iter(WORDS.split("\n"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, model_type="bpe", vocab_size=420, byte_fallback=True, minloglevel=2
    )
    folder = write_tokenizer(tmp_path, legacy=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer, reference = load_tokenizer(folder), load_reference(folder, True)
    ids = tokenizer.encode("USER: Hello ASSISTANT:", is_start=True) + tokenizer.encode(" A red square", is_start=False)
    assert ids == reference.encode("USER: Hello ASSISTANT: A red square", add_special_tokens=False)


@pytest.mark.parametrize(
    ("vocabulary", "legacy", "has_prefix"),
    [
        ("tokenizer.model", None, True),
        ("tokenizer.model", False, False),
        ("sentencepiece.bpe.model", False, True),
    ],
)
def test_legacy_is_the_default_and_always_true_for_paddlemix(vocabulary, legacy, has_prefix, write_tokenizer, tmp_path):
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, legacy=legacy, vocabulary=vocabulary))
    assert tokenizer.has_prefix_after(tokenizer.eos_id) is has_prefix


def test_facts_of_the_tokenizer(tokenizer, model):
    size = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.add_bos) == (1, 2, 0, True)
    assert tokenizer.vocab_size == size + len(MARKS) and tokenizer.special_id("<|im_end|>") == size + 1
    assert tokenizer.id_to_piece(size) == "<|im_start|>" and tokenizer.id_to_piece(2) == "</s>"


def test_missing_special_token_is_refused_with_the_list(tokenizer):
    with pytest.raises(ValueError, match=r"no special token '<\|eom_id\|>' \(it has <unk>, <s>, </s>, <\|im_start\|>"):
        tokenizer.special_id("<|eom_id|>")
    with pytest.raises(
        ValueError, match=rf"token id 9999 is outside the vocabulary .*\(0\.\.{tokenizer.vocab_size - 1}\)"
    ):
        tokenizer.decode([9999])
    with pytest.raises(ValueError, match="character 2 is half of a surrogate pair"):
        tokenizer.encode("ab\ud83d", is_start=True)


def test_added_tokens_and_map_without_a_config(model, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(model)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[PAD]": 500, "<tag>": 501}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "[PAD]"}}))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, tokenizer.special_id("<tag>"), tokenizer.vocab_size) == (500, 501, 502)
    expected = load_reference(tmp_path, True)("a <tag> b", add_special_tokens=False)["input_ids"]
    assert tokenizer.encode("a <tag> b", is_start=True) == expected and 501 in expected


def test_pickled_and_saved_tokenizers_are_the_same(tokenizer, legacy_folder, tmp_path):
    tokenizer.save(tmp_path / "new")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == sorted(path.name for path in legacy_folder.iterdir())
    for other in (pickle.loads(pickle.dumps(tokenizer)), load_tokenizer(tmp_path / "new")):
        assert other.specials == tokenizer.specials and other.add_bos == tokenizer.add_bos
        assert [other.encode(text, is_start=True) for text in TEXTS] == [
            tokenizer.encode(text, is_start=True) for text in TEXTS
        ]


def test_saving_beside_another_tokenizers_files_is_refused(tokenizer, tmp_path):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"has sentencepiece\.bpe\.model of another tokenizer"):
        tokenizer.save(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a\xff", None], ids=["empty", "text", "short", "cut"])
def test_broken_model_is_refused_with_its_folder(content, model, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(model[:1000] if content is None else content)
    with pytest.raises(ValueError, match=rf"tokenizer\.model in {tmp_path} .* is not a SentencePiece model"):
        load_tokenizer(tmp_path)


def test_missing_folder_or_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer folder not found: .*nowhere"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=rf"no tokenizer in {tmp_path}: expected one of sentencepiece\.bpe\.model"):
        load_tokenizer(tmp_path)


def test_broken_config_is_refused(write_tokenizer, tmp_path):
    folder = write_tokenizer(tmp_path, legacy=True)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json in .* is not valid JSON"):
        load_tokenizer(folder)


def test_protobuf_reads_the_edited_model(model):
    edited = sentencepiece_proto.with_control_pieces(sentencepiece_proto.with_dummy_prefix(model, False), [300])
    before, after = sentencepiece_proto.read_facts(model), sentencepiece_proto.read_facts(edited)
    assert (before.add_dummy_prefix, after.add_dummy_prefix) == (True, False)
    processor = sentencepiece.SentencePieceProcessor(model_proto=edited)
    assert processor.is_control(300) and not processor.is_control(299)
    assert [text for text, _ in after.pieces] == [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    assert processor.encode("Hello", out_type=str)[0][0] == "H"


@pytest.mark.parametrize("legacy", [True, False])
def test_internlm_ends_that_are_symbols_of_the_model_are_special(legacy, tmp_path):
    model = train_model(("<eoh>", "<eoa>"))
    tokenizer = load_tokenizer(write_folder(tmp_path, model, legacy=legacy, marks=()))
    messages = [Message("user", "Hello"), Message("assistant", "world"), Message("user", "<eoa> image?")]
    segments = render(Conversation(messages), get_template("internlm_chat"), add_generation_prompt=True)
    ids, _ = tokenize(segments, tokenizer, [])
    # InternLM's own tokenizer passes the whole prompt to the model, which would parse the typed <eoa> as an end.
    whole = sentencepiece.SentencePieceProcessor(model_proto=model)
    head, tail = "<|User|>:Hello<eoh>\n<|Bot|>:world<eoa>\n<|User|>:", " image?<eoh>\n<|Bot|>:"
    num_head, num_tail = len(whole.encode(head)), len(whole.encode("x" + tail)) - len(whole.encode("x"))
    assert ids[1 : num_head + 1] == whole.encode(head)
    assert ids[-num_tail:] == whole.encode("x" + tail)[-num_tail:]
    assert ids.count(tokenizer.special_id("<eoa>")) == 1
    assert tokenizer.decode(ids, skip_special=False) == "<s>" + head + "<eoa>" + tail

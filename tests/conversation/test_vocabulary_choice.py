"""The choice of the vocabulary file of a folder, and its settings."""

from __future__ import annotations

import json

import byte_level
import pytest
import sentencepiece
from small_vocabulary import load_reference, train_model, write_folder
from test_fast_tokenizer import train_llama

from paddlemix.checkpoints.layouts.hf_fast import fast_json
from paddlemix.conversation.fast_tokenizer import FastTokenizer
from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.sentencepiece_tokenizer import SentencePieceTokenizer
from paddlemix.conversation.tokenizer_files import ADDED_FILE, CONFIG_FILE, FAST_FILE, SENTENCEPIECE_FILE
from paddlemix.conversation.vocabulary_choice import read_files

LLAMA_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TIKTOKEN = b"IQ== 0\nIg== 1\nIw== 2\n"
DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
END = {"SpecialToken": {"id": "<|im_end|>"}}
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def write(folder, *, settings: dict, **files) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in {SENTENCEPIECE_FILE: files.get("model"), FAST_FILE: files.get("spec")}.items():
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    (folder / CONFIG_FILE).write_text(json.dumps(settings))


def own_json(model: bytes) -> dict:
    """Return the tokenizer.json of the same vocabulary."""
    return fast_json(
        model, is_legacy=True, has_prefix=True, bos="<s>", added={}, specials={"<unk>": 0, "<s>": 1, "</s>": 2}
    )


def test_invalid_sentencepiece_model_is_not_used_with_a_notice(tmp_path):
    for number, content in enumerate((TIKTOKEN, b"", b"no model at all")):
        folder = tmp_path / str(number)
        write(folder, model=content, spec=byte_level.train("llama_3"), settings=byte_level.NAMES["llama_3"])
        tokenizer = load_tokenizer(folder)
        reference = pytest.importorskip("transformers").PreTrainedTokenizerFast(tokenizer_file=str(folder / FAST_FILE))
        assert (
            tokenizer.encode("Hello 123", is_start=True) == reference("Hello 123", add_special_tokens=False).input_ids
        )
        notice = read_files(folder).notice
        assert "tokenizer.model in" in notice and "tokenizer.json is used" in notice
    assert "a list of byte pieces, the form of LLaMA 3's first release" in read_files(tmp_path / "0").notice


def test_model_with_another_vocabulary_is_not_used_with_a_notice(model, tmp_path):
    write(tmp_path, model=model, spec=train_llama("prepend"), settings=LLAMA_NAMES)
    assert isinstance(load_tokenizer(tmp_path), FastTokenizer)
    assert "tokenizer.model" in read_files(tmp_path).notice and "as id" in read_files(tmp_path).notice
    longer = own_json(model)
    longer["model"]["vocab"]["new piece"] = 500
    write(tmp_path, model=model, spec=longer, settings=LLAMA_NAMES)
    assert "ends at id 499, tokenizer.json at 500" in read_files(tmp_path).notice
    other = own_json(train_model(("<|im_start|>",)))
    write(tmp_path, model=model, spec=other, settings=LLAMA_NAMES)
    assert isinstance(load_tokenizer(tmp_path), FastTokenizer)


def test_model_is_used_if_both_agree_or_tokenizer_json_is_broken(model, tmp_path):
    write(tmp_path, model=model, spec=own_json(model), settings=LLAMA_NAMES)
    assert isinstance(load_tokenizer(tmp_path), SentencePieceTokenizer) and not read_files(tmp_path).notice
    for broken in (b"{", {"model": 5}, {"model": {"vocab": {"a": "b"}}}):
        write(tmp_path, model=model, spec=broken, settings=LLAMA_NAMES)
        assert isinstance(load_tokenizer(tmp_path), SentencePieceTokenizer)
        assert "tokenizer.model is used, since" in read_files(tmp_path).notice


def test_tiktoken_file_alone_is_refused_with_advice(tmp_path):
    write(tmp_path, model=TIKTOKEN, settings=LLAMA_NAMES)
    with pytest.raises(ValueError, match=r"LLaMA 3's first release: add its tokenizer\.json to"):
        load_tokenizer(tmp_path)


def test_tokens_that_only_tokenizer_json_has_are_added_to_the_model(model, tmp_path):
    spec = own_json(model)
    spec["added_tokens"] += [{"id": 500, "content": "<image>", **FLAGS, "special": True}]
    spec["added_tokens"] += [{"id": 501, "content": "<box>", **FLAGS}]
    write(tmp_path, model=model, spec=spec, settings={**LLAMA_NAMES, "backend": "tokenizers", "is_local": True})
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert (tokenizer.special_id("<image>"), tokenizer.vocab_size) == (500, 502)
    text = "a <box> b"
    assert (
        tokenizer.encode(text, is_start=True)
        == load_reference(tmp_path, True)(text, add_special_tokens=False).input_ids
    )
    assert 500 not in tokenizer.encode("<image>", is_start=True)
    tokenizer.save(tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").specials == tokenizer.specials
    assert FAST_FILE not in read_files(tmp_path / "copy").contents


def test_added_tokens_file_alone_has_ordinary_tokens_as_in_transformers(model, tmp_path):
    folder = write_folder(tmp_path, model, legacy=False, marks=())
    settings = json.loads((folder / CONFIG_FILE).read_text())
    del settings["added_tokens_decoder"]
    (folder / CONFIG_FILE).write_text(json.dumps({**settings, "additional_special_tokens": ["<hidden>"]}))
    (folder / ADDED_FILE).write_text(json.dumps({"<hidden>": 500, "<box>": 501, "<pad>": 502}))
    tokenizer, reference = load_tokenizer(folder), load_reference(folder, False)
    text = "one <box> two<box>"
    assert tokenizer.encode(text, is_start=True) == reference(text, add_special_tokens=False).input_ids
    assert not {500, 502} & set(tokenizer.encode("<hidden><pad>", is_start=True))
    (folder / CONFIG_FILE).write_text(json.dumps({**settings, "added_tokens_decoder": {"600": "<box>"}}))
    with pytest.raises(ValueError, match="gives '<box>' the id 501, added_tokens_decoder gives it 600"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("add_eos_token", True, "states add_eos_token True"),
        ("split_special_tokens", True, "states split_special_tokens True"),
        ("do_lower_case", True, "states do_lower_case True"),
        ("sp_model_kwargs", {"enable_sampling": True}, "states sp_model_kwargs"),
        ("fix_mistral_regex", True, "states fix_mistral_regex True"),
        ("frobnicate", 7, "states frobnicate 7, which this version does not know"),
        ("legacy", "no", "legacy is 'no', expected true or false, or null"),
        ("additional_special_tokens", "ab", "additional_special_tokens is 'ab', expected a list"),
        ("tokenizer_class", "XLMRobertaTokenizer", "whose ids differ from tokenizer.model"),
    ],
)
def test_unsupported_setting_that_changes_ids_is_refused_by_name(model, tmp_path, key, value, message):
    write(tmp_path, model=model, settings={**LLAMA_NAMES, key: value})
    with pytest.raises(ValueError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert CONFIG_FILE in str(caught.value)


@pytest.mark.parametrize(
    "stated",
    [
        {"clean_up_tokenization_spaces": True, "use_default_system_prompt": True, "model_max_length": 2048},
        {"backend": "tokenizers", "is_local": True, "model_specific_special_tokens": {"image_token": "</s>"}},
        {"extra_special_tokens": ["</s>"], "tokenizer_class": "TokenizersBackend", "add_eos_token": False},
        {"extra_special_tokens": {"image_token": "</s>"}, "image_token": "</s>", "chat_template": "{{ x }}"},
        {"do_lower_case": False, "sp_model_kwargs": {}, "add_eos_token": None, "split_special_tokens": False},
    ],
)
def test_setting_that_changes_no_id_is_accepted(model, tmp_path, stated):
    write(tmp_path, model=model, settings={**LLAMA_NAMES, **stated})
    expected = sentencepiece.SentencePieceProcessor(model_proto=model).encode("Hello, who are you?")
    assert load_tokenizer(tmp_path).encode("Hello, who are you?", is_start=True) == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("added_tokens", [{"id": 10**18, "content": "q"}], "id is 1000000000000000000, expected a whole number"),
        ("added_tokens", [{"id": 3, "content": "zzz"}], "both 'zzz' and"),
        ("model", {"type": "BPE", "vocab": {"a": "b"}, "merges": []}, "'a' has the id 'b'"),
        ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": [1]}, "is not a tokenizer file"),
        ("normalizer", {"type": "Sequence", "normalizers": 5}, "normalizers is 5, expected a list of steps"),
        ("normalizer", {"type": "Prepend", "prepend": "x" * 100}, "may make a text 100 times as long"),
        (
            "normalizer",
            {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 30,
            },
            "may make a text 1073741824 times as long",
        ),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}}, "repeats a repetition"),
        (
            "post_processor",
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_end|>"}}]},
            "to the end of every text",
        ),
    ],
)
def test_invalid_tokenizer_json_is_refused_in_one_line(tmp_path, key, value, message):
    write(tmp_path, spec={**byte_level.train("qwen_2"), key: value}, settings=byte_level.NAMES["qwen_2"])
    with pytest.raises(ValueError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_different_add_prefix_space_in_two_files_is_refused(tmp_path):
    spec = byte_level.train("mpt")
    write(tmp_path, spec=spec, settings={**byte_level.NAMES["mpt"], "add_prefix_space": True})
    with pytest.raises(ValueError, match="has add_prefix_space False, but the settings files have True"):
        load_tokenizer(tmp_path)
    write(tmp_path, spec=train_llama("prepend"), settings={**LLAMA_NAMES, "add_prefix_space": False})
    with pytest.raises(ValueError, match="has add_prefix_space True, but the settings files have False"):
        load_tokenizer(tmp_path)

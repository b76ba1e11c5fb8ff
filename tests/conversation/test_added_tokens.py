"""Added tokens: their ids are those of the file, and text has the ids of transformers' tokenizer."""

from __future__ import annotations

import json
import pickle

import byte_level
import pytest
import sentencepiece
from small_vocabulary import load_reference, train_model, write_folder
from test_fast_tokenizer import KINDS
from test_fast_tokenizer import write as write_fast

from paddlemix.conversation.load_tokenizer import load_tokenizer

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
# As in Qwen2.5 and LLaMA 3: ordinary tokens after special ones, and the reverse.
NEW = {
    "<|reserved_0|>": {"special": True},
    "<tool_call>": {},
    "</tool_call>": {},
    "<|reserved_1|>": {"special": True},
    "<|fim|>": {},
    "qzx": {"normalized": True},
    "<left>": {"lstrip": True},
    "<right>": {"rstrip": True},
    "wrd": {"single_word": True},
}
TEXTS = (
    "<tool_call>hello</tool_call>",
    "a <tool_call> b<tool_call>c",
    "qzx a qzx bqzx",
    "x  <left>  y  <right>  z<right>",
    "wrd awrd wrdb a wrd b",
    "<tool_call>wrd wrd<right>",
    "<|fim|>x  two",
)
LLAMA = ("llama-prepend", "llama-always", "llama-first")


def with_tokens(spec: dict) -> dict:
    first = max([*spec["model"]["vocab"].values(), *(token["id"] for token in spec["added_tokens"])]) + 1
    new = [{"id": first + place, "content": text, **FLAGS, **NEW[text]} for place, text in enumerate(NEW)]
    return {**spec, "added_tokens": [*spec["added_tokens"], *new]}


@pytest.fixture(scope="module", params=[*byte_level.SPECIALS, *KINDS])
def fast_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("added")
    if request.param in KINDS:
        space = {"add_prefix_space": True} if request.param == "byte-level-space" else {}
        return write_fast(
            folder, with_tokens(KINDS[request.param]()), tokenizer_class="PreTrainedTokenizerFast", **space
        )
    byte_level.write_folder(folder, request.param)
    (folder / "tokenizer.json").write_text(json.dumps(with_tokens(byte_level.train(request.param))))
    return folder


def test_ids_of_text_with_added_tokens_equal_transformers(fast_folder):
    reference = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(fast_folder)
    tokenizer = load_tokenizer(fast_folder)
    assert {text: tokenizer.specials[text] for text in NEW} == dict(
        zip(NEW, reference.convert_tokens_to_ids(list(NEW)), strict=True)
    )
    for text in TEXTS:
        expected = reference(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text, is_start=True) == expected, text
        assert pickle.loads(pickle.dumps(tokenizer)).encode(text, is_start=True) == expected


def test_continued_text_has_the_ids_that_it_has_after_other_text(fast_folder):
    tokenizer = load_tokenizer(fast_folder)
    for text in TEXTS[:3]:
        whole = tokenizer.encode("!" + text, is_start=True)
        assert whole == tokenizer.encode("!", is_start=True) + tokenizer.encode(text, is_start=False), text


@pytest.mark.parametrize("kind", ["qwen_2", "llama_3", *LLAMA])
def test_ids_equal_those_of_the_file_in_any_order_and_with_gaps(kind, tmp_path):
    spec = with_tokens(KINDS[kind]() if kind in LLAMA else byte_level.train(kind))
    stated = {token["content"]: token["id"] for token in spec["added_tokens"]}
    for place, token in enumerate(spec["added_tokens"]):
        if token["content"] in NEW:
            token["id"] = stated[token["content"]] + 10 + place % 3 * 20
    spec["added_tokens"].reverse()
    names = byte_level.NAMES.get(kind, {})
    tokenizer = load_tokenizer(write_fast(tmp_path, spec, **{"add_bos_token": False, **names}))
    ids = {token["content"]: token["id"] for token in spec["added_tokens"]}
    assert {text: tokenizer.specials[text] for text in ids} == ids
    text = "<tool_call>hello</tool_call><|fim|>"
    found = tokenizer.encode(text, is_start=True)
    assert [one for one in found if one in ids.values()] == [ids[t] for t in ("<tool_call>", "</tool_call>", "<|fim|>")]
    assert tokenizer.decode(found).replace(" ", "") == text and tokenizer.vocab_size == max(ids.values()) + 1
    hidden = "".join(text for text in ids if ids[text] in tokenizer.hidden_ids)
    assert not tokenizer.hidden_ids & set(tokenizer.encode(hidden, is_start=True))


def test_typed_text_never_becomes_a_special_token_of_the_vocabulary_itself(tmp_path):
    spec = byte_level.train("llama_3")  # a word in the vocabulary is used without merges
    spec["model"]["vocab"]["stop"] = 5000
    spec["model"]["vocab"]["</s>"] = 5001
    folder = write_fast(tmp_path, spec, **byte_level.NAMES["llama_3"], additional_special_tokens=["stop"])
    tokenizer = load_tokenizer(folder)
    assert tokenizer.specials["stop"] == 5000
    assert not {5000, 5001} & {*tokenizer.encode("stop", is_start=True), *tokenizer.encode("</s>", is_start=True)}


@pytest.mark.parametrize("legacy", [True, False])
def test_slow_tokenizer_is_the_reference_for_a_sentencepiece_model(model, tmp_path, legacy):
    folder = write_folder(tmp_path, model, legacy=legacy, marks=())
    path = folder / "tokenizer_config.json"
    added = {str(500 + place): {"content": text, **FLAGS, **NEW[text]} for place, text in enumerate(NEW)}
    path.write_text(json.dumps({**json.loads(path.read_text()), "added_tokens_decoder": added}))
    tokenizer, reference = load_tokenizer(folder), load_reference(folder, legacy)
    for text in TEXTS:
        expected = reference(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text, is_start=True) == expected, text
    assert not {500, 503} & set(tokenizer.encode("<|reserved_0|> <|reserved_1|>", is_start=True))


@pytest.mark.parametrize("legacy", [True, False])
def test_adjacent_word_and_stripping_tokens_lose_no_text(model, tmp_path, legacy):
    folder = write_folder(tmp_path, model, legacy=legacy, marks=())
    path = folder / "tokenizer_config.json"
    new = {"qzx": {"single_word": True}, "<w>": {"single_word": True}, "<lr>": {"lstrip": True, "rstrip": True}}
    added = {str(500 + place): {"content": text, **FLAGS, **new[text]} for place, text in enumerate(new)}
    path.write_text(json.dumps({**json.loads(path.read_text()), "added_tokens_decoder": added}))
    tokenizer, reference = load_tokenizer(folder), load_reference(folder, legacy)
    for text in ("a qzxqzx.", "qzxqzxqzx.", "a qzx<lr>\nb", "<w>qzx", "qzx <w>", "a <lr> qzx<w> b", "qzx qzxb qzx"):
        assert tokenizer.encode(text, is_start=True) == reference(text, add_special_tokens=False)["input_ids"], text


@pytest.mark.parametrize("legacy", [True, False])
def test_pieces_of_the_model_that_a_folder_also_lists_are_found_and_decoded_as_before(tmp_path, legacy):
    """Runs of spaces, as in Gemma 2's settings: user-defined pieces, spelled with the model's own space."""
    runs = ("\u2581\u2581", "\u2581\u2581\u2581")
    folder = write_folder(tmp_path, train_model(runs), legacy=legacy, marks=())
    plain = load_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    added = {str(plain.specials[text] if text in plain.specials else ids_of(folder)[text]): text for text in runs}
    added = {number: {"content": text, **FLAGS} for number, text in added.items()}
    path.write_text(json.dumps({**json.loads(path.read_text()), "added_tokens_decoder": added}))
    tokenizer, reference = load_tokenizer(folder), load_reference(folder, legacy)
    for text in ("a  b", "red\n   square", "two  and   three"):
        expected = reference(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text, is_start=True) == expected == plain.encode(text, is_start=True), text
        assert set(map(str, expected)) & added.keys()
        assert tokenizer.decode(expected) == text


def ids_of(folder) -> dict[str, int]:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return {processor.id_to_piece(number): number for number in range(processor.get_piece_size())}


def test_marks_of_the_formats_stay_text_even_if_a_folder_calls_them_ordinary(model, tmp_path):
    folder = write_folder(tmp_path, model, legacy=True, marks=())
    path = folder / "tokenizer_config.json"
    added = {"500": {"content": "<|im_start|>", **FLAGS}, "501": {"content": "<image>", **FLAGS}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "added_tokens_decoder": added}))
    tokenizer = load_tokenizer(folder)
    assert not {500, 501} & set(tokenizer.encode("<|im_start|>user\n<image>", is_start=True))
    assert tokenizer.special_id("<|im_start|>") == 500


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ([], "added_tokens_decoder is \\[\\], expected an object"),
        ({"5": 7}, "has 7: expected a string or an object"),
        ({"-1": "x"}, "token 'x': id is '-1', expected a whole number from 0 to"),
        ({str(10**18): "x"}, "token 'x': id is '1000000000000000000', expected"),
        ({"700": {"content": "x", "special": "yes"}}, "special is 'yes', expected true or false"),
        ({"700": "x", "701": "x"}, "has a token twice"),
        ({"700": "x", "0700": "y"}, "both 'y' and 'x' have the id 700"),
    ],
)
def test_broken_lists_are_refused_in_one_line(model, tmp_path, added, message):
    folder = write_folder(tmp_path, model, legacy=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "added_tokens_decoder": added}))
    with pytest.raises(ValueError, match=message) as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_files_that_disagree_on_an_id_are_refused(tmp_path):
    spec = with_tokens(byte_level.train("qwen_2"))
    added = {"900": {"content": "<tool_call>", **FLAGS}}
    folder = write_fast(tmp_path, spec, **byte_level.NAMES["qwen_2"], added_tokens_decoder=added, add_bos_token=False)
    with pytest.raises(ValueError, match=r"gives the token '<tool_call>' the id \d+, but the settings give it 900"):
        load_tokenizer(folder)

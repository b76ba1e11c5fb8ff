"""Full-size vocabularies of mistral-common, compared with their reference libraries on hard texts."""

from __future__ import annotations

import base64
import json
from importlib import resources

import byte_level
import pytest
import sentencepiece
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from small_vocabulary import load_reference, write_folder
from transformers.convert_slow_tokenizer import TikTokenConverter

from paddlemix.conversation.load_tokenizer import load_tokenizer

NUM_TEXTS = 2000
DATA = resources.files("mistral_common") / "data"
# Mistral 7B's first vocabulary is like LLaMA 2's; that of v0.3 has [INST] and the like among its pieces.
MODELS = {"v1": "tokenizer.model.v1", "v3": "mistral_instruct_tokenizer_240323.model.v3"}
TEKKEN = "tekken_240911.json"
NUM_SPECIALS = 20  # the first of a thousand have names


@pytest.fixture(scope="module")
def texts():
    return byte_level.hard_texts(NUM_TEXTS)


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> bytes:
    return (DATA / MODELS[request.param]).read_bytes()


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "new"])
def test_sentencepiece_ids_equal_those_of_both_reference_libraries(model, legacy, texts, tmp_path):
    folder = write_folder(tmp_path, model, legacy=legacy, marks=())
    tokenizer, reference = load_tokenizer(folder), load_reference(folder, legacy)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    reference.split_special_tokens = True
    expected = reference(texts, add_special_tokens=False)["input_ids"]
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text, is_start=True) == ids, repr(text)
        if legacy:
            assert processor.encode(text) == ids, repr(text)
        else:  # its processor adds no space in front
            assert tokenizer.encode(text, is_start=False) == reference.sp_model.encode(text), repr(text)


def test_sentencepiece_texts_round_trip_and_make_no_special_token(model, texts, tmp_path):
    tokenizer = load_tokenizer(write_folder(tmp_path, model, legacy=True, marks=()))
    specials = {index for text, index in tokenizer.specials.items()}
    assert len(specials) >= 3
    for text in texts:
        ids = tokenizer.encode(text, is_start=True)
        assert not specials & set(ids), repr(text)
        assert tokenizer.decode(ids) == text.replace("▁", " "), repr(text)


@pytest.fixture(scope="module")
def tekken(tmp_path_factory):
    """The package's tokenizer and that of mistral-common for one vocabulary."""
    values = json.loads((DATA / TEKKEN).read_text(encoding="utf-8"))
    config, folder = values["config"], tmp_path_factory.mktemp("tekken")
    num_specials = config["default_num_special_tokens"]
    pieces = values["vocab"][: config["default_vocab_size"] - num_specials]
    (folder / "ranks").write_text("\n".join(f"{piece['token_bytes']} {piece['rank']}" for piece in pieces))
    converter = TikTokenConverter(str(folder / "ranks"), config["pattern"], additional_special_tokens=[])
    spec = json.loads(converter.converted().to_str())
    spec["model"]["vocab"] = {piece: rank + num_specials for piece, rank in spec["model"]["vocab"].items()}
    reference = Tekkenizer.from_file(str(DATA / TEKKEN))
    like = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec["added_tokens"] = [
        {"id": index, "content": reference.id_to_piece(index), **like} for index in range(NUM_SPECIALS)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    assert len({base64.b64decode(piece["token_bytes"]) for piece in pieces}) == len(spec["model"]["vocab"]) > 130_000
    return load_tokenizer(folder), reference


def test_byte_level_ids_equal_those_of_the_reference_library(tekken, texts):
    tokenizer, reference = tekken
    specials = set(tokenizer.specials.values())
    assert {"<s>", "</s>", "[INST]"} <= tokenizer.specials.keys()
    for text in texts:
        ids = tokenizer.encode(text, is_start=True)
        assert ids == reference.encode(text, bos=False, eos=False), repr(text)
        assert ids == tokenizer.encode(text, is_start=False)
        assert not specials & set(ids), repr(text)
        assert tokenizer.decode(ids) == text, repr(text)

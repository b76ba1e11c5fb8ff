"""The vocabulary of llava-hf folders: what is cut, what never is, and what training and writing again leave of it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tiny_folder
import torch
import transformers
from safetensors.numpy import load_file, save_file

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.layouts import hf_tokenizer
from paddlemix.checkpoints.source import open_source
from paddlemix.checkpoints.verify import compare_tensors
from paddlemix.conversation.load_tokenizer import load_tokenizer

VOCAB, PADDED = tiny_folder.VOCAB_SIZE, 448
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
OURS = "language_model.embed_tokens.weight"


@pytest.fixture(scope="module", params=["pad", "anyres"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / request.param
    convert(tiny_folder.folder(request.param), folder, "hf")
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "hf")
    return tmp_path / "hf"


def train_on(folder) -> np.ndarray:
    """Let transformers add tokens and give their rows values, as a user's training does; return the embeddings."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<box>", "</box>"], special_tokens=True)
    tokenizer.add_tokens(["qzx"])
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            matrix[VOCAB + 2 :] = torch.randn(3, matrix.shape[1], generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.get_input_embeddings().weight.detach().numpy()


def test_rows_of_tokens_that_were_added_later_are_kept(folder, tmp_path):
    expected = train_on(folder)
    for layout in ("paddle", "hf"):
        written = tmp_path / f"as-{layout}"
        text = convert(folder, written, layout, checks=[compare_tensors]).text()
        assert "bit-equal" in text and "cut" not in text and "left out" not in text
        result = open_source(written)
        assert result.config.language.vocab_size == result.tokenizer.vocab_size == VOCAB + 5
        np.testing.assert_array_equal(result.tensors[OURS].values, expected)
        names = ("<image>", "<pad>", "<box>", "</box>", "qzx")
        assert [result.tokenizer.specials[name] for name in names] == list(range(VOCAB, VOCAB + 5))
    reference = transformers.AutoTokenizer.from_pretrained(written)
    assert reference.convert_tokens_to_ids(list(names)) == list(range(VOCAB, VOCAB + 5))


def test_padding_that_is_cut_is_reported_and_other_rows_are_not_called_equal(folder, tmp_path):
    rest = f"{PADDED - VOCAB} (ids {VOCAB} to {PADDED - 1}: <image>, <pad>, {PADDED - VOCAB - 2} that no token has)"
    text = convert(folder, tmp_path / "one", "paddle", checks=[compare_tensors]).text()
    assert f"dropped on purpose: 0; rows of the vocabulary: {rest}" in text
    assert f"bit-equal to the source's without its padding of the vocabulary: {rest}" in text
    tensors = load_file(folder / "model.safetensors")
    tensors[HEAD][-1] += 1.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    text = convert(folder, tmp_path / "two", "paddle", checks=[compare_tensors]).text()
    assert "equal" not in text and f"but for dropped rows of the vocabulary: {rest}" in text


def test_without_a_tokenizer_only_rows_that_are_all_alike_are_cut(folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer.model", "sentencepiece.bpe.model"):
        (folder / name).unlink(missing_ok=True)
    assert open_source(folder).without_added_rows().config.language.vocab_size == VOCAB
    tensors = load_file(folder / "model.safetensors")
    tensors[EMBEDDING][VOCAB + 3] += 1.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert open_source(folder).without_added_rows().config.language.vocab_size == PADDED


def test_tokens_that_are_there_keep_their_ids_and_rows_on_the_way_back(folder, tmp_path):
    """Our own training keeps all rows of a llava-hf folder, and its tokenizer with the two tokens."""
    tensors = load_file(folder / "model.safetensors")
    rng = np.random.default_rng(0)
    for name in (EMBEDDING, HEAD):
        tensors[name][VOCAB:] = rng.standard_normal(tensors[name][VOCAB:].shape)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    source = open_source(folder)
    assert source.config.language.vocab_size == PADDED
    convert(folder, tmp_path / "again", "hf", checks=[compare_tensors])
    found, config = load_file(tmp_path / "again" / "model.safetensors"), read(tmp_path / "again" / "config.json")
    for name in (EMBEDDING, HEAD):
        np.testing.assert_array_equal(found[name], tensors[name])
    assert (config["image_token_index"], config["pad_token_id"]) == (VOCAB, VOCAB + 1)
    assert config["text_config"]["vocab_size"] == PADDED
    assert load_tokenizer(tmp_path / "again").specials == load_tokenizer(folder).specials


def read(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ((), (VOCAB, VOCAB + 1, PADDED)),
        (("<image>",), (VOCAB, VOCAB + 1, VOCAB + 4)),  # the row behind is free
        (("<pad>",), (VOCAB + 4, VOCAB, PADDED)),
        (("<pad>", "<image>"), (VOCAB + 1, VOCAB, VOCAB + 4)),
        (("<image>", "<box>", "<pad>", "<a>"), (VOCAB, VOCAB + 2, VOCAB + 4)),
        (("<image>", "<box>", "<a>", "<b>"), (VOCAB, VOCAB + 4, PADDED)),  # no row is free
    ],
)
def test_tokens_get_ids_where_the_tokenizer_has_none(known, expected, tmp_path):
    """The model has four rows more than the tiny vocabulary, the tokenizer the tokens `known` in the first of them."""
    source = load_tokenizer(tiny_folder.folder("pad"))
    source.save(tmp_path)
    flags = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    added = {str(VOCAB + place): {"content": text, **flags} for place, text in enumerate(known)}
    settings = read(tmp_path / "tokenizer_config.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "added_tokens_decoder": added}))
    tokenizer = load_tokenizer(tmp_path)
    places = hf_tokenizer.find_places(VOCAB + 4 if known else VOCAB, tokenizer)
    assert (places.image_id, places.pad_id, places.num_rows) == expected
    hf_tokenizer.write_tokenizer(tokenizer, tmp_path / "hf", VOCAB + 4 if known else VOCAB, "LlavaProcessor")
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tuple(reference.convert_tokens_to_ids(["<image>", "<pad>"])) == expected[:2]
    assert len(reference) == load_tokenizer(tmp_path / "hf").vocab_size <= places.num_rows

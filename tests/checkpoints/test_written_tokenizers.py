"""Tokenizer files that we write, as the transformers of this environment reads them."""

from __future__ import annotations

import json

import pytest
import transformers
import written_tokenizers as made

from paddlemix.checkpoints.layouts import hf_tokenizer, torch_tokenizer
from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.templates import get_template


@pytest.mark.parametrize("kind", made.KINDS)
def test_written_tokenizer_has_our_ids(kind, tmp_path):
    source = load_tokenizer(made.write_folder(tmp_path / "source", kind))
    torch_tokenizer.write_tokenizer(source, source.vocab_size + 3, tmp_path / "torch", get_template("vicuna_v1"))
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path / "torch")
    assert set(reference("It")) == {"input_ids", "attention_mask"}  # what a decoder takes
    made.check_written(reference, tmp_path / "torch", source, 0)
    hf_tokenizer.write_tokenizer(source, tmp_path / "hf", source.vocab_size + 3, "LlavaProcessor")
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    made.check_written(reference, tmp_path / "hf", source, 5)
    assert (reference.pad_token, reference.image_token, reference.padding_side) == ("<pad>", "<image>", "left")
    reference.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.specials == load_tokenizer(tmp_path / "hf").specials
    for text in made.TEXTS[:-1]:
        assert again.encode(text, is_start=True) == reference(text, add_special_tokens=False)["input_ids"], text


def test_settings_of_one_transformers_version_are_not_written(tmp_path):
    source = load_tokenizer(made.write_folder(tmp_path / "source", "llama"))
    torch_tokenizer.write_tokenizer(source, source.vocab_size, tmp_path / "torch", get_template("vicuna_v1"))
    settings = json.loads((tmp_path / "torch" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not settings.keys() & {"backend", "is_local", "extra_special_tokens", "model_specific_special_tokens"}
    assert settings["additional_special_tokens"] == ["<|reserved|>"]
    assert (
        settings["pad_token"] is None
    )  # else it is one that transformers adds to the vocabulary, behind the model's last row

"""Tokenizer files between this package and transformers 5, both ways."""

from __future__ import annotations

import pytest
import transformers
import written_tokenizers as made
from test_written_tokenizers import test_written_tokenizer_has_our_ids as test_written_tokenizer_has_our_ids

from paddlemix.conversation.load_tokenizer import load_tokenizer

FAST = [kind for kind in made.KINDS if kind in ("llama", "byte-level", "byte-level-space")]


@pytest.mark.parametrize("kind", FAST)
def test_tokenizer_that_version_5_saved_has_its_ids(kind, tmp_path):
    file = made.write_folder(tmp_path / "source", kind) / "tokenizer.json"
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(file),
        **names,
        extra_special_tokens=["<extra>"],
        model_specific_special_tokens={"x_token": "<x>"},
    )
    reference.add_tokens(["<plain>"])
    reference.save_pretrained(tmp_path / "saved")
    made.check_same(reference, load_tokenizer(tmp_path / "saved"), len(reference))
    assert not load_tokenizer(tmp_path / "saved").hidden_ids & set(
        load_tokenizer(tmp_path / "saved").encode("<extra><x><plain>", is_start=True)
    )

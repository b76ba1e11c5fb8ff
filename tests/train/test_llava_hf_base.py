"""Training from a llava-hf folder, and its result converted back to one that transformers loads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_folder
import tiny_training as tiny
import transformers
from safetensors.numpy import load_file

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.verify import compare_tensors

VOCAB, PADDED = tiny_folder.VOCAB_SIZE, 448
ROWS = ("model.language_model.embed_tokens.weight", "lm_head.weight")
KINDS = {"full": {}, "lora": tiny.LORA, "stage 1": tiny.PRETRAIN_FREEZE}


@pytest.fixture(scope="module", params=["pad", "anyres"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / request.param
    convert(tiny_folder.folder(request.param), folder, "hf")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_trained_model_becomes_a_llava_hf_folder_again(base, kind, tmp_path):
    data = tiny_folder.write_captions(tmp_path, 2) if kind == "stage 1" else tiny_folder.write_rows(tmp_path, 2)
    changes = {"model_name_or_path": str(base), "max_steps": 1, "learning_rate": 1e-2, **KINDS[kind]}
    tiny.train(tiny.settings(tmp_path, data, **changes), template="plain" if kind == "stage 1" else None)
    convert(tmp_path / "out", tmp_path / "hf", "hf", checks=[compare_tensors])
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "hf"))
    for name in ROWS:
        assert after[name].shape == before[name].shape == (PADDED, tiny_folder.LANGUAGE["hidden_size"])
        assert np.array_equal(after[name], before[name]) == (kind != "full")
    model, info = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "hf", output_loading_info=True)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "hf")
    assert not any(info.values())
    assert processor.tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [VOCAB, VOCAB + 1]
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["image_token_index"], model.config.pad_token_id) == (VOCAB, VOCAB + 1)

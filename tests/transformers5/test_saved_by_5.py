"""A model and its processor, saved by transformers 5: pixels and logits through our folder reader."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import tiny_folder
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.checkpoints.source import read_config
from paddlemix.conversation.messages import Conversation, Message

QUESTION = "What is this?"


@pytest.fixture(scope="module", params=["pad", "anyres"])
def folders(request, tmp_path_factory):
    """Our folder as we write it for transformers, and as transformers 5 saves what it has read of that."""
    folder = tmp_path_factory.mktemp(request.param)
    convert(tiny_folder.folder(request.param), folder / "ours", "hf")
    model, report = AutoModelForImageTextToText.from_pretrained(folder / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    model.save_pretrained(folder / "theirs")
    AutoProcessor.from_pretrained(folder / "ours").save_pretrained(folder / "theirs")
    assert not (folder / "theirs" / "preprocessor_config.json").exists()
    return folder / "ours", folder / "theirs", model.eval()


def test_folder_saved_by_transformers_5_keeps_our_image_settings(folders):
    ours, theirs, _ = folders
    assert read_config(theirs).image == read_config(ours).image


def test_logits_through_an_image_equal_those_of_transformers_5(folders):
    _, theirs, model = folders
    image = tiny_folder.random_image(1, (50, 37))
    processor = LlavaProcessor.from_pretrained(theirs)
    sample = processor.encode(Conversation((Message("user", f"<image>\n{QUESTION}"),), (image,)))
    batch = processor.collate([sample])
    pixels = AutoProcessor.from_pretrained(theirs).image_processor(image, return_tensors="pt")
    np.testing.assert_allclose(batch.pixels, pixels["pixel_values"].numpy().reshape(batch.pixels.shape), atol=1e-5)
    with paddle.no_grad():
        found = load_model(theirs, device="cpu")(batch).numpy()
    ids = np.where(batch.token_ids < 0, model.config.image_token_id, batch.token_ids)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(ids), **pixels).logits.numpy()
    num_tokens = processor.tokenizer.vocab_size
    np.testing.assert_allclose(found[..., :num_tokens], expected[..., :num_tokens], atol=1e-4)

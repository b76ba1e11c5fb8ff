"""What `--to hf` writes, as the newest transformers reads it: model, tokenizer, processor, chat template, pipeline."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
import tiny_folder
import torch
import transformers

from paddlemix import LlavaProcessor
from paddlemix.checkpoints.convert import convert
from paddlemix.constants import IMAGE_TOKEN_ID
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.data.sample import Batch
from paddlemix.generate.sampling import SamplingParams

MODES = {"pad": "LlavaForConditionalGeneration", "anyres": "LlavaNextForConditionalGeneration"}
QUESTION = "What color is it?"
NUM_NEW = 12


@pytest.fixture(scope="module", params=MODES)
def mode(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def written(tmp_path_factory, mode):
    folder = tmp_path_factory.mktemp(mode) / "hf"
    convert(tiny_folder.folder(mode), folder, "hf", max_shard_size="200KB")
    return folder


@pytest.fixture(scope="module")
def processor(written):
    return transformers.AutoProcessor.from_pretrained(written)


def our_sample(mode: str, image):
    ours = LlavaProcessor.from_pretrained(tiny_folder.folder(mode))
    conversation = Conversation((Message("user", f"<image>\n{QUESTION}"),), (image,))
    return ours.encode(conversation), ours.tiles(image)


def chat(image=None) -> list[dict]:
    part = {"type": "image"} if image is None else {"type": "image", "image": image}
    return [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]


def with_placeholders(ids: np.ndarray) -> np.ndarray:
    return np.where(ids == tiny_folder.VOCAB_SIZE, IMAGE_TOKEN_ID, ids)


def test_the_processor_makes_our_ids_and_pixels(mode, written, processor):
    image = tiny_folder.random_image(1)
    sample, tiles = our_sample(mode, image)
    prompt = processor.apply_chat_template(chat(), add_generation_prompt=True)
    found = processor(images=image, text=prompt, return_tensors="np")
    np.testing.assert_array_equal(with_placeholders(found["input_ids"][0]), sample.token_ids)
    pixels = found["pixel_values"].reshape(-1, 3, tiny_folder.SIDE, tiny_folder.SIDE)
    np.testing.assert_allclose(pixels, tiles.pixels, atol=1e-5)


def test_the_model_is_loaded_whole_and_gives_our_logits_and_our_answer(mode, written, processor):
    model, info = transformers.AutoModelForImageTextToText.from_pretrained(written, output_loading_info=True)
    assert not any(info.values()), info
    assert type(model).__name__ == MODES[mode]
    image = tiny_folder.random_image(1)
    prompt = processor.apply_chat_template(chat(), add_generation_prompt=True)
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    ours, _ = tiny_folder.load(mode)
    sample, tiles = our_sample(mode, image)
    ids = np.array([sample.token_ids])
    positions, ones = np.arange(ids.shape[1])[None], np.ones_like(ids)
    batch = Batch(ids, None, positions, ones, tiles.pixels, np.array([len(tiles.pixels)]), np.array([tiles.size]))
    with paddle.no_grad():
        expected = ours(batch).numpy()
    np.testing.assert_allclose(logits[..., : tiny_folder.VOCAB_SIZE], expected, atol=1e-4)
    answer = ours.generate(batch, SamplingParams(max_new_tokens=NUM_NEW, ignore_eos=True))[0]
    model.generation_config.eos_token_id = None
    theirs = model.generate(**inputs, max_new_tokens=NUM_NEW, do_sample=False)[0, ids.shape[1] :].tolist()
    assert theirs == answer


def test_the_pipeline_answers_a_chat_with_an_image(mode, written):
    answer = transformers.pipeline("image-text-to-text", model=str(written), device="cpu")
    found = answer(text=chat(tiny_folder.random_image(1)), max_new_tokens=4, return_full_text=False)
    assert isinstance(found[0]["generated_text"], str)


def test_ids_of_the_tokenizer_are_ours(mode, written):
    theirs = transformers.AutoTokenizer.from_pretrained(written)
    ours = LlavaProcessor.from_pretrained(written).tokenizer
    for text in ("What color is shape 3?", "  two spaces,\nlines\n\n and\ttabs ", "Ça va? 你好 🙂 naïve", "USER: hi"):
        assert theirs(text)["input_ids"] == [ours.bos_id, *ours.encode(text, is_start=True)]
    size = tiny_folder.VOCAB_SIZE
    assert theirs.convert_tokens_to_ids(["<image>", "<pad>"]) == [size, size + 1]
    assert (theirs.pad_token, theirs.padding_side, len(theirs)) == ("<pad>", "left", size + 2)


def test_a_folder_that_version_5_saved_again_is_read_as_before(mode, written, processor, tmp_path):
    """What somebody gets who loads our folder there and saves it: other names, other files, the same model."""
    transformers.AutoModelForImageTextToText.from_pretrained(written).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").is_file()
    assert "rope_parameters" in json.loads((tmp_path / "config.json").read_text())["text_config"]
    before, after = (LlavaProcessor.from_pretrained(folder) for folder in (written, tmp_path))
    assert after.spec == before.spec and after.template == before.template
    conversation = Conversation((Message("user", f"<image>\n{QUESTION}"),), (tiny_folder.random_image(1),))
    np.testing.assert_array_equal(before.encode(conversation).token_ids, after.encode(conversation).token_ids)
    for name in ("one", "two"):
        convert(written if name == "one" else tmp_path, tmp_path / name, "paddle")
    one, two = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("one", "two"))
    assert one == two
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()

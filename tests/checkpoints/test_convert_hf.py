"""What is written in llava-hf's layout, as transformers reads it; and what transformers wrote, as we take it over."""

from __future__ import annotations

import json
import logging

import jinja2
import numpy as np
import paddle
import pytest
import reference_models as tiny
import tiny_folder
import torch
import transformers
from conversation.small_vocabulary import load_reference
from safetensors.numpy import load_file, save_file

from paddlemix import LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.layouts.hf_chat import chat_template
from paddlemix.checkpoints.source import open_source
from paddlemix.constants import IMAGE_TOKEN_ID
from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.render import render
from paddlemix.conversation.templates import TEMPLATES, get_template
from paddlemix.data.sample import Batch
from paddlemix.tensor_files.stored import CheckpointError

MODES = {"pad": "LlavaForConditionalGeneration", "anyres": "LlavaNextForConditionalGeneration"}
VOCAB, PADDED = tiny_folder.VOCAB_SIZE, 448  # the next multiple of 64 that has room for two more
TEXTS = (
    "What colour is shape 3?",
    "  two spaces,\nlines\n\n and\ttabs ",
    "Ça va? 你好 🙂 naïve — “quotes”",
    "",
    "▁ a_b </s x > <unk",
    "USER: hi ASSISTANT: hello",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    for mode in MODES:
        convert(tiny_folder.folder(mode), folder / mode, "hf", max_shard_size="200KB")
    return {mode: folder / mode for mode in MODES}


def our_logits(mode: str, ids: np.ndarray, image) -> np.ndarray:
    model, processor = tiny_folder.load(mode)
    tiles = processor.tiles(image)
    counts, sizes = np.array([len(tiles.pixels)]), np.array([tiles.size])
    batch = Batch(ids, None, np.arange(ids.shape[1])[None], np.ones_like(ids), tiles.pixels, counts, sizes)
    with paddle.no_grad():
        return model(batch).numpy()


@pytest.mark.parametrize("mode", MODES)
def test_transformers_loads_it_whole_and_gives_our_logits(folders, mode, caplog):
    transformers.logging.enable_propagation()
    with caplog.at_level(logging.WARNING, logger="transformers"):
        model, info = transformers.AutoModelForImageTextToText.from_pretrained(folders[mode], output_loading_info=True)
    transformers.logging.disable_propagation()
    assert not any(info.values()), info
    assert not [record for record in caplog.records if "weights" in record.message], caplog.text
    assert type(model).__name__ == MODES[mode]
    processor = transformers.AutoProcessor.from_pretrained(folders[mode])
    image = tiny_folder.random_image(1)
    inputs = processor(images=image, text="USER: <image>\nWhat colour? ASSISTANT:", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    ids = np.where(inputs["input_ids"].numpy() == VOCAB, IMAGE_TOKEN_ID, inputs["input_ids"].numpy())
    assert (ids == IMAGE_TOKEN_ID).any()
    np.testing.assert_allclose(our_logits(mode, ids, image), logits[..., :VOCAB], atol=1e-4)
    # The new rows are the mean of the others, so that none of them can be the likeliest.
    np.testing.assert_allclose(
        logits[..., VOCAB:], logits[..., :VOCAB].mean(-1, keepdims=True).repeat(28, -1), atol=1e-4
    )


@pytest.mark.parametrize("mode", MODES)
def test_processor_of_transformers_makes_our_ids_and_pixels(folders, mode):
    processor = transformers.AutoProcessor.from_pretrained(folders[mode])
    assert type(processor).__name__ == ("LlavaNextProcessor" if mode == "anyres" else "LlavaProcessor")
    ours = LlavaProcessor.from_pretrained(tiny_folder.folder(mode))
    messages = (
        Message("user", "<image>\nWhat colour is it?"),
        Message("assistant", "It is red."),
        Message("user", "Sure?"),
    )
    for seed in (0, 1, 3, 4):  # 2 is square and small: transformers takes another of two equally good canvases
        image = tiny_folder.random_image(seed)
        sample = ours.encode(Conversation(messages, (image,)))
        content = [{"type": "image"}, {"type": "text", "text": "What colour is it?"}]
        chat = [{"role": one.role, "content": one.text} for one in messages]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}, *chat[1:]])
        found = processor(images=image, text=prompt, return_tensors="np")
        ids = np.where(found["input_ids"][0] == VOCAB, IMAGE_TOKEN_ID, found["input_ids"][0])
        np.testing.assert_array_equal(ids, sample.token_ids)
        pixels = found["pixel_values"].reshape(-1, 3, tiny_folder.SIDE, tiny_folder.SIDE)
        np.testing.assert_allclose(pixels, ours.tiles(image).pixels, atol=1e-5)


@pytest.mark.parametrize("is_legacy", [True, False])
def test_fast_tokenizer_that_is_written_gives_the_ids_of_the_slow_one(tmp_path, is_legacy):
    source = tmp_path / "source"
    tiny_folder.make_folder(source, "pad")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": is_legacy}))
    convert(source, tmp_path / "hf", "hf")
    slow = load_reference(tmp_path / "hf", is_legacy)
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (slow.is_fast, fast.is_fast) == (False, True)
    for text in TEXTS:
        for whole in (text, f"{text}<image>{text}", f"<image>\n{text}</s>{text}"):
            if whole.startswith((" ", "▁")) and not is_legacy:
                continue  # where the two kinds of transformers' tokenizer differ by themselves
            assert fast(whole)["input_ids"] == slow(whole)["input_ids"], whole
            assert fast.decode(fast(whole)["input_ids"]) == fast.decode(slow(whole)["input_ids"])
    for tokenizer in (slow, fast):
        assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [VOCAB, VOCAB + 1]
        assert (tokenizer.pad_token, tokenizer.padding_side, len(tokenizer)) == ("<pad>", "left", VOCAB + 2)


@pytest.mark.parametrize("is_legacy", [True, False])
def test_report_warns_if_ids_behind_an_image_differ(tmp_path, is_legacy):
    source = tmp_path / "source"
    tiny_folder.make_folder(source, "pad")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": is_legacy}))
    report = convert(source, tmp_path / "hf", "hf")
    assert any("not legacy" in remark for remark in report.remarks) != is_legacy
    assert all(remark in report.text() for remark in report.remarks)
    ours = LlavaProcessor.from_pretrained(source)
    conversation = Conversation((Message("user", "<image>\nWhat is it?"),), (tiny_folder.random_image(1),))
    expected = ours.encode(conversation).token_ids
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "hf")
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    found = theirs(images=tiny_folder.random_image(1), text=theirs.apply_chat_template(chat), return_tensors="np")
    assert (len(found["input_ids"][0]) == len(expected)) == is_legacy


def test_vocabulary_gets_rows_and_loses_them_again(folders, tmp_path):
    path = folders["pad"]
    config = json.loads((path / "config.json").read_text())
    assert (config["image_token_index"], config["pad_token_id"]) == (VOCAB, VOCAB + 1)
    assert config["text_config"]["vocab_size"] == PADDED
    convert(path, tmp_path / "back", "paddle")
    before, after = (open_source(folder) for folder in (tiny_folder.folder("pad"), tmp_path / "back"))
    assert after.config == before.config and after.tokenizer.specials == before.tokenizer.specials
    for text in TEXTS:
        assert after.tokenizer.encode(text, is_start=True) == before.tokenizer.encode(text, is_start=True)


def test_model_loaded_from_it_directly_answers_as_the_original(folders):
    ids = np.array([[1, *range(10, 30), *[IMAGE_TOKEN_ID] * tiny_folder.PATCHES, 40, 41]])
    processor = LlavaProcessor.from_pretrained(folders["pad"])
    assert processor.tokenizer.pad_id < PADDED
    model = LlavaForConditionalGeneration.from_pretrained(folders["pad"])
    tiles = processor.tiles(tiny_folder.random_image(2))
    one = np.array([1])
    batch = Batch(
        ids, None, np.arange(ids.shape[1])[None], np.ones_like(ids), tiles.pixels, one, np.array([tiles.size])
    )
    with paddle.no_grad():
        found = model(batch).numpy()
    np.testing.assert_allclose(found[..., :VOCAB], our_logits("pad", ids, tiny_folder.random_image(2)), atol=1e-5)


def save_like_llava_hf(folder, is_next: bool):
    """Let transformers write a model with a padded vocabulary and a tokenizer that has got the two tokens."""
    model = tiny.hf_model(is_next, vocab_size=PADDED, vision={"num_attention_heads": 1})
    model.config.image_token_index = VOCAB
    tiny.save_hf(model, folder, is_next)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "image_token_index": VOCAB}))
    tokenizer = transformers.LlamaTokenizer.from_pretrained(tiny_folder.folder("pad"))
    tokenizer.add_tokens(transformers.AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("is_next", [False, True])
def test_rows_that_llava_hf_added_are_cut_off_and_reported(tmp_path, is_next):
    model = save_like_llava_hf(tmp_path / "hf", is_next)
    report = convert(tmp_path / "hf", tmp_path / "ours", "paddle")
    assert f"language_model.embed_tokens.weight [{VOCAB}, 48]: cut" in report.text()
    result = open_source(tmp_path / "ours")
    assert result.config.language.vocab_size == VOCAB == result.tokenizer.vocab_size
    assert "<image>" not in result.tokenizer.specials
    embedding = model.model.language_model.embed_tokens.weight.detach().numpy()
    np.testing.assert_array_equal(result.tensors["language_model.embed_tokens.weight"].values, embedding[:VOCAB])
    np.testing.assert_array_equal(
        result.tensors["language_model.lm_head.weight"].values, model.lm_head.weight.detach().numpy().T[:, :VOCAB]
    )


def test_vocabulary_rows_are_kept_if_not_marked_as_added(v1_5, tmp_path):
    convert(v1_5.folder, tmp_path / "ours", "paddle")  # it has an image token, but no tokenizer
    assert open_source(tmp_path / "ours").config.language.vocab_size == 99
    save_like_llava_hf(tmp_path / "hf", False)
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_token_index": VOCAB - 3}))
    convert(tmp_path / "hf", tmp_path / "kept", "paddle")
    assert open_source(tmp_path / "kept").config.language.vocab_size == PADDED


def test_rows_without_a_token_get_fillers_so_that_ids_stay_in_place(tmp_path):
    source = tmp_path / "source"
    tiny_folder.make_folder(source, "pad")
    rows = VOCAB + 5
    path = source / "config.json"
    config = json.loads(path.read_text())
    config["language"]["vocab_size"] = rows
    path.write_text(json.dumps(config))
    tensors = load_file(source / "model.safetensors")
    grown = np.random.default_rng(0).standard_normal((5, tiny_folder.LANGUAGE["hidden_size"])).astype(np.float32)
    for name, axis in (("language_model.embed_tokens.weight", 0), ("language_model.lm_head.weight", 1)):
        tensors[name] = np.concatenate([tensors[name], grown if axis == 0 else grown.T], axis=axis)
    save_file(tensors, source / "model.safetensors")
    convert(source, tmp_path / "hf", "hf")
    for use_fast in (True, False):
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf", use_fast=use_fast)
        assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [rows, rows + 1]
    convert(tmp_path / "hf", tmp_path / "back", "paddle")
    assert load_tokenizer(tmp_path / "back").specials == load_tokenizer(source).specials
    np.testing.assert_array_equal(
        load_file(tmp_path / "back" / "model.safetensors")["language_model.embed_tokens.weight"],
        tensors["language_model.embed_tokens.weight"],
    )


def test_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(tmp_path):
    source = tmp_path / "source"
    tiny_folder.make_folder(source, "pad")
    path = source / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    added = {str(VOCAB): {"content": "<|extra|>", "special": True}}
    path.write_text(json.dumps({**settings, "added_tokens_decoder": added}))
    with pytest.raises(CheckpointError, match=f"ids up to {VOCAB}, but the model has only {VOCAB} rows"):
        convert(source, tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "plain"])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_chat_template_renders_our_prompt(name, system):
    template = get_template(name)
    turns = [Message("user", "<image>\nWhat is it?"), Message("assistant", "A cat."), Message("user", 'Why "so"?')]
    turns = [Message("system", system), *turns] if system else turns
    segments = render(Conversation(turns, ("a.png",)), template, add_generation_prompt=True)
    expected = "".join("<image>" if segment.kind == "image" else segment.text for segment in segments)
    chat = [{"role": one.role, "content": one.text} for one in turns]
    chat[-3]["content"] = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    assert jinja2.Template(chat_template(template)).render(messages=chat) == expected
    closed = [*turns, Message("assistant", "Fur.")]
    expected = "".join(
        "<image>" if one.kind == "image" else one.text for one in render(Conversation(closed, ("a.png",)), template)
    )
    chat.append({"role": "assistant", "content": "Fur."})
    assert jinja2.Template(chat_template(template)).render(messages=chat) == expected


def test_stage_1_format_has_no_chat_template():
    assert chat_template(get_template("plain")) is None

"""Models with `<im_start>` and `<im_end>` around an image: ids, logits and answers equal those of transformers."""

from __future__ import annotations

import json
import shutil

import marked_models
import numpy as np
import paddle
import pytest
import reference_models as tiny
import tiny_folder
import torch
import transformers
from marked_models import END, NUM_ROWS, PAD, START
from safetensors.numpy import load_file, save_file
from torch_folders import official_config, official_state, write_torch, write_tower

from paddlemix import LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.checkpoints.compose import Choices, compose
from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.projector_file import extract_projector
from paddlemix.checkpoints.source import open_source, read_config
from paddlemix.cli import run_command
from paddlemix.constants import IMAGE_TOKEN_ID
from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.session import ChatSession
from paddlemix.tensor_files.stored import CheckpointError

CLIP, MARKED_IMAGE = "clip-vit-tiny", "<im_start><image><im_end>"
QUESTION, NUM_NEW = "What colour is <im_start> shape 3?", 12
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
PROMPT = f"{SYSTEM}###Human: {MARKED_IMAGE}\nWhat colour is shape 3?###Assistant:"


@pytest.fixture(scope="module")
def torch_model():
    """transformers' LLaVA with a linear projector, as version 0 has; `[PAD]` stands for the image."""
    model = tiny.hf_model(False, vocab_size=NUM_ROWS)
    model.config.image_token_id = PAD
    projector = model.model.multi_modal_projector
    projector.act, projector.linear_2 = torch.nn.Identity(), torch.nn.Identity()
    return model


@pytest.fixture(scope="module")
def official(tmp_path_factory, torch_model):
    """The folder of this model as version 0 of LLaVA leaves it, whose config.json names no projector and no padding."""
    parent = tmp_path_factory.mktemp("v0")
    write_tower(parent / CLIP, torch_model)
    state = {name: tensor for name, tensor in official_state(torch_model).items() if ".vision_tower." not in name}
    state = {name.replace("mm_projector.0.", "mm_projector."): tensor for name, tensor in state.items()}
    write_torch(parent / "llava", state, "bin")
    unknown = dict.fromkeys(("image_aspect_ratio", "mm_projector_type", "mm_vision_select_feature"))
    config = official_config(torch_model, f"openai/{CLIP}", mm_use_im_start_end=True, use_mm_proj=True, **unknown)
    del config["mm_use_im_patch_token"]
    (parent / "llava" / "config.json").write_text(json.dumps({**config, "sep_image_conv_front": False}))
    marked_models.write_tokenizer(parent / "llava")
    return parent / "llava"


def processor_of(folder) -> LlavaProcessor:
    return LlavaProcessor.from_pretrained(folder).with_template("llava_v0")


def expected_ids(folder, num_image_tokens: int) -> list[int]:
    """Tokenize the texts around images separately, as LLaVA does (tokenizer_image_token in llava/mm_utils.py)."""
    tokenizer = transformers.LlamaTokenizer.from_pretrained(folder)
    first, *rest = (tokenizer(text).input_ids for text in PROMPT.split("<image>"))
    for ids in rest:
        first += [IMAGE_TOKEN_ID] * num_image_tokens + ids[1:]  # without the BOS
    return first


def torch_answer(model, ids: list[int], pixels: np.ndarray) -> list[int]:
    inputs = torch.tensor([[PAD if number == IMAGE_TOKEN_ID else number for number in ids]])
    options = {"max_new_tokens": NUM_NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        found = model.generate(
            input_ids=inputs, pixel_values=torch.tensor(pixels), attention_mask=torch.ones_like(inputs), **options
        )
    return found[0, len(ids) :].tolist()


def test_prompt_and_greedy_answer_of_version_0_equal_the_reference(official, torch_model):
    processor, image = processor_of(official), tiny_folder.random_image(1)
    tiles = processor.tiles(image)
    expected = expected_ids(official, tiles.num_tokens)
    assert expected.count(START) == expected.count(END) == 1
    sampling = SamplingParams(temperature=0, max_new_tokens=NUM_NEW, ignore_eos=True)
    session = ChatSession(LlavaForConditionalGeneration.from_pretrained(official), processor, sampling=sampling)
    session.ask("What colour is shape 3?", images=image)
    assert session.turns[0].prompt_ids == expected
    assert session.turns[0].answer_ids == torch_answer(torch_model, expected, tiles.pixels)


def test_first_and_later_images_and_those_of_training_are_all_marked(official):
    processor, image = processor_of(official), tiny_folder.random_image(1)
    messages = (
        Message("user", "<image>\nWhat is it?"),
        Message("assistant", "Red."),
        Message("user", "And <image> and\n<image>?"),
        Message("assistant", "Blue."),
    )
    sample = processor.encode(Conversation(messages, (image,) * 3))
    ids = sample.token_ids.tolist()
    places = [index for index, number in enumerate(ids) if number == START]
    assert len(places) == ids.count(END) == 3
    for place in places:
        num_tokens = sample.images[0].num_tokens
        assert ids[place + 1 : place + num_tokens + 2] == [IMAGE_TOKEN_ID] * num_tokens + [END]
    is_trained = sample.labels >= 0
    assert not is_trained[[number in (START, END) for number in ids]].any()
    trained = processor.tokenizer.decode(sample.token_ids[is_trained].tolist())
    assert trained.split("###") == ["Red.", " Blue.", ""]


def test_captions_alone_are_marked_too(official):
    messages = (Message("user", "<image>"), Message("assistant", "A red square."))
    processor = processor_of(official).with_template("plain")
    ids = processor.encode(Conversation(messages, (tiny_folder.random_image(1),))).token_ids.tolist()
    assert ids[:3] == [1, START, IMAGE_TOKEN_ID] and END in ids


def test_typed_mark_stays_text(official):
    processor = processor_of(official)
    sample = processor.encode(Conversation((Message("user", QUESTION),)))
    assert START not in sample.token_ids
    assert QUESTION in processor.tokenizer.decode(sample.token_ids.tolist())


@pytest.mark.parametrize("layout", ["paddle", "paddlemix", "official"])
def test_layouts_keep_marks_weights_and_ids_there_and_back(official, tmp_path, layout):
    convert(official, tmp_path / "there", layout)
    convert(tmp_path / "there", tmp_path / "back", "official")
    for folder in (tmp_path / "there", tmp_path / "back"):
        assert read_config(folder).has_image_marks
        conversation = Conversation((Message("user", "<image>\nWhat?"),), (tiny_folder.random_image(1),))
        expected, found = (processor_of(one).encode(conversation).token_ids for one in (official, folder))
        np.testing.assert_array_equal(found, expected)
    raw = json.loads((tmp_path / "back" / "config.json").read_text())
    assert raw["mm_use_im_start_end"] is True
    tensors, others = open_source(official).tensors, open_source(tmp_path / "back").tensors
    assert all(np.array_equal(tensor.values, others[name].values) for name, tensor in tensors.items())


def test_official_folder_is_tokenized_the_same_by_transformers(tmp_path):
    convert(marked_models.composed(), tmp_path / "out", "official")
    processor = processor_of(tmp_path / "out")
    conversation = Conversation((Message("user", "<image>\nWhat colour is shape 3?"),), (tiny_folder.random_image(1),))
    sample = processor.encode(conversation)
    assert sample.token_ids.tolist() == expected_ids(tmp_path / "out", sample.images[0].num_tokens)


def test_hf_folder_has_the_marks_in_its_chat_template_and_computes_the_same(tmp_path):
    folder, image = marked_models.composed(), tiny_folder.random_image(1)
    convert(folder, tmp_path / "hf", "hf")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "hf")
    model = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf")
    parts = [{"type": "image"}, {"type": "text", "text": "What colour is shape 3?"}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    assert text == PROMPT
    inputs = processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    question = Message("user", "<image>\nWhat colour is shape 3?")
    for one in (folder, tmp_path / "hf"):
        config = read_config(one)
        assert config.has_image_marks and config.template == "llava_v0"
        ours = LlavaProcessor.from_pretrained(one)
        sample = ours.encode(Conversation((question,), (image,)))
        ids = inputs["input_ids"][0].numpy()
        ids = np.where(ids == model.config.image_token_id, IMAGE_TOKEN_ID, ids)
        np.testing.assert_array_equal(sample.token_ids, ids)
        with paddle.no_grad():
            logits = load_model(one, device="cpu")(ours.collate([sample])).numpy()
        width = min(logits.shape[-1], expected.shape[-1])
        np.testing.assert_allclose(logits[..., :width], expected[..., :width], atol=1e-4)


def test_hf_refuses_the_linear_projector_and_xtuner_the_marks_by_name(official, tmp_path):
    with pytest.raises(CheckpointError, match=r"layout hf cannot hold a projector 'linear'.* --to paddle`"):
        convert(official, tmp_path / "hf", "hf")
    with pytest.raises(CheckpointError, match=r"layout xtuner cannot hold marks .* \(mm_use_im_start_end\)"):
        convert(official, tmp_path / "xtuner", "xtuner")


@pytest.mark.parametrize("added", [{}, {"[PAD]": PAD, "<im_start>": START}])
def test_tokenizer_without_the_marks_is_refused_with_the_missing_ones(official, tmp_path, added):
    folder = shutil.copytree(official, tmp_path / "llava")
    shutil.copytree(official.parent / CLIP, tmp_path / CLIP)
    marked_models.write_tokenizer(folder, added)
    lacking = "<im_end>" if added else "<im_start> and <im_end>"
    with pytest.raises(CheckpointError, match=rf"its tokenizer lacks {lacking}: copy added_tokens.json"):
        LlavaProcessor.from_pretrained(folder)
    (problem,) = inspect(folder).problems
    assert f"its tokenizer lacks {lacking}" in problem


def test_inspection_shows_the_marks(official, capsys):
    assert inspect(official).problems == []
    assert run_command("inspect", [str(official)]) == 0
    assert "  image marks      <im_start> and <im_end>\n" in capsys.readouterr().out


def test_composing_adds_both_tokens_with_the_mean_of_all_rows():
    folder, plain = marked_models.composed(), tiny_folder.folder("pad")
    before, after = open_source(plain).tensors, open_source(folder).tensors
    tokenizer = LlavaProcessor.from_pretrained(folder).tokenizer
    start = tiny_folder.VOCAB_SIZE
    assert [tokenizer.special_id(mark) for mark in ("<im_start>", "<im_end>")] == [start, start + 1]
    assert read_config(folder).language.vocab_size == start + 2
    for name, axis in (("embed_tokens", 0), ("lm_head", 1)):
        old, new = (tensors[f"language_model.{name}.weight"].values for tensors in (before, after))
        old, new = (np.moveaxis(values, axis, 0) for values in (old, new))
        np.testing.assert_array_equal(new[:start], old)
        np.testing.assert_allclose(new[start:], old.mean(axis=0, keepdims=True).repeat(2, 0), atol=1e-6)


@pytest.mark.parametrize("num_padding", [1, 5])
def test_marks_take_rows_that_no_token_has(tmp_path, num_padding):
    """A vocabulary of more rows than tokens keeps its length, unless the marks need more."""
    plain, used = tiny_folder.scratch() / "plain", tiny_folder.VOCAB_SIZE
    tiny_folder.make_folder(plain, "pad", vocab_size=used + num_padding)
    compose(plain, plain, tmp_path / "out", Choices(has_image_marks=True))
    rows, before = (
        open_source(one).tensors["language_model.embed_tokens.weight"].values for one in (tmp_path / "out", plain)
    )
    assert len(rows) == used + max(num_padding, 2)
    np.testing.assert_allclose(rows[used : used + 2], before[:used].mean(axis=0, keepdims=True).repeat(2, 0), atol=1e-6)
    np.testing.assert_array_equal(rows[used + 2 :], before[used + 2 :])


def test_extracted_projector_has_the_marks_rows_and_compose_takes_them(tmp_path):
    folder, plain, path = tmp_path / "trained", tiny_folder.folder("pad"), tmp_path / "mm_projector.bin"
    shutil.copytree(marked_models.composed(), folder)
    tensors = load_file(folder / "model.safetensors")
    name = "language_model.embed_tokens.weight"
    tensors[name][-2:] = np.arange(2 * tensors[name].shape[1]).reshape(2, -1) / 100  # as if stage 1 had trained them
    save_file(tensors, folder / "model.safetensors")
    extract_projector(folder, path)
    stored = torch.load(path, weights_only=True)
    np.testing.assert_array_equal(stored["model.embed_tokens.weight"].numpy(), tensors[name][-2:])
    choices = Choices(path, mode="square", has_image_marks=True)
    compose(plain, plain, tmp_path / "two", choices)
    stored["model.embed_tokens.weight"] = torch.tensor(tensors[name])  # all rows, as LLaVA's stage 1 writes them
    torch.save(stored, path)
    compose(plain, plain, tmp_path / "all", choices)
    for output in ("two", "all"):
        np.testing.assert_array_equal(load_file(tmp_path / output / "model.safetensors")[name], tensors[name])


def test_token_embeddings_beside_a_projector_that_do_not_fit_are_refused(tmp_path):
    marked, plain, path = marked_models.composed(), tiny_folder.folder("pad"), tmp_path / "mm_projector.bin"
    extract_projector(marked, path)
    with pytest.raises(CheckpointError, match=r"has token embeddings beside the projector, .* add --image-marks"):
        compose(plain, plain, tmp_path / "out", Choices(path))
    with pytest.raises(CheckpointError, match="name the language model of before stage 1"):
        compose(marked, plain, tmp_path / "out", Choices(path, has_image_marks=True))
    stored = torch.load(path, weights_only=True)
    torch.save({**stored, "model.embed_tokens.weight": torch.zeros(7, 48)}, path)
    with pytest.raises(CheckpointError, match=r"has 7 rows of token embeddings, expected 422, .* or 2: it belongs to"):
        compose(plain, plain, tmp_path / "out", Choices(path, has_image_marks=True))


def test_model_with_marks_as_a_part_keeps_them_with_its_vocabulary(tmp_path):
    marked, plain = marked_models.composed(), tiny_folder.folder("pad")
    config = compose(marked, plain, tmp_path / "out", Choices())
    assert config.has_image_marks and config.language.vocab_size == tiny_folder.VOCAB_SIZE + 2


@pytest.mark.parametrize("kind", ["tokenizer.json", "added_tokens.json"])
def test_other_kinds_of_tokenizers_get_the_marks_and_keep_their_added_tokens(tmp_path, kind):
    plain, more, start = tiny_folder.scratch() / "plain", {"[PAD]": tiny_folder.VOCAB_SIZE}, tiny_folder.VOCAB_SIZE + 1
    tiny_folder.make_folder(plain, "pad", vocab_size=start)
    for file in plain.glob("*token*"):
        file.unlink()
    marked_models.write_tokenizer(plain, more)
    if kind == "tokenizer.json":
        convert(plain, tmp_path / "fast", "official")
        plain = tmp_path / "fast"
        (plain / "tokenizer.model").unlink()
    compose(plain, tiny_folder.folder("pad"), tmp_path / "out", Choices(has_image_marks=True))
    before, tokenizer = load_tokenizer(plain), LlavaProcessor.from_pretrained(tmp_path / "out").tokenizer
    assert (tmp_path / "out" / kind).is_file()
    assert [tokenizer.special_id(mark) for mark in ("[PAD]", "<im_start>", "<im_end>")] == [start - 1, start, start + 1]
    for text in (QUESTION, "one [PAD] two", " three"):
        assert tokenizer.encode(text, is_start=True) == before.encode(text, is_start=True)
    convert(tmp_path / "out", tmp_path / "hf", "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.convert_tokens_to_ids(["<im_start>", "<im_end>"]) == [start, start + 1]

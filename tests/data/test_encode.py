"""Encode conversations, compared with an independent restatement of the official algorithm."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from PIL import Image
from transformers import LlamaTokenizer

from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.templates import get_template
from paddlemix.data.encode import SampleTooLongError, encode_turns, fit_turns
from paddlemix.data.readers.files import read_row
from paddlemix.image.anyres import num_image_tokens
from paddlemix.image.errors import ImageError
from paddlemix.image.preprocess import preprocess

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TURNS = [["<image>\nWhat is in the picture?", "A red square."], ["And <image> here?", "Two circles."], ["So?", "Blue."]]
ROW = {"image": ["a.png", "b.png"], "conversations": TURNS}
SIZES = {"a": (40, 40), "b": (100, 30), "c": (30, 90)}


@pytest.fixture
def encode_row(tokenizer, template, spec, images):
    """Return a function (row, options) -> (Sample, number of dropped turns)."""

    def encode_one(row, **options):
        arguments = {"tokenizer": tokenizer, "template": template, "spec": spec, "folders": [str(images)]} | options
        return encode_turns(read_row(row)[0], **arguments)

    return encode_one


def official_sample(folder, turns, num_tokens):
    """Restate LLaVA's tokenizer_image_token (mm_utils.py) and preprocess_v1 (train/train.py), placeholders repeated.

    Each chunk between marks is tokenized by itself and loses its BOS but for the first. Trained is what follows
    `ASSISTANT:` up to and with the end of sequence.
    """
    tokenizer = LlamaTokenizer.from_pretrained(str(folder), legacy=True)
    text = SYSTEM + " " + "".join(f"USER: {user} ASSISTANT: {answer}</s>" for user, answer in turns)
    counts, ids, labels = iter(num_tokens), [tokenizer.bos_token_id], []
    for index, chunk in enumerate(text.split("<image>")):
        ids += [-200] * next(counts) if index else []
        ids += tokenizer(chunk).input_ids[1:]
    marker = tokenizer("ASSISTANT:").input_ids[1:]
    is_answer = False
    for position, token in enumerate(ids):
        labels.append(token if is_answer else -100)
        is_answer = (is_answer and token != tokenizer.eos_token_id) or ids[: position + 1][-len(marker) :] == marker
    return ids, labels


def assert_same(one, other):
    np.testing.assert_array_equal(one.token_ids, other.token_ids)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert [image.size for image in one.images] == [image.size for image in other.images]
    for image, twin in zip(one.images, other.images, strict=True):
        np.testing.assert_array_equal(image.pixels, twin.pixels)


def test_ids_and_labels_equal_the_official_algorithm(encode_row, tokenizer_folder, spec):
    sample, num_dropped = encode_row(ROW)
    ids, labels = official_sample(tokenizer_folder, TURNS, [num_image_tokens(SIZES[name], spec) for name in "ab"])
    assert num_dropped == 0
    assert sample.token_ids.dtype == sample.labels.dtype == np.int64
    assert sample.token_ids.tolist() == ids
    assert sample.labels.tolist() == labels


def test_three_formats_of_a_conversation_have_identical_samples(encode_row):
    llava = [{"from": role, "value": text} for pair in TURNS for role, text in zip(("human", "gpt"), pair, strict=True)]
    roles = {"human": "user", "gpt": "assistant"}
    chat = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in llava]
    parts = [dict(message) for message in chat]
    parts[0]["content"] = [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]
    sample, _ = encode_row(ROW)
    assert_same(sample, encode_row({"image": ["a.png", "b.png"], "conversations": llava})[0])
    assert_same(sample, encode_row({"images": ["a.png", "b.png"], "messages": chat})[0])
    assert_same(sample, encode_row({"images": ["a.png", "b.png"], "messages": parts})[0])


def test_images_are_in_the_order_of_the_marks_each_with_its_run(encode_row, spec):
    row = {"image": ["c.png", "a.png", "b.png"], "conversations": [["<image> <image> x <image>", "Yes."]]}
    sample, _ = encode_row(row)
    assert [image.size for image in sample.images] == [SIZES[name] for name in "cab"]
    is_image = np.concatenate([[0], sample.token_ids == -200, [0]]).astype(int)
    runs = np.flatnonzero(np.diff(is_image) == -1) - np.flatnonzero(np.diff(is_image) == 1)
    assert runs.tolist() == [num_image_tokens(SIZES[name], spec) for name in "cab"]
    assert [image.num_tokens for image in sample.images] == runs.tolist()


def test_pixels_equal_those_of_preprocess(encode_row, images, spec):
    sample, _ = encode_row(ROW)
    for tiles, name in zip(sample.images, "ab", strict=True):
        with Image.open(images / f"{name}.png") as image:
            np.testing.assert_array_equal(tiles.pixels, preprocess(image.convert("RGB"), spec).pixels)


def test_text_only_row_has_no_images_and_no_placeholders(encode_row, tokenizer_folder):
    sample, _ = encode_row({"conversations": [["Hello", "Hi."]]})
    assert sample.images == ()
    assert sample.token_ids.tolist() == official_sample(tokenizer_folder, [["Hello", "Hi."]], [])[0]


def test_typed_mark_stays_text(tokenizer, template, spec):
    conversation = Conversation([Message("user", ("What is <image> for?",)), Message("assistant", "A mark.")])
    sample, _ = encode_turns(conversation, tokenizer=tokenizer, template=template, spec=spec)
    assert -200 not in sample.token_ids


def test_generation_prompt_is_the_start_of_the_trained_sample(encode_row, tokenizer, template, spec, images):
    trained, _ = encode_row({"image": "a.png", "conversations": TURNS[:1]})
    with Image.open(images / "a.png") as image:
        question = Conversation([Message("user", TURNS[0][0])], [image.convert("RGB")])
    sample, _ = encode_turns(question, tokenizer=tokenizer, template=template, spec=spec, add_generation_prompt=True)
    assert sample.labels is None
    num_prompt = int(np.argmax(trained.labels != -100))
    assert sample.token_ids.tolist() == trained.token_ids[:num_prompt].tolist()


@pytest.mark.parametrize("num_kept", [1, 2])
@pytest.mark.parametrize("name", ["vicuna_v1", "plain", "llama_2", "llava_v0"])
def test_too_long_sample_is_cut_after_an_answer_and_equals_the_shorter_row(encode_row, name, num_kept):
    options = {"template": get_template(name)}
    shorter = {"image": ["a.png", "b.png"][:num_kept], "conversations": TURNS[:num_kept]}
    longer = {"image": ["a.png", "b.png"][: num_kept + 1], "conversations": TURNS[: num_kept + 1]}
    expected, _ = encode_row(shorter, **options)
    # Exactly the length of the kept turns, and one token less than one turn more would need.
    for max_length in (len(expected.token_ids), len(encode_row(longer, **options)[0].token_ids) - 1):
        sample, num_dropped = encode_row(ROW, max_length=max_length, **options)
        assert_same(sample, expected)
        assert num_dropped == len(TURNS) - num_kept


def test_sample_of_exactly_max_length_is_whole(encode_row):
    whole, _ = encode_row(ROW)
    sample, num_dropped = encode_row(ROW, max_length=len(whole.token_ids))
    assert_same(sample, whole)
    assert num_dropped == 0


def test_first_turn_that_does_not_fit_is_an_error_with_both_lengths(encode_row):
    first, _ = encode_row({"image": "a.png", "conversations": TURNS[:1]})
    length = len(first.token_ids)
    with pytest.raises(SampleTooLongError, match=f"{length} tokens.*1 image.*max_length is {length - 1}.*raise"):
        encode_row(ROW, max_length=length - 1)


def test_open_question_is_never_dropped(tokenizer, template, spec):
    conversation = Conversation([Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "So?")])
    with pytest.raises(SampleTooLongError, match=r"last question.*max_length is 50"):
        encode_turns(
            conversation,
            tokenizer=tokenizer,
            template=template,
            spec=spec,
            max_length=50,
            add_generation_prompt=True,
        )


def test_fit_turns_is_fast_for_many_turns():
    pair = [Message.typed("a", 0), Message("assistant", "b")]
    started = time.process_time()
    kept, num_dropped = fit_turns(Conversation(pair * 5000, []), lambda part: len(part.messages), 100)
    assert len(kept.messages) == 100 and num_dropped == 4950 and time.process_time() - started < 2


def test_fit_turns_keeps_the_system_message_and_measures_few_lengths():
    asked = []

    def num_tokens(conversation):
        asked.append(conversation)
        return 10 * len(conversation.messages)

    turns = [Message("user", "<image>"), Message("assistant", "x")] * 64
    conversation = Conversation([Message("system", "s"), *turns], [f"{n}.png" for n in range(64)])
    kept, num_dropped = fit_turns(conversation, num_tokens, max_length=10 + 20 * 37 + 19)
    assert kept.messages == conversation.messages[: 1 + 2 * 37]
    assert kept.images == conversation.images[:37]
    assert num_dropped == 64 - 37
    assert len(asked) <= 8


def test_each_folder_is_tried_in_order(encode_row, images, tmp_path):
    (tmp_path / "first").mkdir()
    Image.new("RGB", (56, 28)).save(tmp_path / "first" / "a.png")
    sample, _ = encode_row(ROW, folders=[str(tmp_path / "none"), str(tmp_path / "first"), str(images)])
    assert [image.size for image in sample.images] == [(56, 28), SIZES["b"]]


def test_error_of_a_missing_image_names_all_tried_paths(encode_row, images, tmp_path):
    row = {"image": "gone.png", "conversations": [["<image>\nHi", "Hello."]]}
    with pytest.raises(ImageError) as caught:
        encode_row(row, folders=[str(tmp_path), str(images)])
    assert str(tmp_path / "gone.png") in str(caught.value) and str(images / "gone.png") in str(caught.value)


def test_absolute_path_and_data_uri_need_no_folder(encode_row, images):
    import base64

    path = images / "a.png"
    uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    samples = [
        encode_row({"image": source, "conversations": TURNS[:1]}, folders=folders)[0]
        for source, folders in (("a.png", [str(images)]), (str(path), ["/nowhere"]), (uri, ["/nowhere"]))
    ]
    assert_same(samples[0], samples[1])
    assert_same(samples[0], samples[2])


def test_row_is_not_changed_by_encoding(encode_row):
    before = json.dumps(ROW)
    encode_row(ROW, max_length=200)
    assert json.dumps(ROW) == before

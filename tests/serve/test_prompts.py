"""Prompts of requests have the ids of training and of a chat, whatever is typed in them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.constants import BUNDLED_MODEL, IMAGE_TOKEN_ID
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.render import render
from paddlemix.conversation.templates import TEMPLATES, get_template
from paddlemix.conversation.tokenize import tokenize
from paddlemix.image.preprocess import ImageTiles
from paddlemix.serve.model.answer_memory import AnswerMemory, KnownAnswer
from paddlemix.serve.model.prompt import PromptTooLongError, chat_prompt, check_length, check_room, raw_prompt

TEXTS = [
    (("",), "It is red."),
    (("", "\nWhat is this?"), "A  square </s> with <image> in it\n"),
    (("one", "\ntwo", " <image> "), " "),
    (("<s>[INST] <|im_start|>",), "###"),
]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """The bundled processor, with the marks of all templates in its vocabulary."""
    folder = tmp_path_factory.mktemp("tokenizer") / "model"
    shutil.copytree(BUNDLED_MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    marks = {mark for one in TEMPLATES.values() for mark in (*one.special_tokens, *one.extra_stop_tokens)}
    added = enumerate(sorted(marks - {"<s>", "</s>"}), start=768)
    settings["added_tokens_decoder"] = {str(index): {"content": mark, "special": True} for index, mark in added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return LlavaProcessor.from_pretrained(folder)


def image(number: int, num_tokens: int = 4):
    return f"image-{number}", ImageTiles(np.zeros([1, 3, 2, 2], np.float32), (2, 2), num_tokens)


def talk(num_turns: int, system: str | None = None):
    """Return messages that end with a question, and their images of different lengths."""
    messages = [] if system is None else [Message("system", (system,))]
    for question, answer in TEXTS[:num_turns]:
        messages += [Message("user", question), Message("assistant", (answer,))]
    messages = messages[:-1]
    return messages, [image(index, 3 + index) for index in range(sum(message.num_images for message in messages))]


def ids_of(prompt):
    return [key if isinstance(key, int) else IMAGE_TOKEN_ID for key in prompt.keys]


@pytest.mark.parametrize("system", [None, "", "Be <image> brief.</s>"])
@pytest.mark.parametrize("num_turns", [1, 2, 4])
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_prompt_has_the_ids_of_the_conversation_in_training(processor, name, num_turns, system):
    processor = processor.with_template(name)
    messages, images = talk(num_turns, system)
    prompt = chat_prompt(processor, messages, images, AnswerMemory())
    segments = render(Conversation(messages), get_template(name), add_generation_prompt=True)
    assert ids_of(prompt) == tokenize(segments, processor.tokenizer, [tiles.num_tokens for _, tiles in images])[0]
    places = [key for key in prompt.keys if isinstance(key, tuple)]
    assert places == [(name, number) for name, tiles in images for number in range(tiles.num_tokens)]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_begun_answer_has_the_ids_of_the_same_answer_in_training_without_its_end(processor, name):
    processor = processor.with_template(name)
    messages, images = talk(2)
    messages.append(Message("assistant", "The square <image>"))
    prompt = chat_prompt(processor, messages, images, AnswerMemory(), is_continued=True)
    whole = [*messages[:-1], Message("assistant", ("The square <image>",))]
    counts = [tiles.num_tokens for _, tiles in images]
    segments = render(Conversation(whole), get_template(name))
    ids, closed = tokenize(segments, processor.tokenizer, counts)[0], ids_of(prompt)
    assert ids[: len(closed)] == closed
    template = get_template(name)
    assert processor.tokenizer.decode(ids[len(closed) :], skip_special=False).strip(" ") == (
        template.answer_tail + template.answer_end
    ).strip(" ")
    assert prompt.start_text == "The square <image>" and closed[-len(prompt.start_ids) :] == list(prompt.start_ids)


def test_answer_begun_with_no_text_is_a_new_answer(processor):
    messages, images = talk(2)
    empty = [*messages, Message("assistant", "")]
    memory = AnswerMemory()
    assert chat_prompt(processor, empty, images, memory, is_continued=True).keys == (
        chat_prompt(processor, messages, images, memory).keys
    )


def test_known_answer_has_the_ids_that_were_generated_and_is_closed_if_it_was_cut(processor):
    messages, images = talk(2)
    first = chat_prompt(processor, messages[:1], [], AnswerMemory())
    memory = AnswerMemory()
    memory.keep(first.context.digest("It is red."), [300, 301], is_closed=False)
    prompt = chat_prompt(processor, messages, images, memory)
    start = [*first.keys, 300, 301, processor.tokenizer.eos_id]
    assert prompt.keys[: len(start)] == start
    other = [messages[0], Message("assistant", "It is blue."), messages[2]]
    assert 300 not in chat_prompt(processor, other, images, memory).keys


def test_answer_to_another_image_is_not_known(processor):
    messages = [Message("user", ("", "\nWhat?"))]
    contexts = [chat_prompt(processor, messages, [image(index)], AnswerMemory()).context for index in (1, 2)]
    assert contexts[0].digest("a") != contexts[1].digest("a") != contexts[1].digest("b")


@pytest.mark.parametrize(
    ("messages", "num_images", "expected"),
    [
        ([], 0, "no user message"),
        ([Message("assistant", "a")], 0, "message 1 has role 'assistant'"),
        ([Message("user", ("a",)), Message("user", ("b",))], 0, "message 2 has role 'user', expected 'assistant'"),
        ([Message("user", ("a",)), Message("assistant", "b")], 0, "is an answer already"),
        ([Message("user", ("a",))], 1, "0 places for 1 image:"),
        ([Message("user", ("a", "b"))], 0, "1 place for 0 images"),
        (
            [Message("system", ("a", "b")), Message("user", ("a",))],
            1,
            r"messages\[0\] has images and the role 'system'",
        ),
        ([Message("user", ("a\ud800",))], 0, r"messages\[0\].*half of a surrogate pair"),
    ],
)
def test_bad_conversation_is_an_error_that_names_the_message(processor, messages, num_images, expected):
    with pytest.raises(ValueError, match=expected):
        chat_prompt(processor, messages, [image(index) for index in range(num_images)], AnswerMemory())


def test_special_tokens_count_in_a_raw_text_and_the_mark_of_an_image_does_not(processor):
    tokenizer = processor.tokenizer
    prompt = raw_prompt(processor, "USER: hi <image></s>")
    assert prompt.keys[0] == tokenizer.bos_id and prompt.keys[-1] == tokenizer.eos_id
    assert prompt.keys[1:-1] == tokenizer.encode("USER: hi <image>", is_start=True)
    assert raw_prompt(processor, "<s>USER").keys == raw_prompt(processor, "USER").keys
    assert prompt.is_continuing and prompt.text == "USER: hi <image></s>"


def test_raw_ids_are_taken_as_they_are(processor):
    prompt = raw_prompt(processor, (1, 300, 301))
    assert prompt.keys == [1, 300, 301]
    assert prompt.text == processor.tokenizer.decode([1, 300, 301], skip_special=False)


@pytest.mark.parametrize("ids", [(IMAGE_TOKEN_ID,), (5, -1), (1 << 40,)])
def test_raw_id_outside_of_the_vocabulary_is_an_error_with_its_place(processor, ids):
    with pytest.raises(ValueError, match=rf"prompt\[{len(ids) - 1}\] is {ids[-1]}"):
        raw_prompt(processor, ids)


def test_empty_prompt_is_an_error(processor):
    with pytest.raises(ValueError, match="prompt is empty"):
        raw_prompt(processor, ())


def test_too_long_prompt_is_an_error_with_its_counts_of_text_and_images(processor):
    messages = [Message("user", ("", "\nWhat is this?"))]
    prompt = chat_prompt(processor, messages, [image(0, 300)], AnswerMemory())
    number = len(prompt.keys)
    assert check_room(prompt, number + 1) == 1
    counts = rf"{number} tokens \({number - 300} of text, 300 of 1 image\)"
    with pytest.raises(PromptTooLongError, match=f"{counts}.*holds {number}"):
        check_room(prompt, number)


def test_text_of_many_megabytes_is_refused_before_it_is_tokenized():
    with pytest.raises(PromptTooLongError, match=r"20000000 characters.*holds 4096"):
        check_length([Message("user", ("a" * 20_000_000,))], None, 4096)
    check_length([Message("user", ("a" * 1000,))], "b" * 1000, 1024)


def test_answer_memory_drops_what_was_not_used_for_longest():
    memory = AnswerMemory(max_ids=300)
    for number in range(3):
        memory.keep(bytes([number]), [number] * 30, is_closed=True)
        assert memory.find(b"\x00") == KnownAnswer((0,) * 30, True)
    memory.keep(b"\x03", [3] * 30, is_closed=False)
    assert memory.num_ids <= 300 and memory.find(b"\x01") is None and memory.find(b"\x00") is not None
    memory.keep(b"\x03", [4], is_closed=True)
    assert memory.find(b"\x03") == KnownAnswer((4,), True)


def test_answer_larger_than_the_memory_is_not_kept():
    memory = AnswerMemory(max_ids=100)
    memory.keep(b"a", range(1000), is_closed=True)
    assert len(memory) == 0 and memory.num_ids == 0

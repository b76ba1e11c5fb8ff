"""Read each row format."""

from __future__ import annotations

import pytest

from paddlemix.conversation.messages import Conversation, Message
from paddlemix.data.readers.files import read_row

PAIRS = {"image": ["a.png", "b.png"], "conversations": [["<image>\nWhat?", "A square."], ["And <image>?", "A circle."]]}
LLAVA = {
    "id": 7,
    "image": ["a.png", "b.png"],
    "conversations": [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": "A square."},
        {"from": "human", "value": "And <image>?"},
        {"from": "gpt", "value": "A circle."},
    ],
}
MESSAGES = {
    "images": ["a.png", "b.png"],
    "messages": [
        {"role": "user", "content": "<image>\nWhat?"},
        {"role": "assistant", "content": "A square."},
        {"role": "user", "content": "And <image>?"},
        {"role": "assistant", "content": [{"type": "text", "text": "A circle."}]},
    ],
}
EXPECTED = Conversation(
    (
        Message("user", "<image>\nWhat?"),
        Message("assistant", "A square."),
        Message("user", "And <image>?"),
        Message("assistant", "A circle."),
    ),
    ("a.png", "b.png"),
)


def user(content):
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "Yes."}]}


def pieces_of(conversation):
    return [message.pieces for message in conversation.messages]


@pytest.mark.parametrize("row", [PAIRS, LLAVA, MESSAGES], ids=["pairs", "llava", "messages"])
def test_every_format_is_read_to_the_same_conversation(row):
    assert read_row(row) == (EXPECTED, [])


@pytest.mark.parametrize(
    ("row", "images"),
    [
        ({"conversations": [["Hi", "Hello"]]}, ()),
        ({"image": None, "conversations": [["Hi", "Hello"]]}, ()),
        ({"image": [], "conversations": [["Hi", "Hello"]]}, ()),
        ({"image": "a.png", "conversations": [["<image>\nHi", "Hello"]]}, ("a.png",)),
        ({"image": ["a.png"], "conversations": [["Hi<image>", "Hello"]]}, ("a.png",)),
    ],
)
def test_image_may_be_absent_null_a_string_or_a_list(row, images):
    assert read_row(row)[0].images == images


def test_system_turn_is_kept_in_llava_and_messages_rows():
    llava = [{"from": "system", "value": "Be brief."}, {"from": "user", "value": "Hi"}]
    llava.append({"from": "assistant", "value": "Hello"})
    messages = [{"role": turn["from"], "content": turn["value"]} for turn in llava]
    assert read_row({"conversations": llava}) == read_row({"messages": messages})
    assert read_row({"messages": messages})[0].messages[0] == Message("system", "Be brief.")


def test_image_without_mark_is_placed_before_the_first_user_turn_and_reported():
    conversation, changes = read_row({"image": "a.png", "conversations": [["What?", "A square."], ["So?", "Yes."]]})
    assert pieces_of(conversation)[0] == ("", "\nWhat?")
    assert len(changes) == 1 and "placed" in changes[0]


def test_leading_answer_is_dropped_and_reported():
    turns = [{"from": "gpt", "value": "Earlier."}, *LLAVA["conversations"]]
    conversation, changes = read_row(LLAVA | {"conversations": turns})
    assert conversation == EXPECTED
    assert len(changes) == 1 and "left out" in changes[0]


def test_leading_answer_after_a_system_turn_is_dropped_and_the_system_turn_kept():
    turns = [{"from": "system", "value": "Be brief."}, {"from": "gpt", "value": "Earlier."}, *LLAVA["conversations"]]
    conversation, changes = read_row(LLAVA | {"conversations": turns})
    assert conversation.messages == (Message("system", "Be brief."), *EXPECTED.messages)
    assert len(changes) == 1


def test_parts_name_their_own_images_or_take_images_of_the_row():
    parts = [
        {"type": "image_url", "image_url": {"url": "https://example.org/b.png"}},
        {"type": "image"},
        {"type": "text", "text": "Same?"},
        {"type": "image", "image": "c.png"},
    ]
    conversation, _ = read_row(user(parts) | {"images": ["a.png"]})
    assert conversation.images == ("https://example.org/b.png", "a.png", "c.png")
    # Each image is on its own line, as in LLaVA's data.
    assert pieces_of(conversation)[0] == ("", "\n", "\nSame?\n", "")


def test_mark_in_text_parts_takes_the_image_of_the_row():
    row = user([{"type": "text", "text": "<image>\nWhat?"}]) | {"image": "a.png"}
    assert read_row(row)[0] == Conversation(
        (Message("user", "<image>\nWhat?"), Message("assistant", "Yes.")), ("a.png",)
    )


BAD_ROWS = {
    "not an object": (["Hi", "Hello"], ["expected an object", "list"]),
    "no known key": ({"image": "a.png", "text": "Hi"}, ["'image', 'text'", "conversations", "messages"]),
    "other key": (
        {"図": ["a.PNG"], "foo": 1, "conversations": [["<image>\nHi", "Hello"]]},
        ["1 <image> mark but 0 images", "the unknown key '図'; did you mean 'image'?"],
    ),
    "no turns": ({"conversations": []}, ["'conversations' is [] (list)"]),
    "turns of no kind": ({"conversations": "Hi"}, ["'conversations' is 'Hi' (str)"]),
    "odd pair": (
        {"conversations": [["Hi", "Hello"], ["So?"]]},
        ["turn 2 of 'conversations'", "[user, assistant]", "list of 1"],
    ),
    "pair of three": ({"conversations": [["a", "b", "c"]]}, ["turn 1 of 'conversations'", "list of 3"]),
    "flat pair": ({"conversations": ["Hi", "Hello"]}, ["turn 1 of 'conversations'", "'Hi' (str)"]),
    "pair not of strings": ({"conversations": [["Hi", 5]]}, ["turn 1 of 'conversations'", "assistant", "5 (int)"]),
    "no value": (
        {"conversations": [{"from": "human", "text": "Hi"}]},
        ["turn 1 of 'conversations'", "'value'", "'from', 'text'"],
    ),
    "value not a string": (
        {"conversations": [{"from": "human", "value": None}]},
        ["turn 1 of 'conversations'", "None (NoneType)"],
    ),
    "unknown from": (
        {"conversations": [{"from": "bot", "value": "Hi"}]},
        ["turn 1 of 'conversations'", "'bot'", "human, gpt"],
    ),
    "turn not an object": (
        {"conversations": [LLAVA["conversations"][0], "x"]},
        ["turn 2 of 'conversations'", "'x' (str)"],
    ),
    "no content": ({"messages": [{"role": "user"}]}, ["turn 1 of 'messages'", "'content'"]),
    "unknown role": (
        {"messages": [{"role": "tool", "content": "x"}]},
        ["turn 1 of 'messages'", "'tool'", "user, assistant"],
    ),
    "messages not a list": ({"messages": "Hi"}, ["'messages' must be a list", "'Hi' (str)"]),
    "unknown part": (
        user([{"type": "video", "video": "a.mp4"}]),
        ["part 1 of 'content' of turn 1 of 'messages'", "video", "text, image"],
    ),
    "parts and mark": (
        user([{"type": "image", "image": "a.png"}, {"type": "text", "text": "<image>"}]),
        ["use one of"],
    ),
    "more parts than images": (
        user([{"type": "image"}, {"type": "image"}]) | {"image": "a.png"},
        ["2 image", "which has 1"],
    ),
    "more images than parts": (
        user([{"type": "image", "image": "a.png"}]) | {"images": ["b.png"]},
        ["0 image", "which has 1"],
    ),
    "empty answer": ({"conversations": [["Hi", "Hello"], ["So?", " \n"]]}, ["message 4", "empty"]),
    "two questions": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "human", "value": "Hi"}]},
        ["message 2", "expected 'assistant'"],
    ),
    "question at the end": (
        {"conversations": [*LLAVA["conversations"][:3]], "image": ["a", "b"]},
        ["message 3", "end with an assistant"],
    ),
    "late system turn": (
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "x"}]},
        ["message 2", "'system'"],
    ),
    "answers only": ({"conversations": [{"from": "gpt", "value": "Hi"}]}, ["no user message"]),
    "mark without image": ({"conversations": [["<image>\nHi", "Hello"]]}, ["1 <image>", "0 images"]),
    "fewer marks than images": (PAIRS | {"image": ["a", "b", "c"]}, ["2 <image>", "3 images"]),
    "mark in an answer": (
        {"image": "a", "conversations": [["Hi", "<image>"]]},
        ["message 2", "'assistant'", "'user' only"],
    ),
    "image not a path": ({"image": 5, "conversations": [["Hi", "Hello"]]}, ["'image'", "5 (int)"]),
    "image an empty path": ({"images": ["a", ""], "conversations": [["Hi", "Hello"]]}, ["'images'", "'' (str)"]),
    "image and images": ({"image": "a", "images": ["b"], "conversations": [["Hi", "Hello"]]}, ["both"]),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_refused_with_what_was_found_and_expected(name):
    row, words = BAD_ROWS[name]
    with pytest.raises(ValueError) as caught:
        read_row(row)
    assert all(word in str(caught.value) for word in words), str(caught.value)

"""Roles in conversations, places of images, and turns compared with the whole."""

from __future__ import annotations

import pytest

from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.render import place_images, render, render_answer, render_turn
from paddlemix.conversation.templates import TEMPLATES, get_template
from paddlemix.conversation.tokenize import merge_text, tokenize


def talk(*roles):
    return Conversation([Message(role, f"text {index}") for index, role in enumerate(roles)])


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ((), "no user message"),
        (("system",), "no user message"),
        (("assistant", "user"), "message 1 has role 'assistant', expected 'user'"),
        (("user", "user", "assistant"), "message 2 has role 'user', expected 'assistant'"),
        (("user", "system", "assistant"), "message 2 has role 'system'"),
        (("system", "user", "assistant", "assistant"), "message 4 has role 'assistant', expected 'user'"),
        (("user", "assistant", "user"), "message 3, the last one, has role 'user'"),
    ],
)
def test_wrong_order_of_roles_names_the_message(roles, message):
    with pytest.raises(ValueError, match=message):
        render(talk(*roles), get_template("vicuna_v1"))


def test_generating_after_an_answer_is_refused():
    with pytest.raises(ValueError, match="message 2, the last one, is an answer already"):
        render(talk("user", "assistant"), get_template("vicuna_v1"), add_generation_prompt=True)


def test_image_in_the_system_text_is_refused():
    messages = [Message("system", "see <image>"), *talk("user", "assistant").messages]
    with pytest.raises(ValueError, match="message 1, the system text, has 1 <image> marks"):
        render(Conversation(messages), get_template("vicuna_v1"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_whole_is_the_concatenation_of_its_turns(name):
    template = get_template(name)
    conversation = talk("user", "assistant", "user", "assistant", "user")
    parts = []
    for index, message in enumerate(conversation.messages):
        is_answer = message.role == "assistant"
        part = render_answer(message, template) if is_answer else render_turn(message, template, is_first=index == 0)
        parts += part
    assert render(conversation, template, add_generation_prompt=True) == parts


# Without prompts, answers follow each other: trained text must end where untrained text starts.
@pytest.mark.parametrize("name", [name for name in TEMPLATES if not get_template(name).is_prompt_text_dropped])
def test_untrained_answer_has_the_tokens_of_a_trained_one_and_no_trained_end(name):
    class Characters:
        """Starts each text with its length, so that the ids show which texts were joined."""

        add_bos, bos_id = False, 0
        encode = staticmethod(lambda text, is_start: [len(text), *map(ord, text)])
        special_ids = staticmethod(lambda text, is_start: [-1])
        has_prefix_after = is_stripped_after = staticmethod(lambda last: False)

    template, messages = get_template(name), talk("user", "assistant", "user", "assistant").messages
    skipped = Conversation([messages[0], Message("assistant", messages[1].text, is_trained=False), *messages[2:]])
    (ids, trained), (held_ids, held_trained) = (
        tokenize(render(one, template), Characters, ()) for one in (Conversation(messages), skipped)
    )
    # The end of the first answer with its end mark, where the next question starts.
    num_first = len(tokenize(render(Conversation(messages[:2]), template), Characters, ())[0])
    assert held_ids == ids
    assert held_trained == [False] * num_first + trained[num_first:]
    assert any(trained[:num_first]) and any(held_trained)


def test_prompt_for_an_answer_ends_without_a_space():
    segments = render(talk("user"), get_template("vicuna_v1"), add_generation_prompt=True)
    assert merge_text(segments)[-1].text.endswith("USER: text 0 ASSISTANT:")


def test_image_is_at_the_place_of_its_mark():
    messages = [Message("user", "a <image> b<image>"), Message("assistant", "c")]
    segments = merge_text(render(Conversation(messages), get_template("mistral_instruct")))
    assert [(s.kind, s.text, s.is_trained) for s in segments] == [
        ("text", "[INST] a ", False),
        ("image", "", False),
        ("text", " b", False),
        ("image", "", False),
        ("text", " [/INST]", False),
        ("text", " c ", True),
        ("special", "</s>", True),
    ]


@pytest.mark.parametrize("text", ["Describe.", ("Describe.",)], ids=["read", "typed"])
def test_images_without_marks_go_before_the_first_question(text):
    messages = [Message("system", "s"), Message("user", text), Message("assistant", "x"), Message("user", "y")]
    placed, has_placed = place_images(Conversation(messages, ["a.png", "b.png"]))
    assert has_placed and placed.images == ("a.png", "b.png") and placed.num_marks == 2
    assert placed.messages[1].pieces == ("", "\n", "\nDescribe.")
    assert placed.messages[:1] + placed.messages[2:] == (messages[0], *messages[2:])


def test_images_with_their_marks_stay():
    conversation = Conversation([Message("user", "see <image>")], ["a.png"])
    assert place_images(conversation) == (conversation, False)
    assert place_images(talk("user")) == (talk("user"), False)


@pytest.mark.parametrize(("num_marks", "num_images"), [(1, 0), (1, 2), (3, 2)])
def test_different_numbers_of_images_and_marks_are_refused_with_both(num_marks, num_images):
    conversation = Conversation([Message("user", "<image>" * num_marks)], ["a.png"] * num_images)
    with pytest.raises(ValueError, match=f"{num_marks} <image> marks for {num_images} images"):
        place_images(conversation)


def test_tokenize_refuses_wrong_counts(tokenizer):
    segments = render(Conversation([Message("user", "<image>")]), get_template("v1"), add_generation_prompt=True)
    with pytest.raises(ValueError, match="1 rendered images but 2 token counts"):
        tokenize(segments, tokenizer, [3, 3])
    with pytest.raises(ValueError, match=r"at least one token, found the counts \[0\]"):
        tokenize(segments, tokenizer, [0])

"""Every template compared with LLaVA's prompts and transformers' tokenizer, and its mask with the answers."""

from __future__ import annotations

import hashlib
import random

import official
import pytest
from small_vocabulary import MARKS, PHI_MARKS

from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.render import render
from paddlemix.conversation.templates import ALIASES, TEMPLATES, get_template
from paddlemix.conversation.tokenize import tokenize, tokenize_turn

ROUNDS = [
    ("What is in the picture?", "A red square."),
    ("Hello,\nwho are  you?", "I am naïve 😀.\n\n  你好"),
    ("12 34", "no"),
]
IMAGE_ROUNDS = [
    ("<image>\nWhat is it?", "A blue circle."),
    ("and <image> this", "the same"),
    ("x<image><image>", "y"),
]
NASTY = [
    "USER:",
    "ASSISTANT:",
    "</s>",
    "<s>",
    "<image>",
    "###",
    "[/INST]",
    "[INST]",
    "<unk>",
]
NASTY += [
    "Human:",
    "<<SYS>>",
    " ",
    "    ",
    "\n",
    "\t",
    "\x00",
    "\x1b",
    "😀",
    "👩‍👩‍👧",
    "你好",
    "▁",
    "é",
    "a",
    "12",
    "\u200b",
    "<0x0A>",
    *MARKS,
    *PHI_MARKS,
]
# Formats whose marks fit into one vocabulary and whose texts are encoded as a whole: ERNIE's prompt ends with a space,
# which is a separate token there. test_phi_marks.py and test_ernie_marks.py test the others.
SHARED = sorted(set(TEMPLATES) - {"phi_3", "ernie"})


def conversation(rounds, open_question=None, system=None):
    messages = [Message("system", system)] if system is not None else []
    for question, answer in rounds:
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation(messages + ([Message("user", open_question)] if open_question is not None else []))


def ids_and_mask(talk, template, tokenizer, add_generation_prompt=False, num_tokens=1):
    counts = [num_tokens] * talk.num_marks
    segments = render(talk, template, add_generation_prompt=add_generation_prompt)
    return tokenize(segments, tokenizer, counts)


def runs(ids, mask, wanted):
    """Return the runs of ids whose mask is `wanted`."""
    found, is_inside = [], False
    for token_id, is_trained in zip(ids, mask, strict=True):
        if is_trained == wanted:
            found = found if is_inside else [*found, []]
            found[-1].append(token_id)
        is_inside = is_trained == wanted
    return found


def official_prompt(template, rounds, open_question=None, system=None):
    style, own_system = official.STYLES[template.name]
    system = (template.system if own_system is None else own_system) if system is None else system
    return style(system, [*template.examples, *rounds], open_question)


@pytest.mark.parametrize("rounds", [ROUNDS[:1], ROUNDS, IMAGE_ROUNDS], ids=["one", "three", "images"])
@pytest.mark.parametrize("name", SHARED)
def test_ids_equal_transformers_on_the_official_prompt(name, rounds, pair):
    tokenizer, reference = pair
    template = get_template(name)
    expected = official.chunk_ids(reference, official_prompt(template, rounds))
    assert ids_and_mask(conversation(rounds), template, tokenizer)[0] == expected
    asked = official.chunk_ids(reference, official_prompt(template, rounds[:-1], rounds[-1][0]))
    talk = conversation(rounds[:-1], rounds[-1][0])
    assert ids_and_mask(talk, template, tokenizer, add_generation_prompt=True)[0] == asked


@pytest.mark.parametrize("rounds", [ROUNDS, IMAGE_ROUNDS], ids=["three", "images"])
def test_ids_equal_transformers_however_chat_marks_are_declared(rounds, marks_pair):
    tokenizer, reference = marks_pair
    template = get_template("chatml_direct")
    ids, _ = ids_and_mask(conversation(rounds), template, tokenizer)
    assert ids == official.chunk_ids(reference, official_prompt(template, rounds))
    assert tokenizer.decode(ids, skip_special=False) == "<s>" + official_prompt(template, rounds)
    assert tokenizer.special_id("<|im_start|>") not in tokenizer.encode("a <|im_start|> b", is_start=True)


@pytest.mark.parametrize("name", sorted(set(SHARED) - {"plain"}))
def test_system_message_replaces_the_text_of_the_template(name, pair):
    tokenizer, reference = pair
    template = get_template(name)
    expected = official.chunk_ids(reference, official_prompt(template, ROUNDS, system="Answer in one word."))
    assert ids_and_mask(conversation(ROUNDS, system="Answer in one word."), template, tokenizer)[0] == expected


def test_long_official_texts_are_unchanged():
    def digest(text):
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    assert digest(TEMPLATES["llama_2"].system) == "d52c188a3c969c4e"
    assert digest("|".join(TEMPLATES["v0"].examples[0])) == "3f60f969878a7993"


@pytest.mark.parametrize("rounds", [ROUNDS[:1], ROUNDS, IMAGE_ROUNDS], ids=["one", "three", "images"])
@pytest.mark.parametrize("name", SHARED)
def test_trained_ids_decode_to_the_answers_and_their_end(name, rounds, pair):
    tokenizer, template = pair[0], get_template(name)
    ids, mask = ids_and_mask(conversation(rounds), template, tokenizer)
    tail = official.ENDS.get(name, "</s>")
    decoded = [tokenizer.decode(run, skip_special=False) for run in runs(ids, mask, True)]
    expected = [answer + tail for _, answer in rounds]
    if name == "plain":
        decoded, expected = "".join(decoded), "".join(expected)
    assert decoded == expected


@pytest.mark.parametrize("name", SHARED)
def test_all_ids_decode_to_the_rendered_text(name, pair):
    tokenizer, template = pair[0], get_template(name)
    ids, _ = ids_and_mask(conversation(IMAGE_ROUNDS), template, tokenizer)
    assert tokenizer.decode(ids, skip_special=False) == "<s>" + official_prompt(template, IMAGE_ROUNDS)


@pytest.mark.parametrize("name", SHARED)
def test_typed_texts_do_not_change_the_mask(name, tokenizer):
    rng = random.Random(name)
    template, specials = get_template(name), set(tokenizer.specials.values())
    for _ in range(30):
        typed = ["".join(rng.choices(NASTY, k=rng.randrange(12))) for _ in range(4)]
        answers = [(message,) for message in typed[2:]]
        results = []
        for questions in (typed[:2], ["a", "b"]):
            messages = []
            for question, answer in zip(questions, answers, strict=True):
                messages += [Message.typed(question, 1), Message("assistant", answer)]
            results.append(ids_and_mask(Conversation(messages), template, tokenizer, num_tokens=2))
        (ids, mask), (plain_ids, plain_mask) = results
        assert runs(ids, mask, True) == runs(plain_ids, plain_mask, True)
        assert [i for i in ids if i in specials] == [i for i in plain_ids if i in specials]
        assert ids.count(-200) == 4


@pytest.mark.parametrize("rounds", [ROUNDS[:1], ROUNDS, IMAGE_ROUNDS], ids=["one", "three", "images"])
@pytest.mark.parametrize("name", ["vicuna_v1", "llava_v1"])
def test_labels_equal_the_official_v1_algorithm(name, rounds, legacy_pair):
    tokenizer, reference = legacy_pair
    prompt = official_prompt(get_template(name), rounds)
    ids, mask = ids_and_mask(conversation(rounds), get_template(name), tokenizer)
    labels = [token_id if is_trained else -100 for token_id, is_trained in zip(ids, mask, strict=True)]
    assert labels == official.v1_labels(reference, prompt, ids)


@pytest.mark.parametrize("name", sorted(set(SHARED) - {"plain"}))
def test_turns_one_by_one_equal_the_whole(name, pair):
    tokenizer, template = pair[0], get_template(name)
    talk = conversation(IMAGE_ROUNDS)
    ids, mask = ids_and_mask(talk, template, tokenizer, num_tokens=3)
    asked = runs(ids, mask, False)
    for index, message in enumerate(talk.messages[::2]):
        counts = [3] * message.num_images
        assert tokenize_turn(message, template, tokenizer, counts, is_first=index == 0) == asked[index]


def test_turn_after_a_cut_answer_starts_with_its_end(tokenizer):
    message = Message.typed("Hello")
    for name, end in (("vicuna_v1", "</s>"), ("chatml_direct", "<|im_end|>")):
        turn = tokenize_turn(message, get_template(name), tokenizer, is_first=False)
        cut = tokenize_turn(message, get_template(name), tokenizer, is_first=False, is_previous_closed=False)
        assert cut == [tokenizer.special_id(end), *turn]


def test_plain_keeps_every_round_and_drops_questions(tokenizer):
    template = get_template("plain")
    rounds = [("<image>\nDescribe.", "A cat"), ("And this? <image>", "A dog")]
    ids, mask = ids_and_mask(conversation(rounds, system="Be brief."), template, tokenizer, num_tokens=2)
    assert [tokenizer.decode(run) for run in runs(ids, mask, True)] == ["A cat\n", "A dog\n"]
    assert runs(ids, mask, False) == [[tokenizer.bos_id, -200, -200], [-200, -200]]


def test_unknown_template_names_all_and_the_nearest():
    with pytest.raises(ValueError, match=r"'vicuna_v2'.*llama_2.*mistral_instruct.*did you mean 'vicuna_v1'"):
        get_template("vicuna_v2")


def test_aliases_and_stops():
    assert get_template("v1") is TEMPLATES["vicuna_v1"] and all(target in TEMPLATES for target in ALIASES.values())
    assert get_template("v1").stop_tokens == ("</s>",) and get_template("v1").stop_strings == ()
    assert get_template("llava_v0").stop_tokens == () and get_template("llava_v0").stop_strings == ("###",)
    assert get_template("mpt").stop_tokens == ("<|im_end|>",)
    assert get_template("llama_3").stop_tokens == ("<|eot_id|>", "<|end_of_text|>")

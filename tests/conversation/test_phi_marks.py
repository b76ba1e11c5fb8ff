"""Phi-3's marks remove the white space after them: `rstrip` in its tokenizer_config.json, transformers issue 32136."""

from __future__ import annotations

import json

import official
import pytest
from small_vocabulary import PHI_MARKS, load_reference, write_folder
from test_fast_tokenizer import train_llama

from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.render import render
from paddlemix.conversation.templates import get_template
from paddlemix.conversation.tokenize import tokenize, tokenize_turn

ROUNDS = [
    ("What is in the picture?", "A red square."),
    ("  \n Hello,\nwho are  you?", " \n I am naïve 😀.\n\n  你好"),
    ("<image>\n What is <image> it?", "<|user|> is text"),
]
SPOKEN = [*ROUNDS[:2], ("<image>\n What is <image> it?", "no")]  # without text that transformers would parse as a mark
PHI_3 = get_template("phi_3")


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not-legacy"])
def phi_pair(request, model, tmp_path_factory):
    folder = write_folder(
        tmp_path_factory.mktemp("phi"), model, legacy=request.param, marks=PHI_MARKS, stripping=PHI_MARKS
    )
    return load_tokenizer(folder), load_reference(folder, request.param)


def conversation(rounds, system=None):
    messages = [] if system is None else [Message("system", system)]
    for question, answer in rounds:
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation(messages)


@pytest.mark.parametrize("system", [None, "\tBe brief."])
def test_ids_equal_transformers_on_the_released_prompt(system, phi_pair):
    tokenizer, reference = phi_pair
    ids, _ = tokenize(render(conversation(SPOKEN, system), PHI_3), tokenizer, [1, 1])
    assert ids == official.chunk_ids(reference, official.STYLES["phi_3"][0](system, SPOKEN, None))


def test_ids_of_a_fast_file_equal_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    spec = train_llama("prepend")  # as Phi-3's own tokenizer.json
    size = max(token["id"] for token in spec["added_tokens"]) + 1
    like = dict(spec["added_tokens"][-1], rstrip=True)
    spec["added_tokens"] += [dict(like, id=size + index, content=mark) for index, mark in enumerate(PHI_MARKS)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "<|end|>"}))
    file = str(tmp_path / "tokenizer.json")
    reference = transformers.PreTrainedTokenizerFast(tokenizer_file=file, bos_token="<s>", eos_token="<|end|>")
    ids, _ = tokenize(render(conversation(SPOKEN, "Be brief."), PHI_3), load_tokenizer(tmp_path), [1, 1])
    assert [reference.bos_token_id, *ids] == official.chunk_ids(
        reference, official.STYLES["phi_3"][0]("Be brief.", SPOKEN, None)
    )


def test_line_breaks_after_marks_have_no_ids(phi_pair):
    tokenizer, _ = phi_pair
    segments = render(Conversation([Message("user", "Hello")]), PHI_3, add_generation_prompt=True)
    ids, _ = tokenize(segments, tokenizer, [])
    marks = [tokenizer.special_id(mark) for mark in ("<|user|>", "<|end|>", "<|assistant|>")]
    assert ids[-2:] == marks[1:] and [i for i in ids if i in marks] == marks
    hello = tokenizer.encode("Hello", is_start=tokenizer.has_prefix_after(marks[0]))
    assert ids[ids.index(marks[0]) + 1 : -2] == hello


def test_marks_without_the_flag_keep_the_line_breaks(model, tmp_path):
    tokenizer = load_tokenizer(write_folder(tmp_path, model, legacy=False, marks=PHI_MARKS))
    segments = render(Conversation([Message("user", "Hello")]), PHI_3, add_generation_prompt=True)
    text = "<|user|>\nHello<|end|>\n<|assistant|>\n"
    assert tokenizer.decode(tokenize(segments, tokenizer, [])[0], skip_special=False).endswith(text)


def test_answers_are_trained_up_to_their_end_and_typed_marks_stay_text(phi_pair):
    tokenizer, _ = phi_pair
    ids, mask = tokenize(render(conversation(ROUNDS), PHI_3), tokenizer, [2, 2])
    trained = [token_id for token_id, is_trained in zip(ids, mask, strict=True) if is_trained]
    assert trained.count(tokenizer.special_id("<|end|>")) == len(ROUNDS)
    text = tokenizer.decode(trained, skip_special=False)
    assert text.split("<|end|>")[1].strip() == ROUNDS[1][1].strip()
    assert text.split("<|end|>")[2].strip() == ROUNDS[2][1]
    assert ids.count(tokenizer.special_id("<|user|>")) == len(ROUNDS)


def test_turns_one_by_one_equal_the_whole(phi_pair):
    tokenizer, _ = phi_pair
    talk = conversation(ROUNDS)
    ids, mask = tokenize(render(talk, PHI_3), tokenizer, [3, 3])
    position = 0
    for index, message in enumerate(talk.messages[::2]):
        turn = tokenize_turn(message, PHI_3, tokenizer, [3] * message.num_images, is_first=index == 0)
        assert ids[position : position + len(turn)] == turn
        position += len(turn)
        assert mask[position] and not mask[position - 1]
        position += mask[position:].index(False) if False in mask[position:] else 0


def test_flag_is_read_from_either_file(model, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens([tokenizers.AddedToken("<a>", rstrip=True), tokenizers.AddedToken("<b>", rstrip=True)])
    (tmp_path / "tokenizer.json").write_text(made.to_str())
    config = {"eos_token": "<a>", "added_tokens_decoder": {"1": {"content": "<b>", "special": True, "rstrip": False}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert [tokenizer.is_stripped_after(token_id) for token_id in (0, 1)] == [True, False]

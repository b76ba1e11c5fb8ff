"""For any text: all tokens of answers and their ends are trained, and none of questions and the system text."""

from __future__ import annotations

import random
import unicodedata

import byte_level
import official
import pytest
from small_vocabulary import MARKS, PHI_MARKS, write_folder
from test_fast_tokenizer import KINDS
from test_fast_tokenizer import write as write_fast

from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.render import render
from paddlemix.conversation.templates import TEMPLATES
from paddlemix.conversation.tokenize import tokenize

NUM_CONVERSATIONS = 12
SENTENCEPIECE = {
    "legacy": {"legacy": True},
    "not-legacy": {"legacy": False},
    "phi": {"legacy": False, "marks": PHI_MARKS, "stripping": PHI_MARKS},
}
VOCABULARIES = (*SENTENCEPIECE, *byte_level.SPECIALS, *KINDS)
LOOK_ALIKES = [*MARKS, *PHI_MARKS, "<s>", "</s>", "<image>", "<unk>", "###", "[/INST]"]
LOOK_ALIKES += ["USER: ", " ASSISTANT:", "Human: ", "<|Bot|>:", "\n<|assistant|>\n"]


@pytest.fixture(scope="module", params=VOCABULARIES)
def tokenizer(request, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    if request.param in SENTENCEPIECE:
        return load_tokenizer(write_folder(folder, model, **SENTENCEPIECE[request.param]))
    if request.param in KINDS:
        return load_tokenizer(write_fast(folder, KINDS[request.param]()))
    return load_tokenizer(byte_level.write_folder(folder, request.param))


@pytest.fixture(scope="module")
def pool():
    return [*byte_level.hard_texts(600), *LOOK_ALIKES * 10]


def can_read(tokenizer, template) -> bool:
    """Return whether a vocabulary has every special token of a format."""
    return set(template.special_tokens) <= set(tokenizer.specials)


def text_from(pool, rng) -> str:
    return rng.choice(("", " ", "\n")).join(rng.choices(pool, k=rng.randrange(1, 5)))


def talk(system, questions, answers) -> Conversation:
    """Return a conversation of typed texts. A question is (text, number of images)."""
    messages = [] if system is None else [Message("system", (system,))]
    for (question, num_images), answer in zip(questions, answers, strict=True):
        messages += [Message.typed(question, num_images), Message("assistant", (answer,))]
    return Conversation(messages)


def ids_and_mask(conversation, template, tokenizer, rng):
    counts = [rng.randrange(1, 4) for _ in range(conversation.num_marks)]
    return tokenize(render(conversation, template), tokenizer, counts), sum(counts)


def split(ids, mask) -> tuple[list[list[int]], list[int]]:
    """Return the runs of trained ids, and all other ids except images in one list."""
    runs, rest, was_trained = [], [], False
    for token_id, is_trained in zip(ids, mask, strict=True):
        if is_trained and not was_trained:
            runs.append([])
        (runs[-1] if is_trained else rest).append(token_id)
        was_trained = is_trained
    return runs, [token_id for token_id in rest if token_id != -200]


def text_of(tokenizer, ids) -> str:
    """Return the text of ids, in normal form."""
    return normal(b"".join(tokenizer.token_bytes(token_id) for token_id in ids).decode("utf-8"))


def normal(text: str) -> str:
    """Return a text without differences that vocabularies ignore: the form of accents, LLaMA's sign for a space.

    At its start a text may win or lose white space.
    """
    return unicodedata.normalize("NFC", text).replace("▁", " ").lstrip()


def random_parts(pool, rng, needs_image):
    num_turns = rng.randrange(1, 4)
    system = rng.choice((None, text_from(pool, rng)))
    questions = [(text_from(pool, rng), max(rng.choice((0, 0, 1, 2)), needs_image)) for _ in range(num_turns)]
    return system, questions, [text_from(pool, rng) for _ in range(num_turns)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_exactly_the_answers_and_their_ends_are_trained(name, tokenizer, pool):
    template = TEMPLATES[name]
    if not can_read(tokenizer, template):
        with pytest.raises(ValueError, match="special token"):
            tokenize(render(talk(None, [("Hi", 0)], ["Hello"]), template), tokenizer, [])
        return
    rng = random.Random(name)
    end = official.ENDS.get(name, "</s>")
    for _ in range(NUM_CONVERSATIONS):
        # Without the text of a question, only an image separates two answers.
        system, questions, answers = random_parts(pool, rng, template.is_prompt_text_dropped)
        (ids, mask), num_placeholders = ids_and_mask(talk(system, questions, answers), template, tokenizer, rng)
        runs, rest = split(ids, mask)
        assert [text_of(tokenizer, run) for run in runs] == [normal(answer + end) for answer in answers]
        assert ids.count(-200) == num_placeholders
        assert not any(is_trained for token_id, is_trained in zip(ids, mask, strict=True) if token_id == -200)
        # The trained ids belong to the answers, not to equal text in a question: they do not depend on the questions.
        others = [(text_from(pool, rng), num_images) for _, num_images in questions]
        (ids, mask), _ = ids_and_mask(talk(text_from(pool, rng), others, answers), template, tokenizer, rng)
        assert split(ids, mask)[0] == runs
        # The untrained ids belong to questions and system text: they do not depend on the answers.
        others = [text_from(pool, rng) for _ in answers]
        (ids, mask), _ = ids_and_mask(talk(system, questions, others), template, tokenizer, rng)
        assert split(ids, mask)[1] == rest


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_format_is_tested_with_its_own_vocabulary(name):
    marks = [{*MARKS, "<s>", "</s>"}, {*PHI_MARKS, "<s>", "</s>"}, *map(set, byte_level.SPECIALS.values())]
    assert any(set(TEMPLATES[name].special_tokens) <= vocabulary for vocabulary in marks)

"""A chat that keeps its cache, against the same conversation read anew for every answer."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest
import tiny_folder

from paddlemix import LlavaForConditionalGeneration
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.data.sample import Sample
from paddlemix.generate import sequence as sequence_module
from paddlemix.generate.engine import Engine, engine_of
from paddlemix.generate.features import FeatureStore
from paddlemix.generate.sampler import Sampler
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.session import ChatSession, ContextFullError
from paddlemix.image.errors import ImageError
from paddlemix.models.language.families import FAMILIES

GREEDY = SamplingParams(max_new_tokens=6)
SEEDED = SamplingParams(temperature=1.0, top_k=40, top_p=0.95, max_new_tokens=6, seed=3)
# Five turns: text, an image, text, another image, the first image again.
TURNS = (("Hello", ()), ("What is this?", (1,)), ("And why?", ()), ("And this?", (2,)), ("Compare.", (1,)))
TEMPLATES = ("vicuna_v1", "llava_v1", "llava_v0", "llava_llama_2", "mistral_instruct", "plain")


@pytest.fixture(scope="module", params=["pad", "anyres"])
def parts(request):
    return tiny_folder.load(request.param)


@pytest.fixture(scope="module")
def pad_parts():
    return tiny_folder.load("pad")


@pytest.fixture(autouse=True)
def new_engine(request):
    """Start each test with a model that has computed nothing."""
    for name in {"parts", "pad_parts"} & set(request.fixturenames):
        request.getfixturevalue(name)[0].engine = None


def images(seeds):
    return [tiny_folder.random_image(seed) for seed in seeds]


def reference_ids(model, processor, ids, tiles, sampling, max_new_tokens=None):
    """Continue ids one by one, each with a forward pass over everything and no cache."""
    sampler, answer = Sampler(sampling), []
    for _ in range(max_new_tokens or sampling.max_new_tokens):
        batch = processor.collate([Sample(np.array([*ids, *answer]), None, tuple(tiles))])
        with paddle.no_grad():
            logits = model(batch)[0, -1].numpy()
        token = sampler(logits[: processor.tokenizer.vocab_size])
        answer.append(token)
        if token == processor.tokenizer.eos_id:
            break
    return answer


def reference_answer(session, sampling, max_new_tokens=None):
    """Return the ids that the last turn should have, from the ids before it alone."""
    ids = [token for turn in session.turns[:-1] for token in (*turn.prompt_ids, *turn.answer_ids)]
    tiles = [tile for turn in session.turns for _, tile in turn.images]
    ids += session.turns[-1].prompt_ids
    return reference_ids(session.model, session.processor, ids, tiles, sampling, max_new_tokens)


def fresh_copy(session):
    """Return a session of the same turns that has computed nothing yet."""
    engine = Engine(session.model)
    fresh = ChatSession(
        session.model, session.processor, system=session.system, sampling=session.sampling, engine=engine
    )
    fresh.turns = [dataclasses.replace(turn) for turn in session.turns]
    return fresh


def check_next_turn(session, text="What now?", images=()):
    """Ask, and compare with a session that starts from nothing and with a pass without a cache."""
    fresh = fresh_copy(session)
    answer = session.ask(text, images)
    assert answer == fresh.ask(text, images)
    assert session.turns[-1].answer_ids == reference_answer(session, session.sampling)
    assert fresh.num_prefilled == fresh.num_tokens - len(fresh.turns[-1].answer_ids)


def count_tower_calls(model, request):
    calls = []
    hook = model.vision_tower.register_forward_post_hook(lambda layer, inputs, output: calls.append(inputs[0].shape[0]))
    request.addfinalizer(hook.remove)
    return calls


def script(monkeypatch, ids):
    """Make the session draw these ids, one after the other, whatever the logits are."""
    source = iter(ids)
    choose_by(monkeypatch, lambda logits: next(source))


def choose_by(monkeypatch, function):
    """Let a function of the logits choose the ids of sequences that are made from now on."""
    made = type("Scripted", (Sampler,), {"__call__": lambda self, logits: function(logits)})
    monkeypatch.setattr(sequence_module, "Sampler", made)


class StopsAfterThree(Sampler):
    """Draws three tokens and then the end of the answer."""

    num_drawn = 0

    def __call__(self, logits):
        self.num_drawn += 1
        return 2 if self.num_drawn == 4 else super().__call__(logits)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_every_turn_equals_a_full_pass_over_the_same_history(sampling, parts):
    session = ChatSession(*parts, sampling=sampling)
    texts = []
    for text, seeds in TURNS:
        fresh = fresh_copy(session)
        texts.append(session.ask(text, images(seeds)))
        assert texts[-1] == fresh.ask(text, images(seeds))
        assert session.turns[-1].answer_ids == reference_answer(session, sampling)
        assert texts[-1] == session.processor.decode(session.turns[-1].answer_ids)
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_chat_over_every_family_equals_a_full_pass(family, pad_parts):
    model, processor = pad_parts
    stated = tiny_folder.language_json(family, model.config.language.vocab_size)
    config = dataclasses.replace(model.config, language=FAMILIES[family].read(stated))
    other = LlavaForConditionalGeneration(config)
    other.initialize_weights(1, std=tiny_folder.STD)
    other.eval()
    session = ChatSession(other, processor, sampling=SEEDED)
    for text, seeds in TURNS[:3]:
        session.ask(text, images(seeds))
        assert session.turns[-1].answer_ids == reference_answer(session, SEEDED)
    session.turns.pop()  # so that the cache is cut back
    check_next_turn(session)


def test_answers_depend_on_image_and_history(parts):
    answers = set()
    for seeds in ((1,), (2,)):
        session = ChatSession(*parts, sampling=GREEDY)
        answers |= {session.ask("What is this?", images(seeds)), session.ask("What is this?")}
    assert len(answers) == 4


def test_later_turn_computes_its_own_tokens_only(parts):
    session = ChatSession(*parts, sampling=GREEDY)
    session.ask("What is this?", images([1]))
    assert session.num_prefilled == len(session.turns[0].prompt_ids)
    for text, seeds in TURNS:
        session.ask(text, images(seeds))
        # The last token of the answer before was never computed: nothing had to follow it.
        assert session.num_prefilled == len(session.turns[-1].prompt_ids) + 1


def test_tower_sees_each_distinct_image_once(parts, request):
    calls = count_tower_calls(parts[0], request)
    session = ChatSession(*parts, sampling=GREEDY)
    for text, seeds in TURNS:
        session.ask(text, images(seeds))
    session.clear()
    session.ask("Again?", images([2, 1]))
    assert sum(calls) == sum(len(parts[1].tiles(tiny_folder.random_image(seed)).pixels) for seed in (1, 2))


def test_closed_turns_equal_a_full_pass(parts, monkeypatch):
    monkeypatch.setattr(sequence_module, "Sampler", StopsAfterThree)
    session = ChatSession(*parts, sampling=GREEDY)
    for text, seeds in TURNS[:3]:
        session.ask(text, images(seeds))
        turn = session.turns[-1]
        assert turn.answer_ids == [*reference_answer(session, GREEDY, 3), 2]
        assert turn.is_closed and turn.finish_reason == "stop"


@pytest.mark.parametrize("num_turns", [1, 2, 3])
def test_after_drop_oldest_the_answer_equals_a_fresh_sessions(num_turns, parts):
    session = ChatSession(*parts, sampling=GREEDY)
    for text, seeds in TURNS[:4]:
        session.ask(text, images(seeds))
    session.drop_oldest(num_turns)
    assert len(session.turns) == 4 - num_turns
    check_next_turn(session, "Compare.", images([1]))
    ids = [token for turn in session.turns for token in (*turn.prompt_ids, *turn.answer_ids)]
    assert ids[0] == 1 and ids.count(1) == 1  # the turn that is now first starts the conversation
    assert session.processor.template.system in session.processor.tokenizer.decode(ids)


def test_clear_forgets_the_conversation(parts):
    session = ChatSession(*parts, sampling=GREEDY)
    first = session.ask("What is this?", images([1]))
    session.ask("And this?", images([2]))
    session.clear()
    assert session.num_tokens == 0 and session.messages == []
    assert session.ask("What is this?", images([1])) == first
    assert session.num_prefilled == 1  # the prompt of before is still in the cache, and one place is always read


def test_prompt_that_ends_with_an_image_can_be_read_again(parts):
    model, processor = parts
    session = ChatSession(model, processor, template="plain", sampling=GREEDY)
    first = session.ask("", images([1]))
    session.clear()
    assert session.ask("", images([1])) == first
    assert session.turns[0].prompt_ids[-1] == -200  # the place that is always read is inside the image
    assert session.num_prefilled == 1
    assert session.turns[0].answer_ids == reference_answer(session, GREEDY)


def feature_bytes(processor, seed):
    """Return the bytes of an image's features in the tiny models."""
    return processor.tiles(tiny_folder.random_image(seed)).num_tokens * tiny_folder.LANGUAGE["hidden_size"] * 4


@pytest.mark.parametrize("is_kept", [False, True])
def test_forgotten_images_are_encoded_again_when_they_are_needed_again(is_kept, parts, request):
    max_bytes = max(feature_bytes(parts[1], seed) for seed in (1, 2)) if is_kept else 0
    engine = Engine(parts[0], features=FeatureStore(max_bytes), prefix_bytes=0)
    session = ChatSession(*parts, sampling=GREEDY, engine=engine)
    session.ask("Hello")
    session.ask("What is this?", images([1]))
    session.ask("And this?", images([2]))
    session.drop_oldest()  # both images have to be computed again, but at most one is kept
    calls = count_tower_calls(parts[0], request)
    check_next_turn(session)
    assert calls
    assert len(engine.features) == is_kept and engine.features.num_bytes <= max_bytes


def test_one_question_may_have_more_images_than_are_kept(parts):
    session = ChatSession(*parts, sampling=GREEDY, engine=Engine(parts[0], features=FeatureStore(1)))
    session.ask("Compare.", images([1, 2]))
    assert session.turns[0].answer_ids == reference_answer(session, GREEDY)
    check_next_turn(session)


@pytest.mark.parametrize("num_pieces", [1, 3])
def test_interrupted_answer_stays_as_far_as_it_came(num_pieces, parts):
    session = ChatSession(*parts, sampling=GREEDY)
    session.ask("Hello")
    stream = session.stream("What is this?", images([1]))
    pieces = [next(stream) for _ in range(num_pieces)]
    stream.close()
    turn = session.turns[-1]
    assert turn.finish_reason == "interrupted" and not turn.is_closed
    assert turn.answer == "".join(pieces)
    assert turn.answer_ids == reference_answer(session, GREEDY)[: len(turn.answer_ids)]
    check_next_turn(session)
    assert session.turns[-1].prompt_ids[0] == 2  # the open answer is closed first


@pytest.mark.parametrize("is_deleted", [False, True])
def test_answer_that_was_never_begun_leaves_no_trace(is_deleted, pad_parts):
    session = ChatSession(*pad_parts, sampling=GREEDY)
    session.ask("Hello")
    stream = session.stream("What is this?", images([1]))
    if is_deleted:
        del stream
    else:
        stream.close()
    other = ChatSession(*pad_parts, sampling=GREEDY)
    other.ask("Hello")
    assert session.messages == other.messages and session.num_tokens == other.num_tokens
    assert session.ask("And you?") == other.ask("And you?")
    assert session.messages == other.messages


def test_interruption_before_the_first_token_leaves_no_trace(pad_parts, monkeypatch):
    session = ChatSession(*pad_parts, sampling=GREEDY)
    session.ask("What is this?", images([1]))

    def interrupted(logits):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        choose_by(patch, interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.ask("What is this?", images([1]))  # the same question, so that the turns are alike
    assert len(session.turns) == 1
    check_next_turn(session)


def test_interruption_while_a_token_is_computed_leaves_a_usable_cache(pad_parts, monkeypatch):
    session = ChatSession(*pad_parts, sampling=GREEDY)
    session.ask("What is this?", images([1]))
    decoder = engine_of(pad_parts[0])._passes.decoder
    decode, calls = decoder.decode, []

    def interrupted(embeds, cache):
        hidden = decode(embeds, cache)
        calls.append(hidden)
        if len(calls) == 3:
            raise KeyboardInterrupt  # after the model has written to the cache
        return hidden

    with monkeypatch.context() as patch:
        patch.setattr(decoder, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.ask("And now?")
    assert len(session.turns[-1].answer_ids) == 3
    check_next_turn(session)


def test_answer_cut_by_length_is_closed_before_the_next_question(pad_parts):
    session = ChatSession(*pad_parts, sampling=GREEDY)
    session.ask("Hello")
    turn = session.turns[0]
    assert turn.finish_reason == "length" and len(turn.answer_ids) == GREEDY.max_new_tokens and not turn.is_closed
    session.ask("And you?")
    assert session.turns[1].prompt_ids[0] == session.processor.tokenizer.eos_id


def test_question_that_does_not_fit_changes_nothing(pad_parts):
    session = ChatSession(*pad_parts, sampling=GREEDY)
    session.ask("What is this?", images([1]))
    before = (list(session.messages), session.num_tokens, len(session.engine.features))
    with pytest.raises(ContextFullError, match=f"{tiny_folder.CONTEXT}"):
        session.ask("word " * tiny_folder.CONTEXT, images([2]))
    assert before == (session.messages, session.num_tokens, len(session.engine.features))
    check_next_turn(session)


def test_answer_may_fill_the_context_to_the_last_place(pad_parts):
    session = ChatSession(*pad_parts, sampling=SamplingParams(max_new_tokens=tiny_folder.CONTEXT))
    base = len(session._new_turn("", ()).prompt_ids)
    text = "." * (tiny_folder.CONTEXT - base - 8)
    session.ask(text, sampling=SamplingParams(max_new_tokens=tiny_folder.CONTEXT, ignore_eos=True))
    turn = session.turns[0]
    assert turn.finish_reason == "context" and session.num_tokens == tiny_folder.CONTEXT
    num_new = tiny_folder.CONTEXT - len(turn.prompt_ids)
    assert turn.answer_ids == reference_answer(session, GREEDY, num_new)
    with pytest.raises(ContextFullError):
        session.ask("More?")
    session.clear()
    check_next_turn(ChatSession(*pad_parts, sampling=GREEDY))


def test_typed_marks_are_text(pad_parts):
    model, processor = pad_parts
    session = ChatSession(model, processor, sampling=GREEDY)
    session.ask("<image> is </s> not <s> a mark", images([1]))
    ids = session.turns[0].prompt_ids
    assert ids.count(-200) == tiny_folder.PATCHES
    assert ids.count(1) == 1 and 2 not in ids and ids[0] == 1
    after_image = [token for token in ids[ids.index(-200) :] if token != -200]
    assert processor.decode(after_image) == "<image> is </s> not <s> a mark ASSISTANT:"


def test_chat_without_an_image_never_calls_the_tower(pad_parts, request):
    calls = count_tower_calls(pad_parts[0], request)
    session = ChatSession(*pad_parts, sampling=GREEDY)
    for text in ("Hello", "How many?"):
        session.ask(text)
        assert session.turns[-1].answer_ids == reference_answer(session, GREEDY)
    assert not calls


def test_stop_string_ends_the_answer_and_is_not_shown(pad_parts):
    session = ChatSession(*pad_parts, sampling=GREEDY)
    whole = session.ask("Hello")
    stop = whole[len(whole) // 2 :][:2]
    other = ChatSession(*pad_parts, sampling=GREEDY)
    answer = other.ask("Hello", sampling=dataclasses.replace(GREEDY, stop=(stop,)))
    assert answer == whole[: whole.index(stop)].rstrip()
    assert other.turns[0].finish_reason == "stop" and not other.turns[0].is_closed
    check_next_turn(other)
    assert other.turns[1].prompt_ids[0] == 2


@pytest.mark.parametrize("is_end_mark", [True, False])
def test_only_the_templates_own_end_closes_an_answer(is_end_mark, pad_parts, monkeypatch):
    model, processor = pad_parts
    session = ChatSession(model, processor, template="llava_v0", sampling=GREEDY)
    end = "###" if is_end_mark else "STOP"
    script(monkeypatch, processor.tokenizer.encode(f"A square{end}", is_start=False))
    answer = session.ask("Hello", sampling=SamplingParams(max_new_tokens=30, stop=("STOP",)))
    assert answer == "A square" and session.turns[0].is_closed == is_end_mark
    prompt = processor.tokenizer.decode(session._new_turn("And you?", ()).prompt_ids)
    assert prompt == ("" if is_end_mark else "###") + "Human: And you?###Assistant:"


@pytest.mark.parametrize("template", ["vicuna_v1", "llava_v0"])
def test_empty_answer_stays_in_the_conversation(template, pad_parts, monkeypatch):
    model, processor = pad_parts
    session = ChatSession(model, processor, template=template, sampling=GREEDY)
    with monkeypatch.context() as patch:
        script(patch, [processor.tokenizer.eos_id])
        assert session.ask("Hello") == ""
    assert session.turns[0].finish_reason == "stop"
    assert session.messages == [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": ""}]
    check_next_turn(session)
    ids = [token for turn in session.turns[:-1] for token in (*turn.prompt_ids, *turn.answer_ids)]
    end = processor.with_template(template).template.answer_end
    text = processor.tokenizer.decode(ids + session.turns[-1].prompt_ids, skip_special=False)
    assert text.count(end) == (1 if template == "vicuna_v1" else 4)


def test_ignore_eos_continues_to_the_limit(pad_parts, monkeypatch):
    processor = pad_parts[1]
    ids = processor.tokenizer.encode("A square", is_start=False)
    script(monkeypatch, [*ids[:2], processor.tokenizer.eos_id, *ids[2:], *ids])
    session = ChatSession(*pad_parts)
    sampling = SamplingParams(max_new_tokens=len(ids) + 1, ignore_eos=True)
    session.ask("Hello", sampling=sampling)
    assert session.turns[0].answer_ids == [*ids[:2], processor.tokenizer.eos_id, *ids[2:]]
    assert session.turns[0].finish_reason == "length"


def test_bad_image_changes_nothing(pad_parts, tmp_path):
    session = ChatSession(*pad_parts, sampling=GREEDY)
    session.ask("Hello")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = (list(session.messages), session.num_tokens, len(session.engine.features))
    for bad in (str(tmp_path / "broken.png"), str(tmp_path / "absent.png")):
        with pytest.raises(ImageError):
            session.ask("What is this?", [tiny_folder.random_image(1), bad])
    assert before == (session.messages, session.num_tokens, len(session.engine.features))
    check_next_turn(session, images=images([1]))


def conversation(seeds_by_turn, answers, system=None):
    messages = [] if system is None else [Message("system", system)]
    for (text, seeds), answer in zip(seeds_by_turn, answers, strict=True):
        messages += [Message.typed(text, len(seeds)), Message("assistant", answer)]
    return Conversation(messages, images([seed for _, seeds in seeds_by_turn for seed in seeds]))


def trained_runs(sample):
    """Return the trained ids of each turn."""
    is_trained = np.concatenate([[False], sample.labels != -100, [False]])
    edges = np.flatnonzero(np.diff(is_trained))
    return [sample.token_ids[start:end].tolist() for start, end in edges.reshape(-1, 2)]


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("template", TEMPLATES)
def test_chat_makes_the_ids_of_training(template, system, parts, monkeypatch):
    model, processor = parts
    trainer = processor.with_template(template)
    # "plain" leaves the questions out, so that only an image separates its answers.
    turns = TURNS[:3] if template != "plain" else (TURNS[1], TURNS[3], TURNS[4])
    answers = ["A red square.", "Two <s> circles", "It is blue."]
    sample = trainer.encode(conversation(turns, answers, system))
    script(monkeypatch, [token for run in trained_runs(sample) for token in run])
    session = ChatSession(model, processor, template=template, system=system)
    for (text, seeds), answer in zip(turns, answers, strict=True):
        assert session.ask(text, images(seeds)) == answer
    ids = [token for turn in session.turns for token in (*turn.prompt_ids, *turn.answer_ids)]
    assert ids == sample.token_ids.tolist()


def test_prompt_is_that_of_the_processor(parts):
    model, processor = parts
    session = ChatSession(model, processor, sampling=GREEDY)
    prompt = processor.encode(Conversation([Message.typed("Why?", 2)], images([1, 2])))
    assert prompt.labels is None
    assert session._new_turn("Why?", images([1, 2])).prompt_ids == prompt.token_ids.tolist()


def test_template_and_system_text_change_the_prompt(pad_parts):
    model, processor = pad_parts
    session = ChatSession(model, processor, template="llava_v0", system="Be brief.", sampling=GREEDY)
    session.ask("Hello")
    text = processor.tokenizer.decode(session.turns[0].prompt_ids)
    assert text == "Be brief.###Human: Hello###Assistant:"
    assert session.turns[0].answer_ids == reference_answer(session, GREEDY)
    with pytest.raises(ValueError, match="llava_v0"):
        ChatSession(model, processor, template="lava_v0")


def test_processor_of_a_session_is_not_changed(pad_parts):
    model, processor = pad_parts
    ChatSession(model, processor, template="llava_v0")
    assert isinstance(processor, LlavaProcessor) and processor.template.name == "vicuna_v1"

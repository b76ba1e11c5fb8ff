"""Many questions answered in batches, against a new chat for each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny_folder

from paddlemix import ChatSession, LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.generate.engine import Engine
from paddlemix.generate.requests import WINDOW, Request, answer_all, answer_each
from paddlemix.generate.sampling import SamplingParams

TINY = Path(__file__).parents[2] / "paddlemix" / "examples" / "llava" / "tiny"
GREEDY = SamplingParams(max_new_tokens=20)
SEEDED = SamplingParams(temperature=1.0, top_p=0.95, max_new_tokens=20, seed=5)
ASKED = (
    ("What is this?", (1,)),
    ("Hello", ()),
    ("Compare.", (2, 1)),
    ("What is this?", (2,)),
    ("How many red shapes are on the left?", (1,)),
    ("Where?", ()),
    ("Where?", (1,)),
    ("How many?", (2,)),
)


@pytest.fixture(scope="module", params=["pad", "anyres"])
def parts(request):
    return tiny_folder.load(request.param)


@pytest.fixture(scope="module")
def bundled():
    return LlavaForConditionalGeneration.from_pretrained(TINY / "model"), LlavaProcessor.from_pretrained(TINY / "model")


def requests_of(asked):
    return [Request(text, [tiny_folder.random_image(seed) for seed in seeds]) for text, seeds in asked]


def chats(model, processor, requests, sampling, system=None):
    """Ask each request in a new chat; return (text, ids, finish reason, prompt tokens)."""
    found = []
    for request in requests:
        own = request.sampling or sampling
        session = ChatSession(model, processor, system=system, sampling=own, engine=Engine(model))
        text = session.ask(request.text, request.images)
        turn = session.turns[0]
        found.append((text, tuple(turn.answer_ids), turn.finish_reason, len(turn.prompt_ids)))
    return found


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("options", [{}, {"max_slots": 3}, {"prefix_bytes": 0}, {"max_places": 512}], ids=str)
def test_answers_are_those_of_a_new_chat_for_each(options, sampling, parts):
    requests = requests_of(ASKED)
    answers = answer_all(*parts, requests, sampling, engine=Engine(parts[0], **options))
    assert [dataclasses.astuple(answer) for answer in answers] == chats(*parts, requests, sampling)
    assert len({answer.text for answer in answers}) > 6


@pytest.mark.parametrize("template", ["llava_v0", "mistral_instruct"])
def test_template_system_text_and_stop_strings_are_those_of_the_chat(template, parts):
    model, processor = parts[0], parts[1].with_template(template)
    requests = requests_of(ASKED)
    whole = [answer.text for answer in answer_all(model, processor, requests, GREEDY, system="Be brief.")]
    stops = tuple(text[len(text) // 2 :][:2] for text in whole[:3])
    sampling = dataclasses.replace(GREEDY, stop=stops)
    answers = answer_all(model, processor, requests, sampling, system="Be brief.")
    assert [dataclasses.astuple(answer) for answer in answers] == chats(
        model, processor, requests, sampling, "Be brief."
    )
    assert {answer.finish_reason for answer in answers} >= {"stop"}
    assert answers[0].text == whole[0][: len(answers[0].text)] != whole[0]


def test_each_request_may_have_its_own_sampling(parts):
    own = (None, dataclasses.replace(SEEDED, seed=9), dataclasses.replace(GREEDY, max_new_tokens=3), None)
    requests = [dataclasses.replace(each, sampling=own[place % 4]) for place, each in enumerate(requests_of(ASKED))]
    answers = answer_all(*parts, requests, GREEDY)
    assert [dataclasses.astuple(answer) for answer in answers] == chats(*parts, requests, GREEDY)
    assert len(answers[2].token_ids) == 3


def test_bundled_model_gives_the_same_answers_in_a_batch_and_in_chats(bundled):
    image = str(TINY / "shapes.png")
    texts = (
        "Describe the picture.",
        "How many shapes are there?",
        "What colour is the circle?",
        "What is on the left?",
    )
    requests = [Request(text, [image]) for text in texts] + [Request("Hello!")]
    answers = answer_all(*bundled, requests, SamplingParams(max_new_tokens=80))
    assert [dataclasses.astuple(each) for each in answers] == chats(
        *bundled, requests, SamplingParams(max_new_tokens=80)
    )
    assert all(each.finish_reason == "stop" for each in answers)
    assert len({len(each.token_ids) for each in answers}) > 2


def test_image_of_several_requests_is_preprocessed_and_encoded_once(parts, request, tmp_path, monkeypatch):
    model, processor = parts
    model.engine = None
    path = str(tiny_folder.save_image(tmp_path / "a.png", 1))
    loaded, tiles = [], processor.tiles
    monkeypatch.setattr(processor, "tiles", lambda image: loaded.append(image) or tiles(image))
    seen = []
    hook = model.vision_tower.register_forward_post_hook(lambda layer, inputs, output: seen.append(len(inputs[0])))
    request.addfinalizer(hook.remove)
    requests = [Request(f"What is {number}?", [path]) for number in range(5)]
    answer_all(model, processor, requests, GREEDY, engine=Engine(model, max_slots=2))
    assert loaded == [path] and sum(seen) == len(tiles(path).pixels)


def test_answers_come_as_they_end_with_their_numbers(parts):
    short = dataclasses.replace(GREEDY, max_new_tokens=2, ignore_eos=True)
    requests = [dataclasses.replace(each, sampling=short if place % 2 else None) for place, each in enumerate(many(70))]
    found = list(answer_each(*parts, requests, GREEDY))
    assert len(requests) > WINDOW and sorted(number for number, _ in found) == list(range(len(requests)))
    places = {number: place for place, (number, _) in enumerate(found)}
    assert places[1] < places[0]  # the longer answer ends later
    answers = answer_all(*parts, requests, GREEDY)
    assert all(answers[number] == answer for number, answer in found)
    assert answer_all(*parts, [], GREEDY) == []


def many(number):
    """Return requests without images."""
    return [Request(f"What is {place}?") for place in range(number)]


def test_bad_requests_are_named(parts, tmp_path):
    good = Request("Hello")
    with pytest.raises(ValueError, match=r"request 1: .*absent\.png"):
        answer_all(*parts, [good, Request("What?", [str(tmp_path / "absent.png")])], GREEDY)
    with pytest.raises(ValueError, match=f"request 2: .*{tiny_folder.CONTEXT}"):
        answer_all(*parts, [good, good, Request("word " * tiny_folder.CONTEXT)], GREEDY)
    with pytest.raises(ValueError, match="max_slots is 0"):
        Engine(parts[0], max_slots=0)


def test_mode_of_the_model_is_restored(parts):
    model = parts[0]
    model.train()
    answer_all(*parts, [Request("Hello")], SamplingParams(max_new_tokens=2))
    assert model.training
    model.eval()


def test_requests_left_over_are_canceled_when_the_caller_stops(parts):
    engine = Engine(parts[0], max_slots=2)
    answers = answer_each(*parts, requests_of(ASKED), GREEDY, engine=engine)
    next(answers)
    assert engine.has_work
    answers.close()
    assert not engine.has_work and engine.num_running == 0


def test_texts_with_images_between_them_are_asked_as_they_stand(parts):
    model, processor = parts
    red, blue = (tiny_folder.random_image(seed) for seed in (1, 2))
    before = Request("What is this?", [red, blue])
    between = Request(("", "\n", "\nWhat is this?"), [red, blue])
    apart = Request(("First ", " then ", "?"), [red, blue])
    first, second, third = answer_all(model, processor, [before, between, apart], GREEDY)
    assert first == second and third.num_prompt_tokens != first.num_prompt_tokens
    with pytest.raises(ValueError, match="request 0: the text has places for 2 images, and there are 1"):
        answer_all(model, processor, [dataclasses.replace(apart, images=[red])], GREEDY)


def test_errors_take_the_place_of_answers_and_the_others_go_on(parts, tmp_path):
    model, processor = parts
    loaded = []

    def load():
        loaded.append(1)
        return tiny_folder.random_image(1)

    requests = [Request("What is this?", [load]), Request("Where?", [tmp_path / "none.png"]), Request("How?", [load])]
    found = dict(answer_each(model, processor, requests, GREEDY, is_going_on=True))
    assert isinstance(found[1], ValueError) and "none.png" in str(found[1]) and loaded == [1]
    alone = answer_all(model, processor, [requests[0], requests[2]], GREEDY)
    assert [found[0], found[2]] == alone


def test_answer_that_was_begun_continues_as_if_it_had_been_generated(bundled):
    model, processor = bundled
    request = Request("How many shapes are there?", [tiny_folder.random_image(1)])
    (whole,) = answer_all(model, processor, [request], GREEDY)
    ids = list(whole.token_ids)
    # A start whose text is tokenized to the ids that were generated.
    starts = {count: processor.tokenizer.decode(ids[:count]) for count in range(1, len(ids) - 1)}
    encoded = {count: processor.tokenizer.encode(" " + text.lstrip(), is_start=False) for count, text in starts.items()}
    count = max(count for count, found in encoded.items() if found == ids[:count])
    begun = dataclasses.replace(request, answer_start=" " + starts[count].lstrip())
    (rest,) = answer_all(model, processor, [begun], GREEDY)
    assert list(rest.token_ids) == ids[count:] and rest.finish_reason == whole.finish_reason
    assert rest.num_prompt_tokens == whole.num_prompt_tokens + count

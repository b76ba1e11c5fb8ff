"""The process with the model: its answers are those of a chat, whoever else asks, and jobs fail one by one."""

from __future__ import annotations

import dataclasses
import io
import json
import queue
import random
import threading
import time
from pathlib import Path

import pytest
import tiny_folder

from paddlemix import ChatSession, LlavaForConditionalGeneration, LlavaProcessor, SamplingParams
from paddlemix.constants import BUNDLED_MODEL
from paddlemix.conversation.messages import Message
from paddlemix.generate import turn
from paddlemix.generate.grammar import Guide
from paddlemix.generate.sampling import Grammar
from paddlemix.serve.model import engine_thread
from paddlemix.serve.model.host import EngineHost
from paddlemix.serve.protocol import Accepted, Delta, Ended, Failed, ImageInput, Job
from paddlemix.serve.settings import ModelOptions

PNG = Path(BUNDLED_MODEL).with_name("shapes.png").read_bytes()
GREEDY = SamplingParams(max_new_tokens=24)
SEEDED = SamplingParams(temperature=4.0, top_p=0.95, max_new_tokens=16, seed=7)  # the model is very certain
NOISE = SamplingParams(temperature=50.0, max_new_tokens=12, seed=5)  # tokens that its text would not have
ENDLESS = SamplingParams(max_new_tokens=900, ignore_eos=True)
QUESTION = "How many shapes are there?"


def png(seed: int) -> bytes:
    output = io.BytesIO()
    tiny_folder.random_image(seed, (60, 40)).save(output, "PNG")
    return output.getvalue()


@pytest.fixture(scope="module")
def host():
    host = EngineHost(ModelOptions(Path(BUNDLED_MODEL), max_running=8))
    yield host
    host.close()


@pytest.fixture(scope="module")
def new_session():
    """A function that returns a chat with another copy of the model."""
    model = LlavaForConditionalGeneration.from_pretrained(BUNDLED_MODEL)
    processor = LlavaProcessor.from_pretrained(BUNDLED_MODEL)

    def new(**options):
        model.engine = None
        return ChatSession(model, processor, **options)

    return new


class Caller:
    """Sends a job, and collects its events."""

    def __init__(self, host, job: Job):
        self.job = job
        self.events: list = []
        self._queue: queue.Queue = queue.Queue()
        host.submit(job, self._queue.put)

    def next(self, seconds: float = 30):
        self.events.append(self._queue.get(timeout=seconds))
        return self.events[-1]

    def all(self) -> list:
        while sum(isinstance(event, Ended) for event in self.events) < self.job.num_answers:
            if isinstance(self.next(), Failed):
                break
        return self.events

    def texts(self) -> list[str]:
        self.all()
        assert not isinstance(self.events[-1], Failed), self.events[-1]
        return [
            "".join(event.text for event in self.events if isinstance(event, Delta) and event.index == index)
            for index in range(self.job.num_answers)
        ]

    @property
    def ended(self) -> list[Ended]:
        return sorted((event for event in self.all() if isinstance(event, Ended)), key=lambda event: event.index)

    def is_silent(self, seconds: float) -> bool:
        time.sleep(seconds)
        return self._queue.empty()


def user(text: str, num_images: int = 0) -> Message:
    return Message.typed(text, num_images)


def chat_job(name: str, *messages: Message, images=(), sampling=GREEDY, **options) -> Job:
    inputs = tuple(image if isinstance(image, ImageInput) else ImageInput(image) for image in images)
    return Job(name, sampling, tuple(messages), inputs, **options)


def mixed_jobs() -> list[Job]:
    """Return twelve jobs: texts, one and two images, greedy and seeded."""
    jobs = []
    for number in range(12):
        images = [PNG, png(number)][: number % 3]
        sampling = SEEDED if number % 2 else GREEDY
        jobs.append(chat_job(f"mixed-{number}", user(QUESTION, len(images)), images=images, sampling=sampling))
    return jobs


def expected(new_session, job: Job) -> str:
    return new_session().ask(job.messages[-1].pieces[-1].removeprefix("\n"), [i.data for i in job.images], job.sampling)


def test_answers_equal_those_of_a_chat_alone_and_in_company(host, new_session):
    jobs = mixed_jobs()
    wanted = [expected(new_session, job) for job in jobs]
    assert len(set(wanted)) > 5
    callers = [Caller(host, job) for job in jobs]
    assert [caller.texts()[0] for caller in callers] == wanted
    assert [Caller(host, job).texts()[0] for job in jobs[:4]] == wanted[:4]


def test_events_come_in_order_with_counts_that_fit(host):
    caller = Caller(host, chat_job("order", user(QUESTION, 1), images=[png(99)]))
    accepted, *deltas, ended = caller.all()
    assert isinstance(accepted, Accepted) and isinstance(ended, Ended)
    assert accepted.images[0].size == (60, 40) and not accepted.images[0].is_known
    assert accepted.images[0].num_tokens == 4 and accepted.images[0].num_tiles == 1
    assert sum(len(delta.token_ids) for delta in deltas) == ended.num_tokens
    assert ended.finish_reason == "stop" and ended.stop_reason is None
    assert min(ended.queue_seconds, ended.prefill_seconds, ended.decode_seconds) >= 0
    again = Caller(host, chat_job("again", user(QUESTION, 1), images=[png(99)]))
    assert again.all()[0].images[0].is_known
    assert again.ended[0].num_cached_tokens > accepted.num_prompt_tokens // 2


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(max_new_tokens=3), NOISE], ids=["whole", "cut", "noise"])
def test_second_turn_equals_that_of_a_chat_and_reads_only_what_is_new(host, new_session, sampling, request):
    session = new_session(sampling=sampling)
    first = session.ask(QUESTION, [PNG])
    second = session.ask("Describe the image.")
    name = request.node.name
    assert Caller(host, chat_job(name, user(QUESTION, 1), images=[PNG], sampling=sampling)).texts() == [first]
    messages = (user(QUESTION, 1), Message("assistant", first), user("Describe the image."))
    caller = Caller(host, chat_job(name + "b", *messages, images=[PNG], sampling=sampling))
    assert caller.texts() == [second]
    accepted, ended = caller.events[0], caller.ended[0]
    assert accepted.num_prompt_tokens == session.num_tokens - len(session.turns[-1].answer_ids)
    # All of the first turn is known: at most its last token and the second question were computed.
    assert accepted.num_prompt_tokens - ended.num_cached_tokens <= len(session.turns[-1].prompt_ids) + 1


def test_image_of_a_later_turn_is_seen(host, new_session):
    session = new_session(sampling=GREEDY)
    first, second = session.ask("Hello"), session.ask(QUESTION, [PNG])
    messages = (user("Hello"), Message("assistant", first), user(QUESTION, 1))
    assert Caller(host, chat_job("later", *messages, images=[PNG])).texts() == [second]


def test_system_text_replaces_that_of_the_template(host, new_session):
    wanted = new_session(system="Answer in capitals.", sampling=SEEDED).ask(QUESTION, [PNG])
    messages = (Message("system", ("Answer in capitals.",)), user(QUESTION, 1))
    assert Caller(host, chat_job("system", *messages, images=[PNG], sampling=SEEDED)).texts() == [wanted]


def test_typed_mark_of_an_image_is_text(host, new_session):
    text = "What is <image> in <image>?"
    wanted = new_session(sampling=SEEDED).ask(text, [PNG])
    assert Caller(host, chat_job("typed", user(text, 1), images=[PNG], sampling=SEEDED)).texts() == [wanted]


def test_begun_answer_is_continued_with_its_white_space(host):
    whole = Caller(host, chat_job("whole", user(QUESTION, 1), images=[PNG])).texts()[0]
    begun = " ".join(whole.split(" ")[:3])
    messages = (user(QUESTION, 1), Message("assistant", begun))
    rest = Caller(host, chat_job("begun", *messages, images=[PNG], is_continued=True)).texts()[0]
    assert rest.startswith(" ") and begun + rest == whole


def test_raw_prompt_is_continued_as_text_and_as_ids(host):
    sampling = SamplingParams(max_new_tokens=5)
    text = "USER: How many shapes are there? ASSISTANT: The number of"
    caller = Caller(host, Job("raw", sampling, prompt=text))
    assert caller.texts()[0].startswith(" ")
    assert caller.events[0].prompt_text == text and caller.events[0].images == ()
    ids = LlavaProcessor.from_pretrained(BUNDLED_MODEL).tokenizer
    numbers = (ids.bos_id, *ids.encode(text, is_start=True))
    assert Caller(host, Job("ids", sampling, prompt=numbers)).texts() == caller.texts()


def test_several_answers_have_the_seeds_that_follow(host):
    several = Caller(host, chat_job("n", user(QUESTION, 1), images=[PNG], sampling=SEEDED, num_answers=3))
    seeds = [SamplingParams(temperature=4.0, top_p=0.95, max_new_tokens=16, seed=7 + index) for index in range(3)]
    singles = [
        Caller(host, chat_job(f"n{index}", user(QUESTION, 1), images=[PNG], sampling=sampling)).texts()[0]
        for index, sampling in enumerate(seeds)
    ]
    assert several.texts() == singles and len(set(singles)) > 1
    assert [ended.index for ended in several.ended] == [0, 1, 2]


def test_answers_without_a_seed_differ(host):
    sampling = SamplingParams(temperature=4.0, max_new_tokens=16)
    assert len(set(Caller(host, chat_job("random", user("Hi"), sampling=sampling, num_answers=4)).texts())) > 1


def test_logprobs_are_of_the_tokens_of_each_delta(host):
    sampling = SamplingParams(max_new_tokens=6, num_logprobs=2)
    caller = Caller(host, chat_job("logprobs", user(QUESTION, 1), images=[PNG], sampling=sampling))
    found = [(delta.token_ids, delta.logprobs) for delta in caller.all() if isinstance(delta, Delta)]
    assert len(found) >= 3
    for token_ids, logprobs in found:
        assert tuple(each.token_id for each in logprobs) == token_ids
        assert all(each.top[0] == dataclasses.replace(each, top=()) for each in logprobs)
    assert b"".join(each.text_bytes for _, logprobs in found for each in logprobs).decode().startswith(" The")


def test_canceled_job_is_silent_at_once_and_others_go_on(host):
    running = Caller(host, chat_job("cancel-1", user("Hi"), sampling=ENDLESS))
    assert isinstance(running.next(), Accepted) and isinstance(running.next(), Delta)
    waiting = [Caller(host, chat_job(f"cancel-2{number}", user("Hi"), sampling=ENDLESS)) for number in range(12)]
    other = Caller(host, chat_job("cancel-3", user(QUESTION, 1), images=[PNG]))
    for caller in (running, *waiting):
        host.cancel(caller.job.id)
    assert len(other.texts()[0]) > 5
    host.cancel("cancel-3")  # which has ended
    host.cancel("unknown")
    running.events.clear()
    while not running.is_silent(0.2):
        running.next()
    assert not any(isinstance(event, Ended | Failed) for event in running.events)
    assert host.stats().num_running == host.stats().num_waiting == 0


def test_storm_of_jobs_of_which_half_are_canceled_leaves_nothing_and_answers_the_others(host, new_session):
    draw, kinds = random.Random(3), mixed_jobs()
    wanted = [expected(new_session, job) for job in kinds]
    callers, canceled = [], set()
    for number in range(120):
        callers.append(Caller(host, dataclasses.replace(kinds[number % 12], id=f"storm-{number}")))
        if draw.random() < 0.5:
            one = draw.choice(callers[-8:]).job.id  # which waits, is prepared, runs or has ended
            canceled.add(one)
            host.cancel(one)
        time.sleep(draw.choice((0, 0, 0.01)))
    for number, caller in enumerate(callers):
        if caller.job.id not in canceled:
            assert caller.texts() == [wanted[number % 12]]
    while host.stats().num_running + host.stats().num_waiting:
        time.sleep(0.01)


def test_job_that_takes_too_long_fails_and_is_forgotten(host):
    caller = Caller(host, chat_job("late", user("Hi"), sampling=ENDLESS, seconds=0.2))
    failed = caller.all()[-1]
    assert (failed.status, failed.type, failed.code) == (504, "timeout_error", "timeout")
    assert caller.is_silent(0.1) and host.stats().num_running == 0


def test_files_of_images_are_dropped_when_a_job_is_prepared(host):
    caller = Caller(host, chat_job("files", user(QUESTION, 1), images=[PNG], sampling=ENDLESS))
    assert isinstance(caller.next(), Accepted)
    assert host._thread._works["files"].job.images == ()
    host.cancel("files")


def test_job_that_is_late_before_it_is_prepared_fails_too(host):
    failed = Caller(host, chat_job("too-late", user("Hi"), sampling=ENDLESS, seconds=0)).all()[-1]
    assert failed.status == 504


def test_bad_images_among_good_jobs_disturb_nobody(host, new_session):
    jobs = mixed_jobs()[:6]
    wanted = [expected(new_session, job) for job in jobs]
    bad = [b"", b"GIF89a", PNG[:400], b"<svg/>"]
    bombs = [chat_job(f"bad-{index}", user("?", 2), images=[PNG, data]) for index, data in enumerate(bad)]
    callers = [Caller(host, job) for pair in zip(jobs, [*bombs, *bombs[:2]], strict=True) for job in pair]
    assert [caller.texts()[0] for caller in callers[::2]] == wanted
    for caller in callers[1::2]:
        (failed,) = caller.all()
        assert (failed.status, failed.code, failed.param) == (400, "invalid_image", "messages")
        assert failed.message.startswith("image 2 of 2 ")


def test_image_of_too_many_pixels_is_refused():
    small = EngineHost(ModelOptions(Path(BUNDLED_MODEL), max_image_pixels=1000))
    try:
        failed = Caller(small, chat_job("pixels", user("?", 1), images=[png(1)])).all()[-1]
        assert failed.code == "invalid_image" and "60x40, the limit is 1000" in failed.message
    finally:
        small.close()


def test_prompt_longer_than_the_context_is_refused_with_its_counts(host):
    job = chat_job("long", user("word " * 2000, 1), images=[PNG])
    failed = Caller(host, job).all()[-1]
    assert (failed.status, failed.code, failed.param) == (400, "context_length_exceeded", "messages")
    assert "4 of 1 image" in failed.message and "holds 1024" in failed.message
    raw = Caller(host, Job("long-raw", GREEDY, prompt=(300,) * 1024)).all()[-1]
    assert (raw.code, raw.param) == ("context_length_exceeded", "prompt") and "1024 tokens" in raw.message


def test_answer_matches_its_schema_and_a_schema_that_cannot_be_followed_is_refused(host):
    pytest.importorskip("llguidance")
    fields = {"properties": {"n": {"enum": [3, 4]}}, "required": ["n"], "additionalProperties": False}
    schema = json.dumps({"type": "object", **fields})
    sampling = SamplingParams(max_new_tokens=60, grammar=Grammar(schema))
    caller = Caller(host, chat_job("schema", user(QUESTION, 1), images=[PNG], sampling=sampling))
    assert json.loads(caller.texts()[0])["n"] in (3, 4) and caller.ended[0].finish_reason == "stop"
    begun = (user(QUESTION, 1), Message("assistant", "Here:"))
    rest = Caller(host, chat_job("schema-2", *begun, images=[PNG], sampling=sampling, is_continued=True)).texts()
    assert json.loads(rest[0])["n"] in (3, 4)
    bad = dataclasses.replace(sampling, grammar=Grammar('{"type": "nothing"}'))
    failed = Caller(host, chat_job("schema-3", user("Hi"), sampling=bad)).all()[-1]
    assert failed.status == 400 and "schema cannot be followed" in failed.message


def test_several_answers_with_a_schema_equal_those_alone_and_compile_it_once(host, monkeypatch):
    pytest.importorskip("llguidance")
    compiled = []
    monkeypatch.setattr(turn, "Guide", lambda *parts: compiled.append(Guide(*parts)) or compiled[-1])
    grammar = Grammar(json.dumps({"enum": ["a red circle", "a blue star", "two green squares", "nothing"]}))
    sampling = dataclasses.replace(SEEDED, temperature=50.0, grammar=grammar)
    together = Caller(host, chat_job("n", user(QUESTION, 1), images=[PNG], sampling=sampling, num_answers=6)).texts()
    assert len(compiled) == 1
    for index, text in enumerate(together):
        seeded = dataclasses.replace(sampling, seed=sampling.seed + index)
        assert Caller(host, chat_job(f"{index}", user(QUESTION, 1), images=[PNG], sampling=seeded)).texts() == [text]
    assert len(set(together)) > 1


@pytest.mark.parametrize("settings", [{"logit_bias": ((768, 1.0),)}, {"stop_ids": (4000,)}])
def test_id_that_the_vocabulary_lacks_is_the_mistake_of_its_client(host, settings):
    failed = Caller(host, chat_job(f"id-{settings}", user("Hi"), sampling=SamplingParams(**settings))).all()[-1]
    assert failed.status == 400 and next(iter(settings)) in failed.message


def test_shorter_context_is_told_and_kept():
    host = EngineHost(ModelOptions(Path(BUNDLED_MODEL), max_model_len=64))
    try:
        assert host.info.max_model_len == 64
        caller = Caller(host, Job("short", ENDLESS, prompt=(300,) * 60))
        assert caller.ended[0].num_tokens == 4 and caller.ended[0].finish_reason == "length"
    finally:
        host.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_model_len": 2048}, "max-model-len is 2048, but the context of the model holds 1024"),
        ({"max_model_len": 1024, "cache_bytes": 1 << 20}, "max-model-len is 1024, but the cache holds 256"),
        ({"cache_bytes": 1000}, "--cache-gb is too small: .* GB of cache hold 0 places"),
        ({"conv_mode": "vicuna_v2"}, "unknown chat template 'vicuna_v2'"),
        ({"device": "tpu"}, "device 'tpu' is not there"),
        ({"device": "cuda:0"}, "device 'gpu:0' is not there: this machine has cpu"),
        ({"model_path": Path("/nowhere/model")}, "/nowhere/model"),
    ],
)
def test_options_that_cannot_be_are_errors_of_the_user(options, expected):
    with pytest.raises((ValueError, OSError), match=expected):
        EngineHost(ModelOptions(**{"model_path": Path(BUNDLED_MODEL), **options}))


def test_mistake_in_our_own_code_is_told_without_the_inside_and_logged_once(host, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr(host._preparation, "_prompt", broken)
    failed = Caller(host, chat_job("broken", user("Hi"))).all()[-1]
    assert (failed.status, failed.type) == (500, "server_error") and "secret" not in failed.message
    monkeypatch.undo()
    monkeypatch.setattr(host._engine, "step", broken)
    failed = Caller(host, chat_job("step", user("Hi"))).all()[-1]
    assert failed.status == 500
    monkeypatch.undo()
    monkeypatch.setattr(host._thread.tokenizer, "token_bytes", broken)
    failed = Caller(host, chat_job("tell", user("Hi"), sampling=SamplingParams(num_logprobs=1))).all()[-1]
    assert failed.status == 500
    monkeypatch.undo()
    assert caplog.text.count("RuntimeError: secret") == 3
    assert Caller(host, chat_job("after", user("Hi"))).texts()[0]


def test_images_of_a_canceled_job_are_not_prepared(host, monkeypatch):
    prepared, prepare = [], host._preparation.tiles.prepare

    def slow(image, name):
        prepared.append(name)
        host.cancel("slow")
        return prepare(image, name)

    monkeypatch.setattr(host._preparation.tiles, "prepare", slow)
    caller = Caller(host, chat_job("slow", user(QUESTION, 3), images=[PNG] * 3))
    assert caller.is_silent(0.2) and prepared == ["image 1 of 3"]


def test_texts_do_not_wait_for_the_images_of_others(host, monkeypatch):
    prepare, is_answered = host._preparation.tiles.prepare, threading.Event()
    monkeypatch.setattr(
        host._preparation.tiles, "prepare", lambda *arguments: is_answered.wait(30) and prepare(*arguments)
    )
    images = [Caller(host, chat_job(f"large-{n}", user(QUESTION, 1), images=[PNG])) for n in range(4)]
    assert Caller(host, chat_job("quick", user("Hi"))).texts()[0]
    is_answered.set()
    assert all(caller.texts()[0] for caller in images)


def test_listener_that_fails_ends_only_its_job(host):
    def broken(_):
        raise OSError("closed")

    host.submit(chat_job("deaf", user("Hi"), sampling=ENDLESS), broken)
    assert Caller(host, chat_job("hearing", user("Hi"))).texts()[0]
    while host.stats().num_running + host.stats().num_waiting:
        time.sleep(0.01)


def test_images_of_waiting_jobs_are_prepared_only_as_far_as_memory_allows(host, monkeypatch):
    monkeypatch.setattr(engine_thread, "MAX_BYTES", 1)  # of one job
    callers = [Caller(host, chat_job(f"room-{n}", user(QUESTION, 1), images=[png(n)])) for n in range(6)]
    assert all(caller.texts()[0] for caller in callers)


def test_closed_host_tells_all_that_wait():
    host = EngineHost(ModelOptions(Path(BUNDLED_MODEL), max_running=1))
    callers = [Caller(host, chat_job(f"close-{number}", user("Hi"), sampling=ENDLESS)) for number in range(4)]
    assert isinstance(callers[0].next(), Accepted)
    host.close()
    for caller in callers:
        assert caller.all()[-1].status == 503


def test_host_whose_engine_thread_has_ended_says_so(monkeypatch):
    host = EngineHost(ModelOptions(Path(BUNDLED_MODEL)))
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(host._thread, "_admit", lambda: 1 / 0)
    host.stats()
    host.submit(chat_job("dead", user("Hi")), lambda _: None)
    host._thread._thread.join(10)
    with pytest.raises(RuntimeError, match="thread that drives the engine has ended"):
        host.stats()
    host.close()

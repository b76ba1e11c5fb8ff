"""The client of a judge sends what OpenAI's endpoint takes, waits where waiting helps, and else says what to do."""

from __future__ import annotations

import datetime
import email.utils
import threading
import time
from dataclasses import replace

import pytest
from fake_judge import KEY, LIMITS, completion, refusal, running

from paddlemix.evaluate.judging.judge import Judge, NoAnswer
from paddlemix.evaluate.judging.replies import JudgeError, Passing, RefusedRequest, seconds_asked

MESSAGES = [{"role": "user", "content": "Which is better?"}]


@pytest.fixture
def server():
    with running() as server:
        yield server


def judge_of(server, key: str = KEY, **limits) -> Judge:
    return Judge("gpt-test", server.url, key, limits=replace(LIMITS, **limits))


def ask(judge: Judge, **more):
    return judge.ask(MESSAGES, temperature=0.2, max_tokens=7, **more)


def test_request_has_the_form_of_a_chat_completion(server):
    reply = ask(judge_of(server))
    assert (reply.text, reply.model, reply.finish_reason) == ("8 9\nBecause.", "gpt-test-0613", "stop")
    assert server.seen == [{"model": "gpt-test", "messages": MESSAGES, "temperature": 0.2, "max_tokens": 7}]
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["Content-Type"] == "application/json"


def test_environment_names_server_and_key_and_arguments_override_it(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    ask(Judge("gpt-test", limits=LIMITS))
    assert server.headers[-1]["Authorization"] == "Bearer sk-other"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    ask(Judge("gpt-test", f"{server.url}/chat/completions", KEY, limits=LIMITS))
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"


def test_server_of_ones_own_needs_no_key_and_openai_does(server, monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    ask(Judge("gpt-test", server.url, limits=LIMITS))
    assert "Authorization" not in server.headers[0]
    with pytest.raises(ValueError, match=r"no key for https://api\.openai\.com/v1: set OPENAI_API_KEY"):
        Judge("gpt-4")


def test_key_is_not_replaced_by_a_password_of_netrc(server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    ask(judge_of(server))
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "url", ["api.openai.com/v1", "ftp://host/v1", "http://me:word@host/v1", "http://host/v1?key=word", "http://host:x/"]
)
def test_unusable_address_is_refused_without_its_password(url):
    with pytest.raises(ValueError, match="OPENAI_BASE_URL") as refused:
        Judge("gpt-test", url, KEY)
    assert "word" not in str(refused.value).replace("password", "")


def test_unusable_key_is_refused_and_not_shown():
    with pytest.raises(ValueError, match="OPENAI_API_KEY") as refused:
        Judge("gpt-test", "http://host/v1", "sk-öö secret")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "failure",
    [
        "drop",
        refusal(429, "slow down"),
        refusal(500, "oh"),
        (502, {}, b"<html>bad gateway</html>"),
        refusal(503, "loading"),
        (200, {}, {"error": {"message": "upstream is busy"}}),
        (200, {}, {"choices": []}),
        (200, {}, completion("")),
        (200, {"Content-Length": "500"}, b'{"choi'),
    ],
)
def test_passing_failure_is_tried_again_with_growing_waits(server, failure):
    server.failures = [failure] * 3
    waits = []
    assert ask(judge_of(server, retry=0.02, max_retry=1), on_wait=waits.append).text == "8 9\nBecause."
    assert len(server.seen) == 4 and len(waits) == 3


def test_waits_double_up_to_their_limit(server):
    judge = judge_of(server, retry=1, max_retry=5, max_retries=9)
    judge._has_answered = True
    waits = [judge._seconds_to_wait(Passing("busy"), attempt) for attempt in range(4)]
    assert all(least <= wait <= 1.5 * least for wait, least in zip(waits, (1, 2, 4, 5), strict=True))


def test_no_answer_after_all_retries_is_an_error_of_this_question_alone(server):
    server.failures = [refusal(500, "oh")] * 4
    judge = judge_of(server)
    with pytest.raises(NoAnswer, match=r"HTTP status 500: oh \(4 tries\)"):
        ask(judge)
    assert ask(judge).text


def test_slow_answer_is_a_timeout_and_tried_again():
    answers = iter([None, "8 9"])
    with running(lambda body: next(answers)) as server:
        assert ask(judge_of(server, read=1)).text == "8 9"


@pytest.mark.parametrize("seconds", ["0.3", "date"])
def test_retry_after_is_obeyed_by_all_threads(server, seconds):
    if seconds == "date":
        later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
        seconds = email.utils.format_datetime(later, usegmt=True)
    server.failures = [(429, {"Retry-After": seconds}, {})]
    judge = judge_of(server)
    start = time.monotonic()
    threads = [threading.Thread(target=ask, args=(judge,)) for _ in range(3)]
    threads[0].start()
    while not judge._resume_at:
        assert time.monotonic() - start < 60
        time.sleep(0.005)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start >= 0.3
    assert len(server.seen) == 4


def test_retry_after_that_is_too_long_is_named(server):
    server.failures = [(429, {"Retry-After": "3600"}, {})]
    with pytest.raises(NoAnswer, match="asks to wait 3600 s"):
        ask(judge_of(server))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("", 0), ("soon", 0), ("2", 2), ("-3", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("1e400", 1e9)],
)
def test_any_retry_after_header_is_read(value, seconds):
    assert seconds_asked(value) == seconds


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}"), "does not accept the key .*set OPENAI_API_KEY"),
        (refusal(403, "no"), "does not let this key use 'gpt-test'"),
        (refusal(404, "The model `gpt-test` does not exist"), "has no model 'gpt-test'.*does not exist.*ends with /v1"),
        ((404, {}, b"Not Found"), "is no chat endpoint"),
        ((307, {"Location": "http://other/v1"}, b""), "has moved to http://other/v1"),
        ((200, {}, b"<html>hello</html>"), "not with JSON .'<html>hello</html>'.*OPENAI_BASE_URL"),
        (refusal(400, f"bad {KEY}"), r"refuses the request .HTTP status 400: bad \*\*\*"),
        (refusal(422, "bad"), "refuses the request"),
        (refusal(429, "You exceeded your quota", code="insufficient_quota"), "no credit left"),
    ],
)
def test_lasting_failure_is_one_error_at_once_and_never_shows_the_key(server, failure, text):
    server.failures = [failure]
    with pytest.raises(JudgeError, match=text) as refused:
        ask(judge_of(server))
    assert len(server.seen) == 1
    assert KEY not in str(refused.value)


def test_server_without_a_key_that_expects_one_says_so(server):
    server.failures = [refusal(401, "no key")]
    with pytest.raises(JudgeError, match=r"expects a key .HTTP status 401.: set OPENAI_API_KEY"):
        ask(judge_of(server, key=""))


def test_address_where_nothing_answers_is_an_error_after_few_tries():
    judge = Judge("gpt-test", "http://127.0.0.1:1/v1", KEY, limits=replace(LIMITS, max_early_retries=1))
    with pytest.raises(JudgeError, match=r"does not answer: .*\(2 tries\); check OPENAI_BASE_URL"):
        ask(judge)


def test_settings_that_newer_models_refuse_are_sent_in_their_way(server):
    server.failures = [
        refusal(400, "use 'max_completion_tokens'", param="max_tokens", code="unsupported_parameter"),
        refusal(400, "only the default", param="temperature", code="unsupported_value"),
    ]
    judge = judge_of(server)
    assert ask(judge).text
    assert server.seen[-1] == {"model": "gpt-test", "messages": MESSAGES, "max_completion_tokens": 7}
    ask(judge)
    assert len(server.seen) == 4 and judge.unsupported == {"max_tokens", "temperature"}


def test_answer_that_the_limit_left_empty_names_the_limit(server):
    server.failures = [(200, {}, completion(None, finish_reason="length"))]
    with pytest.raises(RefusedRequest, match=r"empty .finish_reason length, limit 7 tokens"):
        ask(judge_of(server))


def test_stop_ends_a_wait(server):
    server.failures = [refusal(503, "later")]
    stop = threading.Event()
    with pytest.raises(NoAnswer, match="stopped"):
        ask(judge_of(server, retry=1000, max_retry=1000), stop=stop, on_wait=lambda text: stop.set())


def test_key_is_in_no_text_of_the_client(server):
    judge = judge_of(server)
    assert KEY not in repr(judge.server) and KEY not in repr(vars(judge))

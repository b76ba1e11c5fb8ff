"""The line of a request: all figures, one line whatever a client sends, texts only if the operator asks for them."""

from __future__ import annotations

import io
import json
import re
import shlex

from request_records import full_record

from paddlemix.conversation.messages import Message
from paddlemix.serve.monitor.request_log import MAX_TEXT, RequestLog, RequestRecord, prompt_text
from paddlemix.serve.protocol import ImageCount


def line_of(record: RequestRecord, is_with_texts: bool = False) -> str:
    lines: list[str] = []
    RequestLog(is_with_texts, lines.append).write(record)
    (line,) = lines
    return line


def fields_of(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(line) if "=" in word)


def test_a_line_has_all_figures_of_the_request():
    line = line_of(full_record(decode_seconds=1.23456))
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ request id=chatcmpl-1 client=127\.0\.0\.1 ", line)
    assert fields_of(line) == {
        "id": "chatcmpl-1", "client": "127.0.0.1", "path": "/v1/chat/completions", "model": "llava-tiny",
        "status": "200", "stream": "yes", "finish": "stop,length", "prompt_tokens": "700", "cached_tokens": "64",
        "images": "2", "tiles": "6", "image_tokens": "640", "answer_tokens": "11,30", "queue_s": "0.010",
        "prefill_s": "0.500", "decode_s": "1.235", "first_token_s": "0.520", "total_s": "3.500",
    }  # fmt: skip


def test_a_line_of_a_failed_request_names_the_error_and_leaves_out_times_it_did_not_reach():
    record = RequestRecord(id="x", path="/v1/chat/completions", status=400, error_code="context_length_exceeded")
    line = line_of(record)
    assert "status=400 error=context_length_exceeded" in line and "queue_s" not in line and "None" not in line
    assert "prompt=" not in line_of(record, is_with_texts=True)


def test_prompts_and_answers_are_written_only_on_request():
    assert "secret" not in line_of(full_record()) and "secret" not in repr(full_record())
    assert line_of(full_record(), is_with_texts=True).endswith(
        'prompt="user: a secret" answer="one secret" answer="two"'
    )


def test_nothing_that_a_client_sends_makes_a_second_line_or_a_false_field():
    bad = 'a\nb status=200\r"\x1b[2J\u2028\u202e\ud800\x85 c'
    record = RequestRecord(id=bad, path=bad, model=bad, client=bad, error_code=bad, prompt=bad, answers=(bad, ""))
    line = line_of(record, is_with_texts=True)
    assert line.isascii() and line.isprintable()
    quoted = re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', line)
    assert [name for name, _ in quoted] == ["id", "client", "path", "model", "error", "prompt", "answer", "answer"]
    rest = re.sub(r'[a-z]+="(?:[^"\\]|\\.)*"', "", line)
    assert rest.count("status=") == 1 and '"' not in rest


def test_characters_of_other_scripts_stay_readable_and_a_quoted_text_is_json():
    line = line_of(RequestRecord(id="1", path="/", prompt='图里有"什么"?\n第二行'), is_with_texts=True)
    assert json.loads(line.split("prompt=")[1]) == '图里有"什么"?\n第二行' and "图里有" in line


def test_a_long_text_is_cut_with_its_length():
    line = line_of(RequestRecord(id="1", path="/", prompt="x" * (MAX_TEXT + 5)), is_with_texts=True)
    assert line.endswith(f'x... ({MAX_TEXT + 5} characters)"') and len(line) < MAX_TEXT + 300


def test_the_prompt_of_a_job_shows_images_as_their_sizes():
    messages = [Message("system", "Be brief."), Message("user", ("", "\nand\n", "\nWhat is <image>?"))]
    images = [ImageCount((640, 480), 1, 576, False)]
    assert prompt_text(messages, images) == "system: Be brief.\nuser: [image 640x480]\nand\n[image]\nWhat is <image>?"


def test_a_line_goes_to_standard_error_and_a_closed_one_stops_nothing(capsys, monkeypatch):
    RequestLog().write(full_record())
    assert capsys.readouterr().err.count("\n") == 1

    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    RequestLog().write(full_record())


def test_at_a_terminal_a_line_is_short_unless_the_texts_are_asked_for(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    RequestLog().write(full_record(finish_reasons=("stop", "stop")))
    RequestLog().write(RequestRecord(id="2", path="/v1/models", status=429, error_code="queue_full", client="10.0.0.7"))
    first, second = terminal.getvalue().splitlines()
    assert first[9:] == "200 /v1/chat/completions 700+41 tokens, 2 images, stop, 3.50 s" and len(first) <= 80
    assert second[9:] == "429 /v1/models queue_full, 0.00 s, from 10.0.0.7"
    RequestLog(is_with_texts=True).write(full_record())
    assert "a secret" in terminal.getvalue()

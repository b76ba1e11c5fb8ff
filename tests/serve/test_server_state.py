"""What a server tells about itself, from its first moment to its last."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import urllib3
from fake_backend import INFO, FakeBackend
from live_server import fake_server, question

from paddlemix.image.anyres import num_image_tokens

ROOT = Path(__file__).parents[2]


def get(url):
    return urllib3.request("GET", url, retries=False)


@pytest.fixture(scope="module")
def address():
    with fake_server() as (address, _):
        yield address


def test_models_are_listed_under_all_their_names(address):
    listed = get(address + "/v1/models").json()
    assert listed["object"] == "list" and [card["id"] for card in listed["data"]] == ["tiny", "other"]
    card = get(address + "/v1/models/other").json()
    assert card["object"] == "model" and card["max_model_len"] == INFO.max_model_len
    assert set(card) >= {"id", "object", "created", "owned_by", "root", "parent", "permission"}


def test_status_tells_the_page_what_it_needs(address):
    status = get(address + "/v1/status").json()
    assert status["models"] == ["tiny", "other"] and status["is_ready"] and status["template"] == "v1"
    assert status["num_running"] == status["num_waiting"] == 0 and status["limits"]["max_images"] == 8
    assert status["limits"]["max_body_bytes"] == 64_000_000 and status["version"]


def test_tokens_of_an_image_are_those_of_the_model(address):
    told = get(address + "/v1/image_tokens?width=1000&height=500").json()
    assert told == {
        "num_tiles": 3,
        "num_tokens": num_image_tokens((1000, 500), INFO.image),
        "grid": [2, 1],
        "mode": "anyres",
    }


def test_server_is_healthy_but_not_ready_while_the_model_is_loaded():
    with fake_server(FakeBackend(start_seconds=0.5)) as (address, _):
        assert get(address + "/health").json() == {"status": "ok"}
        assert urllib3.request("HEAD", address + "/health").status == 200
        for path in ("/ready", "/v1/models"):
            response = get(address + path)
            assert response.status == 503 and response.headers["retry-after"] == "5"
            assert response.json()["error"]["type"] == "unavailable_error"
        refused = urllib3.request("POST", address + "/v1/chat/completions", json=question(), retries=False)
        assert refused.status == 503 and "being loaded" in refused.json()["error"]["message"]
        status = get(address + "/v1/status").json()
        assert not status["is_ready"] and status["models"] == ["tiny", "other"] and status["max_model_len"] is None
        assert get(address + "/metrics").status == 200
        deadline = time.monotonic() + 5
        while get(address + "/ready").status != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert get(address + "/ready").json() == {"status": "ready"}


def test_metrics_count_answers_refusals_and_paths(address):
    urllib3.request("POST", address + "/v1/chat/completions", json=question("Hello"))
    urllib3.request("POST", address + "/v1/chat/completions", json=question(n=0))
    get(address + "/nowhere")
    text = get(address + "/metrics").data.decode()
    assert 'paddlemix:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 1.0' in text
    assert 'rejected_total{engine="0",model_name="tiny",reason="invalid_value"} 1.0' in text
    assert 'http_requests_total{handler="/v1/chat/completions",status="4xx"} 1.0' in text
    assert 'http_requests_total{handler="none",status="4xx"} 1.0' in text
    assert 'time_to_first_token_seconds_count{engine="0",model_name="tiny"} 1.0' in text


@pytest.mark.parametrize("is_with_texts", [False, True])
def test_log_has_a_line_for_each_request_and_its_texts_only_if_the_owner_asks(is_with_texts):
    lines = []
    with fake_server(is_logging_requests=is_with_texts, log_lines=lines) as (address, _):
        urllib3.request("POST", address + "/v1/chat/completions", json=question("my secret"))
        urllib3.request("POST", address + "/v1/completions", json={"prompt": "my secret", "stream": True})
        urllib3.request("POST", address + "/v1/chat/completions", json={}, retries=False)
    chat, completion, wrong = lines
    assert "status=200" in chat and "prompt_tokens=10" in chat and "stream=yes" in completion
    assert "status=400 error=missing_required_parameter" in wrong
    for line in (chat, completion):
        assert ("my secret" in line) == is_with_texts


def test_web_process_loads_no_framework_and_no_model():
    code = (
        "import sys, paddlemix.cli, paddlemix.commands.serve, paddlemix.serve.web_server\n"
        "print([name for name in ('paddle', 'paddlenlp', 'torch', 'transformers', 'paddlemix.models.llava') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"

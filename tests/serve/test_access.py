"""Who may use a server: keys, web pages of others, names of loopback servers, and the files of its own page."""

from __future__ import annotations

import pytest
import urllib3
from live_server import fake_server, question, settings

from paddlemix.serve.errors import ApiError
from paddlemix.serve.guards.auth import is_known
from paddlemix.serve.guards.origins import OriginRules
from paddlemix.serve.page_files import POLICY, add_page, read_page

CHAT = "/v1/chat/completions"


def request(method, url, **options):
    return urllib3.request(method, url, retries=False, **options)


@pytest.fixture(scope="module")
def keyed():
    with fake_server(api_keys=("first-key", "second-key")) as (address, _):
        yield address


@pytest.mark.parametrize("key", ["first-key", "second-key"])
def test_any_key_opens_the_api(keyed, key):
    headers = {"Authorization": f"Bearer {key}"}
    assert request("POST", keyed + CHAT, json=question(), headers=headers).status == 200
    assert request("GET", keyed + "/v1/models", headers={"Authorization": f"bearer  {key} "}).status == 200


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer first", "first-key", "Basic first-key"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/v1/status", "/v1/image_tokens", CHAT])
def test_nothing_else_does(keyed, header, path):
    headers = {} if header is None else {"Authorization": header}
    response = request("POST" if path == CHAT else "GET", keyed + path, headers=headers)
    assert response.status == 401 and response.headers["www-authenticate"] == "Bearer"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert "first-key" not in error["message"]


def test_stranger_is_refused_before_a_large_body_is_read(keyed):
    headers = {"Content-Length": str(40 << 20)}
    connection = urllib3.connectionpool.connection_from_url(keyed)
    with connection as pool:
        response = pool.urlopen("POST", CHAT, body=iter([b"x"]), headers=headers, retries=False)
        assert response.status == 401


def test_refusals_are_counted_by_reason(keyed):
    request("GET", keyed + "/v1/models")
    request("GET", keyed + "/v1/models", headers={"Origin": "https://evil.example"})
    text = request("GET", keyed + "/metrics").data.decode()
    assert 'reason="invalid_api_key"' in text and 'reason="origin_refused"' in text


def test_refused_requests_have_a_line_in_the_log_and_a_counter_but_never_the_key():
    lines = []
    with fake_server(api_keys=("right-key",), log_lines=lines) as (address, _):
        wrong, right = ({"Authorization": f"Bearer {key}"} for key in ("wrong-key", "right-key"))
        request("POST", address + CHAT, json=question(), headers=wrong)
        request("GET", address + "/v1/models", headers={"Origin": "https://evil.example"})
        request("GET", address + "/nowhere?key=wrong-key")
        request("GET", address + CHAT, headers=right)
        request("POST", address + CHAT, json={**question(), "model": "other-model"}, headers=right)
        request("GET", address + "/v1/models", headers=right)
        text = request("GET", address + "/metrics").data.decode()
    ends = [line.partition("path=")[2].partition(" stream=")[0] for line in lines]
    assert ends == [
        f"{CHAT} status=401 error=invalid_api_key",
        "/v1/models status=403 error=origin_refused",
        "/nowhere status=404 error=unknown_path",
        f"{CHAT} status=405 error=method_not_allowed",
        f"{CHAT} status=404 error=model_not_found",
    ]
    assert "-key" not in "".join(lines)
    for line in ends:
        assert f'reason="{line.partition("error=")[2]}"}} 1.0' in text


def test_health_ready_metrics_and_page_need_no_key(keyed):
    for path in ("/health", "/ready", "/metrics", "/openapi.json"):
        assert request("GET", keyed + path).status == 200


def test_a_key_must_be_equal_as_a_whole():
    assert is_known("b", ["a", "b"]) and not is_known("", ["a"]) and not is_known("ab", ["a", "b"])
    assert not is_known("\udcff", ["a"])


@pytest.mark.parametrize(
    ("host", "origin", "is_allowed"),
    [
        ("127.0.0.1:8000", None, True),
        ("localhost:8000", "http://localhost:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("127.0.0.2", None, True),
        ("app.localhost:8000", None, True),
        ("localhost:8000", "http://localhost:3000", False),
        ("localhost:8000", "https://evil.example", False),
        ("localhost:8000", "null", False),
        ("localhost:8000", "", False),
        ("evil.example:8000", "http://evil.example:8000", False),
        ("evil.example", None, False),
        ("127.0.0.1.evil.example", None, False),
        ("", None, True),
    ],
)
def test_loopback_server_without_a_key_serves_only_its_own_page(host, origin, is_allowed):
    assert allows(settings(), host, origin) == is_allowed


def test_allowed_origins_may_use_the_server_also_behind_a_proxy():
    allowed = settings(origins=("https://chat.example.com",))
    assert allows(allowed, "localhost:8000", "https://chat.example.com")
    assert allows(allowed, "chat.example.com", "https://chat.example.com")
    assert not allows(allowed, "localhost:8000", "https://chat.example.com.evil.example")


def test_server_with_a_key_may_have_any_name():
    assert allows(settings(api_keys=("k",)), "models.example.com", None)
    assert not allows(settings(api_keys=("k",)), "models.example.com", "https://evil.example")
    assert allows(settings(api_keys=("k",), origins=("*",)), "models.example.com", "https://any.example")


def allows(served, host, origin):
    try:
        OriginRules(served).check(host, origin)
    except ApiError as error:
        assert error.status == 403
        return False
    return True


def test_foreign_page_is_refused_over_http_and_an_allowed_one_gets_cors_headers():
    with fake_server(origins=("https://chat.example.com",)) as (address, backend):
        refused = request("POST", address + CHAT, json=question(), headers={"Origin": "https://evil.example"})
        assert refused.status == 403 and refused.json()["error"]["code"] == "origin_refused" and backend.jobs == []
        headers = {"Origin": "https://chat.example.com"}
        allowed = request("POST", address + CHAT, json=question(), headers=headers)
        assert allowed.status == 200 and allowed.headers["access-control-allow-origin"] == headers["Origin"]
        asked = {**headers, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        assert request("OPTIONS", address + CHAT, headers=asked).status == 200


def test_server_without_allowed_origins_has_no_cors_headers(keyed):
    response = request("GET", keyed + "/health")
    assert not [name for name in response.headers if name.lower().startswith("access-control")]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


def test_page_has_its_types_and_a_strict_policy_and_no_other_file(tmp_path):
    from fastapi import FastAPI
    from live_server import served

    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<title>x</title>")
    (tmp_path / "page" / "app.js").write_text("1")
    (tmp_path / "page" / "notes.bak").write_text("secret")
    (tmp_path / "outside.txt").write_text("secret")
    app = FastAPI()
    add_page(app, read_page(tmp_path / "page"))
    with served(app) as address:
        index = request("GET", address + "/")
        assert index.headers["content-type"] == "text/html; charset=utf-8"
        assert index.headers["content-security-policy"] == POLICY
        assert request("GET", address + "/index.html").data == index.data
        assert request("GET", address + "/app.js").headers["content-type"].startswith("text/javascript")
        again = request("GET", address + "/", headers={"If-None-Match": index.headers["etag"]})
        assert again.status == 304 and again.data == b""
        for path in ("/notes.bak", "/../outside.txt", "/%2e%2e/outside.txt", "/..%2foutside.txt", "//etc/passwd"):
            assert request("GET", address + path).status == 404


def test_policy_allows_nothing_from_elsewhere():
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'self'" and rules["img-src"] == "'self' data: blob:"
    assert rules["object-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in POLICY

"""The page of a real `paddlemix serve` with the bundled model: its answers are those of the command line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from reading import add_images, ask, hover_and_click, last_answer, questions, reload, wait_for_theme

import paddlemix
from paddlemix import ChatSession, LlavaForConditionalGeneration, LlavaProcessor, SamplingParams

TINY = Path(paddlemix.__file__).parent / "examples" / "llava" / "tiny"
IMAGE = TINY / "shapes.png"
START_SECONDS = 90


@pytest.fixture(scope="module")
def server():
    """Start a server on a free port and return its address."""
    command = [sys.executable, "-m", "paddlemix.cli", "serve", "--model-path", str(TINY / "model"), "--port", "0"]
    command += ["--served-model-name", "tiny"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "http://" in line:
            break
    found = re.search(r"http://[\d.]+:\d+/", lines[-1])
    assert found, "".join(lines)
    wait_until_ready(found[0])
    yield found[0]
    process.send_signal(signal.SIGTERM)
    process.stdout.read()
    assert process.wait(timeout=60) == 0


def wait_until_ready(url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while not status(url)["is_ready"]:
        assert time.monotonic() < end, "the server was not ready in time"
        time.sleep(0.2)


def status(url: str) -> dict:
    with urllib.request.urlopen(f"{url}v1/status", timeout=10) as response:
        return json.load(response)


@pytest.fixture(scope="module")
def command_line():
    """Return a function that answers questions about the bundled image in one chat, as `paddlemix chat` does."""
    model = LlavaForConditionalGeneration.from_pretrained(TINY / "model", device="cpu")
    processor = LlavaProcessor.from_pretrained(TINY / "model")

    def answers(*texts: str) -> list[str]:
        session = ChatSession(model, processor, sampling=SamplingParams(temperature=0))
        return [session.ask(text, [IMAGE] if at == 0 else None).strip() for at, text in enumerate(texts)]

    return answers


@pytest.fixture
def page(server, open_page):
    """Return the page with greedy decoding."""
    page = open_page(server)
    page.click("#show-settings")
    page.fill("#option-temperature", "0")
    page.wait_for_selector("text=1,024 tokens")
    facts = page.locator("#settings .facts").inner_text().split("\n")
    assert facts[:2] == ["Model", "tiny"] and "vicuna_v1" in facts
    page.keyboard.press("Escape")
    return page


def test_two_turns_about_an_image_equal_the_command_line_and_stay_after_a_reload(page, server, command_line):
    first, second = "Describe the picture.", "Where is the star?"
    add_images(page, IMAGE)
    page.wait_for_selector("text=1 tile · 4 tokens")
    wanted = command_line(first, second)
    assert [ask(page, first), ask(page, second)] == wanted
    assert "red star" in wanted[0]
    page.wait_for_selector("#status.ready")
    page.click("#language")
    page.click("#theme")
    page.click("#theme")
    wait_for_theme(page, "dark")
    reload(page)
    wait_for_theme(page, "dark")
    assert page.inner_text("#new-conversation") == "新对话"
    assert questions(page) == [first, second]
    page.wait_for_selector(".turn.user img")
    assert last_answer(page) == wanted[1]
    assert re.search(r"上下文已用 \d+ / 1,024", page.inner_text("#meter"))


def test_edited_question_is_answered_as_if_it_were_the_first(page, command_line):
    add_images(page, IMAGE)
    ask(page, "Where is the star?")
    hover_and_click(page.locator(".turn.user").first, "Edit")
    field = page.locator(".is-edited textarea")
    field.fill("How many shapes are there?")
    field.press("Enter")
    page.wait_for_selector(".turn.user .versions >> text=2/2")
    assert [last_answer(page)] == command_line("How many shapes are there?")
    page.click(".turn.user [aria-label='Previous version']")
    assert [last_answer(page)] == command_line("Where is the star?")


def test_example_of_the_welcome_is_answered(page, command_line):
    page.click(".example >> nth=2")
    assert [last_answer(page)] == command_line("How many shapes are there?")


def test_continued_answer_ends_as_the_whole(page, command_line):
    add_images(page, IMAGE)
    page.keyboard.press("Control+,")
    page.fill("#option-max_tokens", "6")
    page.keyboard.press("Escape")
    (wanted,) = command_line("Describe the picture.")
    beginning = ask(page, "Describe the picture.")
    assert wanted.startswith(beginning) and len(beginning) < len(wanted) / 2
    assert page.inner_text(".finish-note") == "The token limit was reached"
    page.keyboard.press("Control+,")
    page.fill("#option-max_tokens", "")
    page.keyboard.press("Escape")
    page.click("[aria-label=Continue]")
    page.wait_for_selector(".finish-note", state="detached")
    assert last_answer(page) == wanted


def test_stopped_answer_ends_on_the_server_too(page, server):
    page.route("**/v1/chat/completions", send_on_without_end)
    page.fill("#message", "Hello")
    page.press("#message", "Enter")
    page.wait_for_function("() => document.querySelector('.turn.assistant .markdown')?.textContent.length > 20")
    page.click(".send.is-stop")
    assert page.inner_text(".finish-note") == "Stopped"
    assert len(last_answer(page)) > 20
    end = time.monotonic() + 10
    while status(server)["num_running"]:
        assert time.monotonic() < end, "the server goes on with an answer that nobody reads"
        time.sleep(0.1)


def send_on_without_end(route) -> None:
    """Let the bundled model, whose answers are short, write on until it is stopped."""
    body = json.loads(route.request.post_data)
    route.continue_(post_data=json.dumps({**body, "ignore_eos": True, "temperature": 1}))


def test_parameter_that_the_server_refuses_is_shown_with_its_words(page):
    page.click("#show-settings")
    page.fill("#option-stop", "\n".join(f"stop {number}" for number in range(40)))
    page.keyboard.press("Escape")
    page.fill("#message", "Hello")
    page.press("#message", "Enter")
    page.wait_for_selector(".card.failed")
    assert page.inner_text(".card.failed strong") == "The server refused the request"
    assert "stop" in page.inner_text(".card.failed p") and "16" in page.inner_text(".card.failed p")


def test_too_long_questions_are_explained_in_chinese_with_their_counts(page):
    page.click("#language")
    for question, image, words in (
        ("word " * 1200, IMAGE, r"提示词共 \d{4} 个 token（文字 \d{4} 个，1 张图片 4 个），而上下文最多 1024 个"),
        ("word " * 1200, None, r"提示词共 \d{4} 个 token，而上下文最多 1024 个"),
        ("word " * 30_000, None, r"文字有 1\d{5} 个字符，至少 \d+ 个 token，而上下文最多 1024 个"),
    ):
        page.click("#new-conversation")
        if image:
            add_images(page, image)
        page.fill("#message", question)
        page.press("#message", "Enter")
        page.wait_for_selector(".card.failed")
        assert re.search(words, page.inner_text(".card.failed"))
        assert page.locator(".card.failed button").count() == 0

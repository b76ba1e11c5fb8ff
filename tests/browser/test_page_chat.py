"""A conversation on the page: questions, streamed answers, versions, the keyboard, and what is kept."""

from __future__ import annotations

import re

import pytest
from reading import ask, hover_and_click, last_answer, questions, reload, titles, wait_for_theme


def test_question_is_answered_and_found_after_a_reload(page, api):
    assert ask(page, "First question") == "You asked: First question (0 images, message 1)"
    assert ask(page, "Second one") == "You asked: Second one (0 images, message 3)"
    assert titles(page) == ["First question"]
    reload(page)
    assert questions(page) == ["First question", "Second one"]
    assert page.title() == "First question · LLaVA"
    page.keyboard.press("Control+Shift+O")
    assert page.is_visible(".welcome")
    page.click("#conversations .open")
    assert last_answer(page).startswith("You asked: Second one")


def test_request_has_the_parameters_and_the_system_text_of_the_settings(page, api):
    page.click("#show-settings")
    page.fill("#option-system", "Answer briefly.")
    page.fill("#option-temperature", "0")
    page.fill("#option-max_tokens", "64")
    page.fill("#option-seed", "7")
    page.fill("#option-stop", "END\nSTOP")
    page.fill("#option-top_p", "3")
    assert page.inner_text("#option-top_p-wrong") == "Expected 0.01 to 1"
    page.keyboard.press("Escape")
    ask(page, "Hello")
    body = api.behavior.requests[-1]
    assert body["messages"] == [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Hello"}]
    settings = {key: body.get(key) for key in ("temperature", "max_tokens", "seed", "stop", "top_p", "top_k", "model")}
    assert settings == {
        "temperature": 0,
        "max_tokens": 64,
        "seed": 7,
        "stop": ["END", "STOP"],
        "top_p": None,
        "top_k": None,
        "model": "llava-v1.6-7b",
    }
    page.keyboard.press("Control+Shift+O")  # a new conversation starts with the same values
    ask(page, "Again")
    assert api.behavior.requests[-1]["seed"] == 7


def test_regenerated_answers_are_versions_to_choose_from(page, api):
    ask(page, "One")
    page.click("[aria-label=Regenerate]")
    last_answer(page)
    assert page.inner_text(".versions span") == "2/2"
    assert [len(body["messages"]) for body in api.behavior.requests] == [1, 1]
    ask(page, "Two")
    page.click("[aria-label='Previous version']")
    assert page.inner_text(".versions span") == "1/2"
    assert questions(page) == ["One"]  # what followed the second version belongs to it
    page.click("[aria-label='Next version']")
    assert questions(page) == ["One", "Two"]


def test_edited_question_is_a_version_with_its_own_answer(page, api):
    ask(page, "Wrong question")
    ask(page, "Follow-up")
    hover_and_click(page.locator(".turn.user").first, "Edit")
    field = page.locator(".is-edited textarea")
    assert field.input_value() == "Wrong question"
    field.fill("Right question")
    field.press("Enter")
    page.wait_for_selector(".markdown >> text=You asked: Right question")
    assert questions(page) == ["Right question"]
    page.click("[aria-label='Previous version']")
    assert questions(page) == ["Wrong question", "Follow-up"]


def test_escape_leaves_editing_without_a_change(page, api):
    ask(page, "Question")
    page.focus("#message")
    page.keyboard.press("ArrowUp")  # in the empty field: edit the last question
    page.wait_for_selector(".is-edited textarea")
    page.keyboard.type(" changed")
    page.keyboard.press("Escape")
    assert questions(page) == ["Question"] and page.locator(".is-edited").count() == 0
    assert len(api.behavior.requests) == 1


def test_stopped_answer_is_kept_and_can_be_continued(page, api):
    api.behavior.seconds_per_piece = 0.05
    page.fill("#message", "slow")
    page.press("#message", "Enter")
    page.wait_for_selector(".markdown >> text=word3")
    page.click(".send.is-stop")
    stopped = last_answer(page)
    assert stopped.startswith("word0") and "word399" not in stopped
    assert page.inner_text(".finish-note") == "Stopped"
    api.behavior.seconds_per_piece = 0
    page.click("[aria-label=Continue]")
    page.wait_for_selector(".markdown >> text=and the rest.")
    assert last_answer(page) == f"{stopped} and the rest."
    body = api.behavior.requests[-1]
    assert body["continue_final_message"] is True
    assert [message["role"] for message in body["messages"]] == ["user", "assistant"]
    assert api.server.num_left == 1  # the server could tell that the reader had left


def test_answer_goes_on_while_another_conversation_is_read(page, api):
    ask(page, "Old")
    page.keyboard.press("Control+Shift+O")
    api.behavior.seconds_per_piece = 1.0
    page.fill("#message", "chinese")
    page.press("#message", "Enter")
    page.click("#conversations .open >> text=Old")
    assert page.is_visible("#conversations .running")
    assert questions(page) == ["Old"] and page.get_attribute(".send", "aria-label") == "Send"
    api.behavior.seconds_per_piece = 0.0
    page.wait_for_selector("#conversations .running", state="detached")
    page.click("#conversations .open >> text=chinese")
    assert "蓝色圆形" in last_answer(page)


def test_everything_is_done_with_the_keyboard_alone(page, api):
    page.keyboard.type("First line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    last_answer(page)
    assert questions(page) == ["First line\nsecond line"]
    page.keyboard.press("Shift+Tab")  # out of the message field, to the buttons of the answer
    labels = []
    for _ in range(4):
        labels.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        page.keyboard.press("Shift+Tab")
    assert "Regenerate" in labels
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    assert page.is_visible("#shortcuts")
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    page.wait_for_selector(".versions")
    last_answer(page)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.press("Control+k")
    page.keyboard.type("nowhere")
    assert page.inner_text(".empty-list") == "No conversation contains “nowhere”."
    page.keyboard.press("Escape")
    assert titles(page) == ["First line second line"]
    page.keyboard.press("Control+,")
    assert page.is_visible("#settings")


def test_every_stop_of_the_tab_key_can_be_seen(page, api):
    ask(page, "Question")
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        name, style, is_shown = page.evaluate(
            """() => {
              const element = document.activeElement;
              const frame = (element.matches("textarea") && element.closest(".composer")) || element;
              const { outlineStyle, outlineWidth } = getComputedStyle(frame);
              const { width, height } = element.getBoundingClientRect();
              const label = element.getAttribute("aria-label") ?? element.textContent;
              return [label.trim() || element.alt || "", outlineStyle + outlineWidth, width > 1 && height > 1];
            }"""
        )
        assert is_shown and (name or page.evaluate("document.activeElement === document.body")), "a stop without a name"
        if not page.evaluate("document.activeElement === document.body"):
            assert not style.startswith("none") and not style.endswith("0px"), name
            seen.add(name)
    assert {"Copy", "Edit", "Regenerate", "Settings", "New conversation"} <= seen


def test_enter_of_an_input_method_sends_nothing(page, api):
    page.fill("#message", "你好")
    page.evaluate(
        """() => document.getElementById("message").dispatchEvent(
             new KeyboardEvent("keydown", { key: "Enter", isComposing: true, bubbles: true, cancelable: true }))"""
    )
    assert questions(page) == [] and page.input_value("#message") == "你好"


def test_conversations_are_renamed_found_and_deleted(page, api):
    for question in ("About cats", "About dogs"):
        ask(page, question)
        page.keyboard.press("Control+Shift+O")
    page.hover("#conversations li >> nth=0")
    page.click("[aria-label='Rename: About dogs']")
    page.keyboard.type("Wolves")
    page.keyboard.press("Enter")
    assert titles(page) == ["Wolves", "About cats"]
    page.fill("#search", "dogs")  # the text of a turn is searched as well
    assert titles(page) == ["Wolves"]
    page.fill("#search", "")
    page.hover("#conversations li >> nth=1")
    page.click("[aria-label='Delete: About cats']")
    page.click("#question .danger")
    page.wait_for_function("() => document.querySelectorAll('#conversations li').length === 1")
    reload(page)
    assert titles(page) == ["Wolves"]


def test_list_is_usable_while_an_answer_is_written(page, api):
    ask(page, "Old")
    page.keyboard.press("Control+Shift+O")
    api.behavior.seconds_per_piece = 0.02
    page.fill("#message", "slow")
    page.press("#message", "Enter")
    page.hover("#conversations li >> nth=1")
    page.click("[aria-label='Rename: Old']")
    page.keyboard.type("Renamed")
    page.wait_for_timeout(2000)  # the list is shown anew when the answer is saved
    page.keyboard.press("Enter")
    assert sorted(titles(page)) == ["Renamed", "slow"]
    page.click(".send.is-stop")


def test_tabs_of_one_browser_show_each_others_turns(page, api):
    other = page.context.new_page()
    other.goto(api.url)
    other.wait_for_selector(".empty-list")
    ask(page, "First")
    other.click("#conversations .open >> text=First")
    ask(page, "Second")
    other.wait_for_selector(".markdown >> text=You asked: Second")
    ask(other, "Third")
    page.wait_for_selector(".markdown >> text=You asked: Third")
    assert questions(page) == questions(other) == ["First", "Second", "Third"]
    page.hover("#conversations li")
    page.click("[aria-label='Delete: First']")
    page.click("#question .danger")
    other.wait_for_selector(".empty-list")
    assert other.is_visible(".welcome")


def test_streamed_answer_is_read_out_in_sentences(page, api):
    answer = ask(page, "Hello")
    assert page.inner_text("#answer-reader").strip() == answer
    assert page.get_attribute("#answer-reader", "aria-live") == "polite"


def test_use_of_the_context_is_shown(page, api):
    ask(page, "Hello")
    assert re.fullmatch(r"63\d of 4,096 tokens of the context", page.inner_text("#meter"))
    assert page.get_attribute("#meter", "aria-valuemax") == "4096"


@pytest.mark.parametrize("locale", ["zh-TW", "de-DE"])
def test_first_language_is_the_browsers(open_page, api, locale):
    page = open_page(api.url, locale=locale)
    assert page.get_attribute("#message", "aria-label") == ("消息" if locale.startswith("zh") else "Message")


def test_language_and_theme_are_switched_and_kept(page, api):
    ask(page, "Hello")
    page.click("#language")
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert page.inner_text("#new-conversation") == "新对话"
    assert page.get_attribute(".turn.assistant [aria-label=重新生成]", "title") == "重新生成"
    wait_for_theme(page, "light")  # as the system
    page.emulate_media(color_scheme="dark")
    wait_for_theme(page, "dark")
    page.click("#theme")
    wait_for_theme(page, "light")  # chosen, whatever the system says
    page.reload()
    page.wait_for_selector("html[lang=zh-CN][data-theme=light]")

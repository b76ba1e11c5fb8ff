"""What goes wrong is said in words that help, and nothing that was written is lost."""

from __future__ import annotations

from PIL import Image
from reading import ADD_IMAGES, add_images, ask, last_answer, questions, reload

TOO_LONG = "this prompt has 4912 tokens (112 of text, 4800 of 2 images), but the context holds 4096"
# Whether a conversation with a text is in the browser's database.
IS_SAVED = """(text) => new Promise((resolve) => {
  indexedDB.open("paddlemix").onsuccess = ({ target }) => {
    target.result.transaction("conversations").objectStore("conversations").getAll().onsuccess = (event) =>
      resolve(JSON.stringify(event.target.result).includes(text));
  };
})"""
LONG_ERROR = {"message": TOO_LONG, "code": "context_length_exceeded"}


def send(page, text: str) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")


def test_busy_server_is_asked_again_after_a_countdown(page, api):
    api.behavior.num_busy = 1
    api.behavior.wait_seconds = 3
    send(page, "Patience")
    page.wait_for_selector(".card.busy")
    assert page.inner_text(".card.busy strong") == "The server is busy"
    assert page.inner_text(".countdown") in {
        f"Next try in {number} s. You need not do anything." for number in (1, 2, 3)
    }
    assert last_answer(page).startswith("You asked: Patience")
    assert len(api.behavior.requests) == 2


def test_countdown_can_be_cut_short_or_cancelled(page, api):
    api.behavior.num_busy = 2
    api.behavior.wait_seconds = 60
    send(page, "Now")
    with page.expect_response("**/v1/chat/completions"):
        page.click("text=Retry now")
    page.click(".card.busy >> text=Cancel")
    page.wait_for_selector(".finish-note")
    assert page.inner_text(".finish-note") == "Stopped"
    assert len(api.behavior.requests) == 2


def test_key_is_asked_for_kept_and_sent(open_page, api):
    api.behavior.key = "open sesame"
    page = open_page(api.url)
    page.fill("#question input", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The server refused this key.")
    assert page.is_visible("#question input")
    assert page.evaluate("() => localStorage.getItem('paddlemix.key')") is None
    page.keyboard.press("Escape")
    send(page, "Let me in")
    page.fill("#question input", "open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector(".markdown >> text=You asked: Let me in")
    reload(page)
    assert ask(page, "Again").startswith("You asked: Again")


def test_key_in_the_settings_is_tried_at_once(open_page, api):
    api.behavior.key = "open sesame"
    page = open_page(api.url)
    page.wait_for_selector("#question input")
    page.keyboard.press("Escape")
    page.click("#show-settings")
    page.fill("#option-key", "wrong")
    page.press("#option-key", "Tab")
    page.wait_for_selector("#settings >> text=The server refused this key.")
    page.fill("#option-key", "open sesame")
    page.press("#option-key", "Tab")
    page.wait_for_selector("#status.ready", state="attached")
    page.wait_for_selector("text=The server refused this key.", state="hidden")


def test_server_is_left_alone_while_a_key_is_needed(page, api):
    api.behavior.key = "open sesame"
    page.clock.install()
    page.reload()
    page.wait_for_selector("#status.key")
    refused = []
    page.on("response", lambda response: refused.append(response.url))
    page.clock.run_for(30_000)
    assert refused == []


def test_end_of_other_answers_shows_soon(page, api):
    api.behavior.num_waiting = 2
    page.clock.install()
    page.reload()
    page.wait_for_selector("#status.busy")
    api.behavior.num_waiting = 0
    with page.expect_response("**/v1/status"):
        page.clock.run_for(1_600)
    page.wait_for_selector("#status.ready:not(.busy)")


def test_note_goes_by_itself(page, tmp_path):
    page.clock.install()
    reload(page)
    text = tmp_path / "notes.png"
    text.write_text("no image")
    page.set_input_files(ADD_IMAGES, text)
    page.wait_for_selector(".notice")
    page.clock.run_for(9_100)
    page.wait_for_selector(".notice", state="detached")


def test_icons_stay_when_the_server_is_gone(page, api):
    page.wait_for_selector("#status.ready")
    page.route("**/*", lambda route: route.abort())
    page.evaluate("() => dispatchEvent(new Event('offline'))")
    page.wait_for_selector("#status.offline")
    page.click("#theme")
    empty = page.evaluate(
        """() => [...document.querySelectorAll("svg.icon")]
        .filter((one) => one.checkVisibility() && !one.getBBox().width)
        .map((one) => one.firstChild.getAttribute("href"))"""
    )
    assert empty == [] and page.locator("svg.icon:visible").count() > 5


ERRORS = [  # status, error, title, what the server said as a sentence, whether another try makes sense
    (
        400,
        {"message": TOO_LONG, "code": "context_length_exceeded"},
        "The conversation is too long for the model",
        "This prompt has 4912 tokens (112 of text, 4800 of 2 images), but the context holds 4096.",
        False,
    ),
    (400, {"message": "no <b>bold</b>"}, "The server refused the request", "No <b>bold</b>", False),
    (400, {"message": "stop is 0", "param": "stop"}, "The server refused the request", "stop is 0.", False),
    (413, {"message": "70 MB, at most 64"}, "The message is too large for this server", "70 MB, at most 64.", False),
    (404, {"message": "no model x"}, "The server does not have this model", "No model x.", True),
    (500, {}, "The server failed", "It may work at the next try.", True),
]
CHINESE = [  # status, error, what the Chinese page says
    (
        400,
        {"message": TOO_LONG, "code": "context_length_exceeded"},
        ("4912", "112", "4800", "2 张图片", "4096", "请缩短文字"),
    ),
    (400, {"message": "it is no image", "code": "invalid_image"}, ("无法读取图片", "it is no image")),
    (500, {"message": "the process ended", "code": "worker_died"}, ("进程意外结束",)),
    (504, {"message": "the answer was not complete after 2 seconds", "code": "timeout"}, ("2 秒内没有完成",)),
    (500, {"message": "the server stops", "code": "stopping"}, ("服务器正在停止",)),
    (500, {"message": "something else", "code": "other"}, ("Something else.",)),
]


def test_errors_are_shown_with_what_the_server_said(page, api):
    for status, error, title, detail, is_worth_a_try in ERRORS:
        page.keyboard.press("Control+Shift+O")
        api.behavior.error = (status, error)
        send(page, "Hello")
        page.wait_for_selector(".card.failed")
        assert page.inner_text(".card.failed strong") == title
        assert page.locator(".card.failed p").first.inner_text() == detail
        assert page.get_attribute(".card.failed", "role") == "alert"
        api.behavior.error = None
        tries = page.locator(".turn.assistant :is(button:text('Try again'), [aria-label=Regenerate])")
        assert tries.count() == 1
        assert tries.inner_text() == ("Try again" if is_worth_a_try else "")
        tries.click()
        page.wait_for_selector(".markdown >> text=You asked: Hello")
        assert page.locator(".card").count() == 0


def test_known_errors_are_chinese_in_the_chinese_page(open_page, api):
    page = open_page(api.url, locale="zh-CN")
    for status, error, words in CHINESE:
        page.keyboard.press("Control+Shift+O")
        api.behavior.error = (status, error)
        send(page, "你好")
        page.wait_for_selector(".card.failed")
        said = page.locator(".card.failed p").first.inner_text()
        assert all(word in said for word in words), said
    api.behavior.error = None
    api.behavior.num_busy, api.behavior.wait_seconds = 1, 60
    page.keyboard.press("Control+Shift+O")
    send(page, "你好")
    page.wait_for_selector(".card.busy >> text=已有 64 个回答在排队，最多允许 8 个。")


def test_question_after_a_failed_answer_leaves_the_empty_one_out(page, api):
    api.behavior.error = (500, {"message": "out of luck"})
    send(page, "First")
    page.wait_for_selector(".card.failed")
    api.behavior.error = None
    ask(page, "Second")
    assert [message["content"] for message in api.behavior.requests[-1]["messages"]] == ["First", "Second"]


def test_answer_that_breaks_off_is_kept(page, api):
    api.behavior.is_breaking = True
    send(page, "slow")
    page.wait_for_selector(".card.failed")
    assert page.inner_text(".card.failed strong") == "The connection was lost during the answer"
    assert page.inner_text(".markdown") == "word0 word1 word2 wo"
    api.behavior.is_breaking = False
    page.click("[aria-label=Continue]")
    page.wait_for_selector(".markdown >> text=word0 word1 word2 wo and the rest.")


def test_server_that_goes_and_comes_back_is_noticed(page, api):
    page.wait_for_selector("#status.ready")
    page.route("**/v1/**", lambda route: route.abort())
    page.evaluate("() => dispatchEvent(new Event('offline'))")
    page.wait_for_selector("#status.offline")
    send(page, "Hello")
    page.wait_for_selector("text=The server cannot be reached")
    page.unroute("**/v1/**")
    page.wait_for_selector("text=The server is back")
    page.click("text=Try again")
    page.wait_for_selector(".markdown >> text=You asked: Hello")


def test_answer_that_was_being_written_when_the_page_closed_says_so(page, api):
    api.behavior.seconds_per_piece = 0.1
    send(page, "slow")
    while not page.evaluate(IS_SAVED, "word1"):  # it is saved now and then
        page.wait_for_timeout(100)
    page.reload()
    page.wait_for_selector(".finish-note")
    assert page.inner_text(".finish-note") == "The page was closed while this answer was written"
    assert page.inner_text(".markdown").startswith("word0 word1")
    assert page.is_visible("[aria-label=Continue]")


def test_model_that_loads_is_waited_for(open_page, api):
    api.behavior.is_ready = False
    page = open_page(api.url)
    page.wait_for_selector("text=The model is loading")
    api.behavior.is_ready = True
    page.wait_for_selector("#status.ready")


def test_files_that_are_no_images_and_too_many_images_are_named(page, api, tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("no image")
    page.set_input_files(ADD_IMAGES, text)
    page.wait_for_selector("text=“notes.png” could not be read as an image.")
    bar, note = (page.locator(selector).bounding_box() for selector in ("#bar", ".notice"))
    assert note["y"] >= bar["y"] + bar["height"]
    images = [tmp_path / f"{number}.png" for number in range(9)]
    for number, path in enumerate(images):
        Image.new("RGB", (40 + number, 30), (20 * number, 80, 120)).save(path)
    add_images(page, *images[:8])
    page.set_input_files(ADD_IMAGES, images[8])
    page.wait_for_selector("text=A conversation holds at most 8 images on this server.")
    assert ask(page, "All of them") == "You asked: All of them (8 images, message 1)"
    assert questions(page) == ["All of them"]

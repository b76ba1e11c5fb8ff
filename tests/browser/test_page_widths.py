"""The page on a phone, a tablet and a desktop: nothing is wider than the screen, everything can be reached."""

from __future__ import annotations

from pathlib import Path

from reading import add_images, ask, scrolls_sideways

import paddlemix

IMAGE = Path(paddlemix.__file__).parent / "examples" / "llava" / "tiny" / "shapes.png"
WIDTHS = (320, 360, 768, 1280)
LONG_WORD = "W" * 300


def test_page_never_scrolls_sideways(open_page, api):
    api.behavior.grid = (2, 2)
    page = open_page(api.url)
    check_widths(page)
    add_images(page, IMAGE, IMAGE, IMAGE)
    check_widths(page)
    for question in (LONG_WORD, "long", "hostile"):
        ask(page, question)
        check_widths(page)
    api.behavior.error = (400, {"message": LONG_WORD})
    page.fill("#message", "Hello")
    page.press("#message", "Enter")
    page.wait_for_selector(".card.failed")
    check_widths(page)
    page.click("#language")
    check_widths(page)
    page.click("#show-settings")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("() => settings.scrollWidth - settings.clientWidth") == 0, width


def check_widths(page) -> None:
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 700})
        assert not scrolls_sideways(page), width


def test_conversations_are_in_a_drawer_on_a_phone(open_page, api):
    page = open_page(api.url, width=360, height=700, has_touch=True)
    ask(page, "First")
    assert not page.is_visible("#conversations") and page.evaluate("() => document.getElementById('sidebar').inert")
    page.tap("#open-sidebar")
    page.wait_for_selector("#conversations .open")
    assert page.evaluate("() => document.activeElement.id") == "close-sidebar"
    page.keyboard.press("Escape")
    page.wait_for_selector("#conversations .open", state="hidden")
    assert page.evaluate("() => document.activeElement.id") == "open-sidebar"
    page.tap("#open-sidebar")
    page.tap("#new-conversation")
    page.wait_for_selector(".welcome")
    assert not page.is_visible("#sidebar")


def test_welcome_begins_with_its_heading_also_where_it_does_not_fit(open_page, api):
    page = open_page(api.url, width=360, height=560, locale="zh-CN")
    add_images(page, IMAGE)
    for height in (560, 420, 640):
        page.set_viewport_size({"width": 360, "height": height})
        page.wait_for_timeout(50)  # for the page's own scrolling
        bar, heading = (page.locator(selector).bounding_box() for selector in ("#bar", ".welcome h2"))
        assert heading["y"] >= bar["y"] + bar["height"], height


def test_button_that_removes_an_image_is_at_its_top_right_corner(open_page, api):
    page = open_page(api.url, width=360)
    add_images(page, IMAGE)
    page.wait_for_selector("text=576 tokens")
    image, button = (page.locator(f"#dock {selector}").bounding_box() for selector in (".image-tile img", ".remove"))
    assert button["x"] + button["width"] / 2 >= image["x"] + image["width"]
    assert button["y"] + button["height"] / 2 <= image["y"] + 2
    page.click("#dock .remove")
    assert page.locator("#dock .image-tile").count() == 0


def test_buttons_are_large_enough_for_a_finger(open_page, api):
    page = open_page(api.url, width=360, height=700, has_touch=True, is_mobile=True)
    ask(page, "First")
    small = page.evaluate(
        """() => [...document.querySelectorAll("button")].filter((button) => button.offsetParent).filter((button) => {
          const { width, height } = button.getBoundingClientRect();
          return width < 24 || height < 24;
        }).map((button) => button.getAttribute("aria-label"))"""
    )
    assert small == []


def test_nothing_moves_for_readers_who_want_no_motion(open_page, api):
    api.behavior.seconds_per_piece = 0.2
    page = open_page(api.url, reduced_motion="reduce")
    page.fill("#message", "slow")
    page.press("#message", "Enter")
    page.wait_for_selector(".is-writing")
    moving = page.evaluate("() => document.getAnimations().length")
    assert moving == 0


def test_answer_is_followed_to_its_end_unless_the_reader_scrolls_up(open_page, api):
    page = open_page(api.url, height=500)
    ask(page, "long")
    at_end = """() => {
      const { scrollHeight, scrollTop, clientHeight } = document.getElementById("thread");
      return scrollHeight - scrollTop - clientHeight < 3;
    }"""
    page.wait_for_function(at_end)
    api.behavior.seconds_per_piece = 0.05
    page.fill("#message", "long")
    page.press("#message", "Enter")
    page.wait_for_selector(".is-writing table")
    page.hover("#thread")
    page.mouse.wheel(0, -600)
    page.wait_for_selector("#to-latest")
    api.behavior.seconds_per_piece = 0.0
    page.wait_for_selector(".is-writing", state="detached")
    assert not page.evaluate(at_end)
    page.click("#to-latest")
    page.wait_for_function(at_end)

"""Take the README's screenshot of the page: a real server with the bundled model, on a desktop and on a phone.

paddlemix serve --model-path paddlemix/examples/llava/tiny/model &
python tests/browser/screenshots.py http://127.0.0.1:8000/ paddlemix/examples/llava/assets/serve_page.png
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from reading import add_images, ask

import paddlemix

IMAGE = Path(paddlemix.__file__).parent / "examples" / "llava" / "tiny" / "shapes.png"
HEIGHT = 840  # px, of both
GAP = 24


def take_desktop(browser, url: str) -> bytes:
    page = open_page(browser, url, 1120, color_scheme="light", locale="en-US")
    for question in ("How many shapes are there?", "What colour is the circle?"):
        add_images(page, IMAGE)
        ask(page, question)
        page.click("#new-conversation")
    add_images(page, IMAGE)
    for question in ("Describe the picture.", "Where is the star?"):
        ask(page, question)
    return take(page)


def take_phone(browser, url: str) -> bytes:
    page = open_page(browser, url, 390, color_scheme="dark", locale="zh-CN", has_touch=True)
    add_images(page, IMAGE)
    ask(page, "Which shape is green?")
    ask(page, "What is at the top right?")
    return take(page)


def take(page) -> bytes:
    page.wait_for_selector("#status.ready:not(.busy)")
    page.wait_for_timeout(500)  # transitions end
    return page.screenshot()


def open_page(browser, url: str, width: int, **options):
    """Open the page with greedy decoding."""
    page = browser.new_context(viewport={"width": width, "height": HEIGHT}, **options).new_page()
    page.goto(url)
    page.wait_for_selector("#status.ready")
    page.evaluate("() => localStorage.setItem('paddlemix.options', JSON.stringify({ temperature: 0 }))")
    page.reload()
    page.wait_for_selector("#status.ready")
    return page


def main(url: str, target: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        shots = [Image.open(io.BytesIO(take(browser, url))).convert("RGB") for take in (take_desktop, take_phone)]
        browser.close()
    width = sum(shot.width for shot in shots) + GAP
    joined = Image.new("RGBA", (width, HEIGHT))  # the gap is transparent
    joined.paste(shots[0], (0, 0))
    joined.paste(shots[1], (width - shots[1].width, 0))
    joined.save(target, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

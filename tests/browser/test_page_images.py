"""Images on the page: chosen, pasted, dropped, shrunk, and shown with the tiles that the model sees."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image
from reading import add_images, ask, hover_and_click, last_answer

from paddlemix.image.anyres import fitted_size

SIDE = 336
SIZES = [(1400, 640), (500, 500), (300, 900), (1009, 331)]
GRIDS = [(2, 2), (3, 1), (1, 3), (1, 2)]


def png(width: int, height: int, color=(200, 80, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


def upload(name: str, data: bytes, kind: str = "image/png") -> dict:
    return {"name": name, "mimeType": kind, "buffer": data}


def sent_images(body: dict) -> list[Image.Image]:
    """Return the images of the last message of a request."""
    parts = [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    data = [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in parts]
    return [Image.open(io.BytesIO(one)) for one in data]


def give(page, kind: str, files: list[tuple[str, bytes]]) -> None:
    """Paste or drop files on the page, as a browser does."""
    page.evaluate(
        """([kind, files]) => {
          const data = new DataTransfer();
          for (const [name, text] of files) {
            const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
            data.items.add(new File([bytes], name, { type: "image/png" }));
          }
          const options = { bubbles: true, cancelable: true };
          const event = kind === "paste" ? new ClipboardEvent(kind, { ...options, clipboardData: data })
            : new DragEvent(kind, { ...options, dataTransfer: data });
          document.getElementById("thread").dispatchEvent(event);
        }""",
        [kind, [(name, base64.b64encode(data).decode()) for name, data in files]],
    )


def test_images_come_in_order_and_byte_by_byte_as_they_are(page, api):
    first, second = png(64, 48), png(48, 64, (0, 0, 255))
    add_images(page, upload("first.png", first), upload("second.png", second))
    ask(page, "Compare")
    content = api.behavior.requests[-1]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
    sent = [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in content[:2]]
    assert sent == [first, second]
    ask(page, "And now?")  # the history has them again
    assert len(sent_images({"messages": api.behavior.requests[-1]["messages"][:1]})) == 2


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_images_are_pasted_and_dropped_anywhere(page, api, kind):
    if kind == "drop":
        give(page, "dragenter", [("a.png", png(10, 10))])
        assert page.is_visible("text=Drop images here")
    give(page, kind, [("a.png", png(30, 20)), ("b.png", png(20, 30))])
    page.wait_for_function("() => document.querySelectorAll('#composer-place .image-tile').length === 2")
    assert not page.is_visible("text=Drop images here")
    page.click("[aria-label='Remove the image: a.png']")
    ask(page, "What is it?")
    assert [image.size for image in sent_images(api.behavior.requests[-1])] == [(20, 30)]


def test_image_above_the_servers_limit_is_shrunk_with_a_note(open_page, api):
    api.behavior.max_body_bytes = 2_000_000
    page = open_page(api.url)
    page.wait_for_selector("#status.ready")
    buffer = io.BytesIO()
    Image.effect_noise((2400, 1200), 90).save(buffer, "PNG")
    add_images(page, upload("noise.png", buffer.getvalue()))
    page.wait_for_selector("text=/Shrunk from 2400 × 1200 to \\d+ × \\d+/")
    ask(page, "What is it?")
    (image,) = sent_images(api.behavior.requests[-1])
    assert image.format == "JPEG" and image.width < 2400 and abs(image.width / image.height - 2) < 0.02
    assert len(str(api.behavior.requests[-1])) < 2_000_000


def test_formats_that_only_browsers_read_become_png(page, api):
    add_images(page, upload("drawing.avif", avif(), "image/avif"))
    ask(page, "What is it?")
    (image,) = sent_images(api.behavior.requests[-1])
    assert (image.format, image.size) == ("PNG", (32, 16))


def avif() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16), "red").save(buffer, "AVIF")
    return buffer.getvalue()


def test_tiles_and_tokens_are_shown_and_the_grid_is_drawn(page, api):
    api.behavior.grid = (3, 1)
    add_images(page, upload("wide.png", png(900, 300)))
    page.wait_for_selector("text=3 × 1 tiles + overview · 2,304 tokens")
    path = page.locator("#composer-place .grid path").last.get_attribute("d")
    assert [round(float(place)) for place in re.findall(r"M([\d.]+) 0V100", path)] == [33, 67]
    page.click("#composer-place .image-frame")
    page.wait_for_selector("#lightbox .grid")
    assert "900 × 300 pixels" in page.inner_text("#lightbox footer")
    page.uncheck("#lightbox input")
    assert not page.is_visible("#lightbox .grid")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "image-frame"


def test_lines_of_the_grid_are_where_the_tiles_are_cut(page):
    cases = [(size, grid) for size in SIZES for grid in GRIDS]
    found = page.evaluate(
        """async (cases) => {
          const { gridLines } = await import("./image_tile.js");
          return cases.map(([[width, height], grid]) => gridLines(width, height, grid));
        }""",
        cases,
    )
    for (size, grid), lines in zip(cases, found, strict=True):
        canvas = (grid[0] * SIDE, grid[1] * SIDE)
        fitted = fitted_size(size, canvas)
        for axis, name in enumerate(("columns", "rows")):
            margin = (canvas[axis] - fitted[axis]) / 2
            cuts = [(SIDE * at - margin) / fitted[axis] * 100 for at in range(1, grid[axis])]
            inside = [cut for cut in cuts if 0.5 < cut < 99.5]
            assert lines[name] == pytest.approx(inside, abs=0.5), (size, grid)  # it is scaled to whole pixels


def test_edited_question_keeps_or_loses_its_images(page, api):
    add_images(page, upload("a.png", png(30, 20)), upload("b.png", png(20, 30)))
    ask(page, "Both")
    hover_and_click(page.locator(".turn.user"), "Edit")
    page.click(".is-edited [aria-label='Remove the image: b.png']")
    page.press(".is-edited textarea", "Enter")
    page.wait_for_selector(".turn.user .versions")
    assert last_answer(page) == "You asked: Both (1 images, message 1)"
    page.reload()
    page.wait_for_selector(".turn.user img")
    assert page.locator(".turn.user img").count() == 1

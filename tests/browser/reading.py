"""What a reader does on the page, and what the page shows."""

from __future__ import annotations

ADD_IMAGES = "#composer-place input[type=file]"


def ask(page, text: str) -> str:
    """Type a question, send it with Enter, and return the complete answer."""
    num_before = page.locator(".turn").count()
    page.fill("#message", text)
    page.press("#message", "Enter")
    page.wait_for_function("number => document.querySelectorAll('.turn').length >= number", arg=num_before + 2)
    return last_answer(page)


def last_answer(page) -> str:
    """Wait until the last answer is complete, and return its text."""
    page.wait_for_selector(".turn.assistant:last-child:not(.is-writing) .turn-actions button")
    return page.inner_text(".turn.assistant:last-child .markdown").strip()


def add_images(page, *files) -> None:
    """Choose image files, and wait until the composer shows them."""
    before = page.locator("#composer-place .image-tile").count()
    page.set_input_files(ADD_IMAGES, list(files))
    page.wait_for_function(
        "number => document.querySelectorAll('#composer-place .image-tile').length >= number", arg=before + len(files)
    )


def reload(page) -> None:
    """Reload the page, and wait until it has read its conversations and found the server."""
    page.reload()
    page.wait_for_selector("#status.ready")


def questions(page) -> list[str]:
    return page.locator(".turn.user .bubble").all_inner_texts()


def titles(page) -> list[str]:
    return page.locator("#conversations .open").all_inner_texts()


def hover_and_click(element, label: str) -> None:
    """Click a button that shows when the pointer is over the element."""
    element.hover()
    element.locator(f"[aria-label='{label}']").click()


def wait_for_theme(page, name: str) -> None:
    page.wait_for_selector(f"html[data-theme={name}]")


def scrolls_sideways(page) -> bool:
    """Return whether the page or the list of turns is wider than its frame."""
    return page.evaluate(
        "[document.documentElement, document.getElementById('thread')].some(e => e.scrollWidth > e.clientWidth)"
    )

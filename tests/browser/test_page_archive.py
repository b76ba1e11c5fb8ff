"""Conversations leave the browser as one file and come back; a broken file is refused with the place that is wrong."""

from __future__ import annotations

import copy
import io
import json

import pytest
from PIL import Image
from reading import add_images, ask, last_answer, questions, reload, titles


def export(page) -> dict:
    page.click("#show-settings")
    with page.expect_download() as download:
        page.click("text=Export all")
    page.keyboard.press("Escape")
    return json.loads(download.value.path().read_text(encoding="utf-8"))


def import_file(page, content) -> None:
    page.click("#show-settings")
    data = content if isinstance(content, str) else json.dumps(content)
    page.set_input_files("#import-file", {"name": "mine.json", "mimeType": "application/json", "buffer": data.encode()})
    page.wait_for_selector(".notice")
    page.keyboard.press("Escape")


@pytest.fixture
def archive(page, api):
    """Return an exported file with a conversation of two questions, one image, and two versions of an answer."""
    buffer = io.BytesIO()
    Image.new("RGB", (33, 21), "teal").save(buffer, "PNG")
    add_images(page, {"name": "teal.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    ask(page, "Look at <this>")
    ask(page, "你好")
    page.click(".turn.assistant:last-child [aria-label=Regenerate]")
    page.wait_for_selector(".versions")
    last_answer(page)
    return export(page)


def anonymous(archive: dict) -> dict:
    """Return an archive with numbers in place of ids, in order of their appearance."""
    text = json.dumps({**archive, "exportedAt": ""}, ensure_ascii=False)
    ids = [row["id"] for row in archive["conversations"]] + list(archive["images"])
    ids += [turn["id"] for row in archive["conversations"] for turn in row["turns"]]
    for number, name in enumerate(ids):
        text = text.replace(name, f"#{number}")
    return json.loads(text)


def test_exported_conversations_come_back_in_another_browser(archive, open_page, api):
    other = open_page(api.url)
    import_file(other, archive)
    assert titles(other) == ["Look at <this>"]
    other.click("#conversations .open")
    assert questions(other) == ["Look at <this>", "你好"]
    other.wait_for_selector(".turn.user img")
    assert other.inner_text(".versions span") == "2/2"
    assert anonymous(export(other)) == anonymous(archive)
    assert ask(other, "More") == "You asked: More (0 images, message 5)"
    assert api.behavior.requests[-1]["messages"][0] == api.behavior.requests[0]["messages"][0]


def test_imported_file_leaves_what_is_there(archive, page):
    import_file(page, archive)
    page.wait_for_selector("text=1 conversation imported")
    assert titles(page) == ["Look at <this>", "Look at <this>"]


def image_of(file: dict) -> dict:
    return next(iter(file["images"].values()))


def broken(archive: dict, change) -> dict:
    changed = copy.deepcopy(archive)
    change(changed, changed["conversations"][0])
    return changed


BREAKS = [
    (lambda file, row: file.update(format="other"), 'no "format": "paddlemix-conversations", "version": 1'),
    (lambda file, row: file.update(conversations={}), "conversations is no list"),
    (lambda file, row: row.update(title=3), "conversations[0]: no title, createdAt and updatedAt"),
    (lambda file, row: row.update(turns=[]), "conversations[0]: turns is no list with a turn"),
    (lambda file, row: row["turns"][1].update(role="system"), "conversations[0].turns[1]: no id, role and text"),
    (lambda file, row: row["turns"][1].update(parent="x"), ".turns[1]: its parent is no turn before it"),
    (lambda file, row: row["turns"][1].update(role="user"), ".turns[1]: a user cannot follow here"),
    (lambda file, row: row["turns"][0].update(images=["x"]), ".turns[0]: an image is not in the file"),
    (lambda file, row: row["turns"].append(row["turns"][0]), "conversations[0]: two turns have the same id"),
    (lambda file, row: image_of(file).update(data="https://x.y/z.png"), "data is no image as a data URI"),
    (lambda file, row: image_of(file).update(data="data:image/svg+xml;base64,AAAA"), "data is no image as a data URI"),
]


def test_broken_files_are_refused_with_the_place(archive, open_page, api):
    page = open_page(api.url)
    for change, why in BREAKS:
        import_file(page, broken(archive, change))
        shown = page.locator(".notice").last.inner_text()
        assert shown.startswith("“mine.json” was not imported: ") and why in shown
        page.locator(".notice button").last.click()
    import_file(page, "{")
    assert "not JSON" in page.locator(".notice").last.inner_text()
    assert titles(page) == []
    reload(page)
    assert titles(page) == []


def test_one_conversation_is_exported_alone(archive, page):
    page.keyboard.press("Control+Shift+O")
    ask(page, "Another")
    page.hover("#conversations li")
    with page.expect_download() as download:
        page.locator("[aria-label='Export: Another']").click()
    file = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert [row["title"] for row in file["conversations"]] == ["Another"] and file["images"] == {}


def test_deleting_all_leaves_nothing_in_the_browser(archive, page):
    page.click("#show-settings")
    page.click("text=Delete all")
    page.click("#question .danger")
    page.wait_for_selector(".welcome")
    reload(page)
    assert titles(page) == []
    counts = page.evaluate(
        """() => new Promise((resolve) => {
          indexedDB.open("paddlemix").onsuccess = ({ target }) => {
            target.result.transaction("images").objectStore("images").count().onsuccess = (event) =>
              resolve(event.target.result);
          };
        })"""
    )
    assert counts == 0

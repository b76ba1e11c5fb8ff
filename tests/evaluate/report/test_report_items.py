"""The gallery shows the right items with their images, within its limits, and says what it leaves out."""

from __future__ import annotations

import base64
import io
import random
from collections import Counter

import pytest
from html_tree import Element, tree
from PIL import Image
from report_results import asked, bitmap, custom_result, drawn, pope_result, result_of

from paddlemix.evaluate.item import ImageFile
from paddlemix.evaluate.report import page as page_module
from paddlemix.evaluate.report import write_report
from paddlemix.evaluate.report.gallery import MAX_TEXT, right_answer
from paddlemix.evaluate.report.selection import categories_of, chosen, state_of
from paddlemix.evaluate.report.thumbnails import MAX_SIDE, MIN_SIDE, Boxes, side_for


def page_of(folder, results, **settings) -> Element:
    write_report(folder / "report.html", results, [], **settings)
    return tree((folder / "report.html").read_text(encoding="utf-8"))


def rows_of(item: Element) -> dict[str, str]:
    (listed,) = item.find("dl")
    texts = [part.text for part in listed.parts]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def item_of(page: Element, name: str) -> Element:
    (found,) = [one for one in page.find("article") if one.find("h4")[0].text == name]
    return found


def test_item_has_prompt_answer_what_was_read_and_the_right_answer(tmp_path):
    page = page_of(tmp_path, [pope_result()])
    assert rows_of(item_of(page, "c")) == {
        "prompt": "Is there a cat?",
        "answer": "Perhaps.",
        "read in it": "nothing",
        "right answer": "yes",
    }
    assert rows_of(item_of(page, "d")) == {
        "prompt": "Is there a cat?",
        "problem": "the image is broken",
        "right answer": "no",
    }


def test_filters_find_task_state_and_category_in_attributes(tmp_path):
    page = page_of(tmp_path, [pope_result()])
    data = {name: item_of(page, name).attributes for name in "abcd"}
    assert {name: one["data-state"] for name, one in data.items()} == {
        "a": "right",
        "b": "wrong",
        "c": "failed",
        "d": "problem",
    }
    assert {(one["data-task"], one["data-category"]) for one in data.values()} == {("pope", "random")}
    (form,) = page.find("form")
    assert "hidden" in form.attributes  # until the script runs
    assert not any("hidden" in one.attributes for one in page.find("article"))
    names = [one.attributes["name"] for one in form.walk() if "name" in one.attributes]
    assert f"const {{ {', '.join(names)} }} = form.elements;" in page.find("script")[0].text
    states = [one.attributes["value"] for one in form.find("select", name="state")[0].find("option")]
    assert set(states) >= {one["data-state"] for one in data.values()}


def test_judged_answer_shows_every_text_of_the_judge_and_its_abilities(tmp_path):
    question = asked("v1_0", "?", answer="x<AND>y", capabilities=["ocr", "math"])
    page = page_of(tmp_path, [result_of("mmvet", [question], ["x"], ("0.4", "0.6"), judge="j")])
    (item,) = page.find("article")
    assert rows_of(item) | {"prompt": ""} == {
        "prompt": "",
        "answer": "x",
        "read in it": "0.5",
        "right answer": "x<AND>y",
        "judge 1": "0.4",
        "judge 2": "0.6",
    }
    assert item.attributes["data-state"] == "partly" and item.attributes["data-category"] == "ocr\nmath"


@pytest.mark.parametrize(
    ("fields", "key", "text"),
    [
        ({"answer": "B", "options": {"A": "cat", "B": "dog"}}, "answer", "B. dog"),
        ({"answer": "B", "options": ["cat", "dog"]}, "answer", "B. dog"),
        ({"answer": 1, "choices": ["cat", "dog"]}, "answer", "B. dog"),
        ({"answers": ["a", "b", "a"]}, "answers", "a (2 times)\nb"),
        ({"answers": ["A"], "options": {"A": "cat"}}, "answers", "A. cat"),
        ({"answer": "yes"}, "answer", "yes"),
        ({"box": (0.5, 0.25, 1.0, 0.75)}, "box", "0.5, 0.25, 1, 0.75"),
        ({}, "answer", ""),
    ],
)
def test_right_answer_is_readable(fields, key, text):
    assert right_answer(asked("1", "?", **fields), key) == text


def test_image_is_embedded_once_however_often_it_is_shown(tmp_path):
    image, same, other = drawn(), drawn(), drawn("blue")
    results = [custom_result(3, 1, images=(image, other)), custom_result(2, 0, images=(same,))]
    page = page_of(tmp_path, results)
    assert len(page.find("image")) == 2 and len(page.find("use")) == 8
    assert len(page.find("svg", role="img")) == 8


def test_file_that_several_items_name_is_embedded_once(tmp_path):
    (tmp_path / "image.png").write_bytes(drawn().content)
    questions = [asked(name, "?", ImageFile(tmp_path / "image.png"), answers=["a"]) for name in "xyz"]
    page = page_of(tmp_path, [result_of("custom", questions, ["a"] * 3)])
    assert len(page.find("image")) == 1 and len(page.find("use")) == 3


def test_thumbnail_is_a_jpeg_of_limited_size_with_the_right_shape(tmp_path):
    page = page_of(tmp_path, [custom_result(1, 0, images=(drawn("blue", (1000, 500)),))])
    (image,) = page.find("image")
    content = base64.b64decode(image.attributes["href"].removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(content)) as shown:
        assert shown.format == "JPEG" and shown.size == (MAX_SIDE, MAX_SIDE // 2)
    assert page.find("svg", role="img")[0].attributes["viewbox"] == f"0 0 {MAX_SIDE} {MAX_SIDE // 2}"


def test_image_that_cannot_be_read_is_a_text_and_the_item_stays(tmp_path):
    question = asked("1", "?", ImageFile(tmp_path / "missing<b>.png"), answers=["a"])
    page = page_of(tmp_path, [result_of("custom", [question], ["a"])])
    (missing,) = page.find("p", class_="missing")
    assert missing.text.startswith("The image cannot be shown: ") and "missing<b>.png" in missing.text
    assert rows_of(page.find("article")[0])["answer"] == "a"


def test_boxes_are_drawn_in_the_image_and_in_the_padded_square():
    rectangle = Boxes((0.25, 0.5, 0.75, 1.0)).drawn(200, 100)
    assert 'class="right" x="50.0" y="50.0" width="100.0" height="50.0"' in rectangle
    padded = Boxes(None, (0.25, 0.25, 0.75, 0.75), is_padded=True).drawn(200, 100)
    assert 'class="read" x="50.0" y="0.0" width="100.0" height="100.0"' in padded and "right" not in padded
    tall = Boxes(None, (0.25, 0.25, 0.75, 0.75), is_padded=True).drawn(100, 200)
    assert 'x="0.0" y="50.0" width="100.0" height="100.0"' in tall


def test_boxes_of_an_answer_are_drawn_on_its_item(tmp_path):
    box = (0.0, 0.0, 0.5, 0.5)
    question = asked("1", "the man", drawn(), box=box, padded_box=(0.0, 0.2, 0.5, 0.5))
    page = page_of(tmp_path, [result_of("refcoco_val", [question], ["[0.0, 0.0, 0.5, 0.4]"])])
    assert [one.attributes["class"] for one in page.find("rect")] == ["right", "read"]
    rows = rows_of(page.find("article")[0])
    assert rows["read in it (red)"] == "0, 0, 0.5, 0.4" and rows["right answer (green)"] == "0, 0, 0.5, 0.5"


def test_long_text_is_cut_with_the_number_of_characters_left_out(tmp_path):
    page = page_of(tmp_path, [result_of("custom", [asked("1", "?", answers=["a"])], ["x" * (MAX_TEXT + 1234)])])
    assert rows_of(page.find("article")[0])["answer"] == "x" * MAX_TEXT + " … 1,234 more characters"


def test_limit_of_items_is_said_and_holds(tmp_path):
    page = page_of(tmp_path, [custom_result(50, 45)], max_items=20)
    assert len(page.find("article")) == 20
    assert page.find("h3")[0].text == "custom 20 of 50 shown: 5 wrong, 15 of 45 right"
    assert page_of(tmp_path, [custom_result(3, 1)]).find("h3")[0].text == "custom 3 items: 2 wrong, 1 right"
    assert page_of(tmp_path, [custom_result(3, 1)], max_items=0).find("article") == []


def test_wrong_items_come_first_and_leave_a_fifth_to_right_ones():
    result = custom_result(1000, 500)
    states = [state_of(one) for one in chosen(result.answered, 100)]
    assert states == ["wrong"] * 80 + ["right"] * 20
    assert len(chosen(result.answered, 5000)) == 1000
    few = [state_of(one) for one in chosen(custom_result(1000, 997).answered, 100)]
    assert few == ["wrong"] * 3 + ["right"] * 97


def test_items_are_spread_over_categories_and_the_file():
    sizes = {"small": 3, "middle": 40, "large": 400}
    questions = [
        asked(f"{kind}{n}", "?", answers=["a"], category=kind) for kind, size in sizes.items() for n in range(size)
    ]
    result = result_of("custom", questions, ["b"] * len(questions))
    shown = chosen(result.answered, 53)
    assert Counter(categories_of(one.question)[0] for one in shown) == {"small": 3, "middle": 25, "large": 25}
    places = [int(one.question.id.removeprefix("large")) for one in shown if one.question.id.startswith("large")]
    assert places == sorted(places) and places[-1] >= 380


def test_page_of_many_tasks_stays_small_and_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MAX_BYTES", 60_000)
    rng = random.Random(0)
    sources = [bitmap(Image.frombytes("L", (300, 300), rng.randbytes(300 * 300))) for _ in range(12)]
    questions = [asked(f"q{n}", "?", source, answers=["a"]) for n, source in enumerate(sources)]
    result = result_of("custom", questions, ["b"] * 12)
    page = page_of(tmp_path, [result, custom_result(3, 3)])
    num_shown = len([one for one in page.find("article") if one.find("use")])
    assert 1 <= num_shown < 12 and f"{num_shown} of 12 shown" in page.text
    assert len(page.find("article")) == num_shown + 3
    assert (tmp_path / "report.html").stat().st_size < 60_000 + 40_000  # style, script and an item beyond the limit


def test_thumbnails_shrink_with_their_number():
    assert side_for(10, 10_000_000) == MAX_SIDE and side_for(10**6, 10_000_000) == MIN_SIDE
    assert MIN_SIDE < side_for(2000, 9_000_000) < MAX_SIDE
    assert side_for(0, -1) == MIN_SIDE


def test_images_are_read_only_for_items_that_are_shown(tmp_path):
    images = [drawn() for _ in range(30)]
    questions = [asked(f"q{n}", "?", image, answers=["a"]) for n, image in enumerate(images)]
    page_of(tmp_path, [result_of("custom", questions, ["b"] * 30)], max_items=4)
    assert sum(len(image.reads) for image in images) == 4

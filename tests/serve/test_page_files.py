"""The files of the web page, without a browser: nothing from elsewhere, no markup from text, two languages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import paddlemix

PAGE = Path(paddlemix.__file__).parent / "serve" / "page"
SCRIPTS = sorted(PAGE.glob("*.js"))
TEXTS = sorted(path for path in PAGE.iterdir() if path.suffix in (".js", ".css", ".html", ".svg"))
SVG_NAME = "http://www.w3.org/2000/svg"  # the name of a vocabulary, which nothing loads
LINKS = re.compile(r"""https?://[^\s"'`]+""")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def read_words(language: str) -> dict[str, str]:
    rows = re.findall(
        r"^  (\w+):(.+?),\n(?=  \w+:|\n|  //|\};)", read(PAGE / f"words_{language}.js"), re.MULTILINE | re.DOTALL
    )
    return dict(rows)


class Attributes(HTMLParser):
    """The attributes of index.html, each with its tag."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, name, value or "") for name, value in attrs]


@pytest.fixture(scope="module")
def attributes():
    parser = Attributes()
    parser.feed(read(PAGE / "index.html"))
    return parser.found


def test_page_is_a_flat_folder_of_short_files():
    assert all(path.is_file() for path in PAGE.iterdir()), "package data has one level"
    assert {path.name: len(read(path).splitlines()) for path in TEXTS if len(read(path).splitlines()) > 300} == {}
    assert sum(path.stat().st_size for path in PAGE.iterdir()) < 200_000


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_page_names_no_other_host(path):
    links = [link for link in LINKS.findall(read(path)) if link != SVG_NAME and "?:" not in link and "[^" not in link]
    assert links == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_never_make_markup_or_code_from_text(path):
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc|\.cssText"
    assert re.findall(unsafe, read(path)) == []


def test_index_has_no_inline_scripts_or_styles(attributes):
    assert [row for row in attributes if row[1] == "style" or row[1].startswith("on")] == []
    text = read(PAGE / "index.html")
    assert "<style" not in text and re.findall(r"<script[^>]*>[^<]+", text) == []


def test_files_that_the_page_names_exist(attributes):
    places = {("link", "href"), ("script", "src"), ("img", "src")}
    named = {value for tag, name, value in attributes if (tag, name) in places}
    for path in SCRIPTS:
        named |= set(re.findall(r'from "\./([\w.]+)"', read(path)))
    assert len(named) > 30 and {name for name in named if not (PAGE / name).is_file()} == set()
    unused = {path.name for path in PAGE.iterdir()} - named - {"index.html", "example.png"}
    assert unused == set()


def test_icons_that_the_page_names_exist():
    icons = set(re.findall(r'<symbol id="icon-(\w+)"', read(PAGE / "index.html")))
    named = set()
    for path in SCRIPTS:
        named |= set(re.findall(r'(?:icon|iconButton|card)\("(\w+)"|iconName: "(\w+)"', read(path)))
    assert {name for pair in named for name in pair if name} <= icons


def test_both_languages_have_the_same_words():
    english, chinese = read_words("en"), read_words("zh")
    assert list(english) == list(chinese) and len(english) > 120
    values = {key: set(re.findall(r"\$\{(?:s\()?(\w+)", text)) - {"s"} for key, text in english.items()}
    for key, text in chinese.items():
        assert set(re.findall(r"\$\{(\w+)", text)) <= values[key] | {"waiting", "running"}, key
        assert ("=>" in text) == ("=>" in english[key]), key


def test_words_that_the_page_uses_exist(attributes):
    words = read_words("en")
    used = {value for _, name, value in attributes if name in ("data-text", "data-label", "data-hint")}
    for path in SCRIPTS:
        used |= set(re.findall(r'\bsay\("(\w+)"', read(path)))
    assert len(used) > 80 and used - set(words) == set()


def test_chinese_words_are_chinese():
    latin = {key for key, text in read_words("zh").items() if not re.search(r"[一-鿿]", text)}
    assert latin == {"top_p", "top_k", "switchLanguage"}


def luminance(color: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_have_enough_contrast(theme):
    blocks = re.findall(r":root(?:\[[^]]+\])? \{(.*?)\n\}", read(PAGE / "base.css"), re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[("light", "dark").index(theme)]))
    backs = ("back", "panel", "card", "code-back")
    pairs = [(text, back) for text in ("text", "quiet", "faint", "accent") for back in backs]
    pairs += [("text", "tint"), ("accent-strong", "tint"), ("on-accent", "accent"), ("amber", "amber-back")]
    pairs += [(text, "rose-back") for text in ("text", "quiet", "rose")] + [("quiet", "amber-back"), ("rose", "card")]
    poor = {}
    for text, back in pairs:
        high, low = sorted((luminance(colors[text]), luminance(colors[back])), reverse=True)
        if (high + 0.05) / (low + 0.05) < 4.5:
            poor[text, back] = round((high + 0.05) / (low + 0.05), 2)
    assert poor == {}

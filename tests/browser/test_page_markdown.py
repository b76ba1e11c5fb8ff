"""Answers as Markdown: blocks, emphasis, code, tables and links; nothing of an answer becomes markup or a script."""

from __future__ import annotations

from fake_api import SCRIPTS
from reading import ask

ALLOWED = set("p h3 h4 h5 h6 ul ol li blockquote hr table thead tbody tr th td pre code strong em del a br".split())
ALLOWED |= {"div", "span", "button", "svg", "use"}  # of the frames and the copy button
LINK = 'target="_blank" rel="noopener noreferrer nofollow"'
SHOWN = [
    ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
    ("# A\n## B ##\n####### C", '<h3 class="level-1">A</h3><h4 class="level-2">B</h4><p>####### C</p>'),
    ("**b** __b__ *i* _i_ ~~s~~", "<p><strong>b</strong> <strong>b</strong> <em>i</em> <em>i</em> <del>s</del></p>"),
    ("*a **b** c*", "<p><em>a <strong>b</strong> c</em></p>"),
    ("2 * 3 * 4, snake_case_name, a*", "<p>2 * 3 * 4, snake_case_name, a*</p>"),
    (r"\*no\* 5\% ", r"<p>*no* 5%</p>"),
    ("`a*b*` ``x`y``", "<p><code>a*b*</code> <code>x`y</code></p>"),
    ("`open", "<p>`open</p>"),
    ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("1. a\n\n2. b", "<ol><li><p>a</p></li><li><p>b</p></li></ol>"),
    ("1. a\n   more\n\n   ```\n   x\n     y\n   ```\n2. b", None),
    ("text\n- item", "<p>text</p><ul><li>item</li></ul>"),
    ("* * *\n---", "<hr><hr>"),
    ("> a\n> > b\n\nc", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>"),
    ("[t](https://a.b/c_d \"x\")", f'<p><a href="https://a.b/c_d" {LINK}>t</a></p>'),
    ("See https://a.b/c_(d).", f'<p>See <a href="https://a.b/c_(d)" {LINK}>https://a.b/c_(d)</a>.</p>'),
    ("图见https://a.b/c。好", "<p>图见https://a.b/c。好</p>"),
    ("图见 https://a.b/c。好", f'<p>图见 <a href="https://a.b/c" {LINK}>https://a.b/c</a>。好</p>'),
    ("![alt](https://a.b/i.png)", f'<p><a href="https://a.b/i.png" {LINK}>alt</a></p>'),
    ("[t](javascript:alert(1))", "<p>[t](javascript:alert(1))</p>"),
    ("<b>no</b> &amp; <!-- x -->", "<p>&lt;b&gt;no&lt;/b&gt; &amp;amp; &lt;!-- x --&gt;</p>"),
]  # fmt: skip
ENDLESS = ["[" * 20_000, "*a " * 20_000, "> " * 3_000, "- " * 3_000, "`" * 9_999 + "a", "|" * 20_000, "_*~" * 9_000,
           "[a](" * 9_000, "x\n" * 20_000, "1. a\n" * 9_000, "https://" * 5_000]  # fmt: skip


def show(page, text: str) -> str:
    """Return the markup of a text, without the buttons."""
    return page.evaluate(
        """async (text) => {
          const { MarkdownView } = await import("./markdown_view.js");
          const view = new MarkdownView();
          view.show(text);
          for (const button of view.element.querySelectorAll("button")) button.remove();
          return view.element.innerHTML;
        }""",
        text,
    )


def test_markdown_becomes_elements(page):
    found = [(text, show(page, text)) for text, _ in SHOWN]
    assert [row for row, (_, wanted) in zip(found, SHOWN, strict=True) if wanted not in (None, row[1])] == []


def test_code_in_a_list_keeps_its_indentation(page):
    html = show(page, next(text for text, wanted in SHOWN if wanted is None))
    assert "<code>x\n  y</code>" in html and html.startswith("<ol>") and html.count("<li>") == 2


def test_code_that_is_still_being_written_is_code(page):
    assert "<code>if a &lt; b:</code>" in show(page, "```python\nif a < b:")
    assert "<span>python</span>" in show(page, "```python\nif a < b:")


def test_table_has_its_alignments_and_no_cells_too_many(page):
    html = show(page, "| a | b |\n|:-:|--:|\n| `x|y` | 1 \\| 2 | more |\n| only |")
    assert html.count('class="align-center short"') == 3 and html.count('class="align-right short"') == 3
    assert "<code>x|y</code>" in html and "1 | 2" in html and "more" not in html


def test_text_that_grows_letter_by_letter_ends_as_the_whole(page):
    steps = page.evaluate(
        """async (text) => {
          const { MarkdownView } = await import("./markdown_view.js");
          const [growing, whole] = [new MarkdownView(), new MarkdownView()];
          for (let end = 1; end <= text.length; end += 1) growing.show(text.slice(0, end));
          whole.show(text);
          return [growing.element.innerHTML, whole.element.innerHTML];
        }""",
        SCRIPTS["long"],
    )
    assert steps[0] == steps[1] and "<table>" in steps[0]


def test_hostile_text_is_shown_and_the_page_goes_on(page):
    assert [text[:9] for text in ENDLESS if not show(page, text)] == []


def test_nothing_in_an_answer_becomes_a_script_or_loads_anything(page, api):
    ask(page, "hostile")
    page.wait_for_timeout(200)
    tags, links, is_hacked = page.evaluate(
        """() => {
          const found = [...document.querySelectorAll(".markdown *")];
          return [found.map((one) => one.tagName.toLowerCase()), found.map((one) => one.href).filter((href) =>
            typeof href === "string"), window.hacked ?? null];
        }"""
    )
    assert is_hacked is None and set(tags) <= ALLOWED
    assert links and all(link.startswith("https://example.com/") for link in links)
    assert "<script>window.hacked=1</script>" in page.inner_text(".markdown pre")


def test_question_is_shown_letter_by_letter(page, api):
    ask(page, "<img src=x onerror=alert(1)> **not bold**")
    assert page.inner_text(".bubble") == "<img src=x onerror=alert(1)> **not bold**"


def test_code_is_copied(open_page, api):
    page = open_page(api.url, permissions=["clipboard-read", "clipboard-write"])
    ask(page, "long")
    page.click("[aria-label='Copy the code']")
    page.wait_for_selector(".code-bar [aria-label=Copied]")
    assert page.evaluate("() => navigator.clipboard.readText()").startswith("def select_grid(size, grids):\n    # Most")

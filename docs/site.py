"""Hooks of the site: what its pages link to outside of their folder.

In the repository, links lead to files beside the pages. In the site, a file of the repository is copied to files/, and
a link to a page of the other language leads to the other part of the site. mkdocs checks all other links.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
CHINESE = "\u3000-\u303f\u4e00-\u9fff\uff00-\uffef“”‘’"
BROKEN = re.compile(rf"(?<=[{CHINESE}])\n *(?=[{CHINESE}])")  # a browser would show a space there
IN_SITE = "files"
SHOWN = (".png", ".jpg", ".json", ".yaml")  # what browsers show; others become .txt


def name_in_site(target: Path) -> str:
    """Return where a file of the repository is in the site."""
    name = target.relative_to(ROOT).as_posix()
    return f"{IN_SITE}/{name}" if target.suffix in SHOWN else f"{IN_SITE}/{name}.txt"


def target_of(path: str, folder: Path) -> Path:
    """Return the file that a link in a page of a folder leads to. ValueError if there is none."""
    target = (folder / path).resolve()
    if not target.is_file() or not target.is_relative_to(ROOT):
        raise ValueError(f"{folder} links to {path}, which is no file of the repository")
    return target


def is_page(target: Path) -> bool:
    return target.suffix == ".md" and target.is_relative_to(ROOT / "docs")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that pages link to, and the style sheet."""
    folder = Path(config.docs_dir)
    targets = {
        target_of(path, folder) for page in folder.glob("*.md") for path, _ in LINK.findall(page.read_text("utf-8"))
    }
    for target in sorted(targets):
        if not is_page(target):
            files.append(File.generated(config, name_in_site(target), abs_src_path=str(target)))
    files.append(File.generated(config, "site.css", abs_src_path=str(ROOT / "docs/site.css")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Rewrite the links that leave the folder of a page, and join lines of Chinese text, which has no spaces."""
    folder = Path(config.docs_dir)

    def rewritten(found: re.Match[str]) -> str:
        target = target_of(found[1], folder)
        if not is_page(target):
            return f"]({name_in_site(target)})"
        return f'](#){{ data-twin="{twin_of(target, folder)}{found[2] or ""}" }}'

    parts = FENCE.split(LINK.sub(rewritten, markdown))
    return "".join(part if place % 2 else BROKEN.sub("", part) for place, part in enumerate(parts))


def twin_of(target: Path, folder: Path) -> str:
    """Return the address of a page of the other language, seen from a page of a folder."""
    return ("zh/" if folder.name == "en" else "../") + target.with_suffix(".html").name


def on_page_content(html: str, **_: Any) -> str:
    """Put the addresses of pages of the other language in place, after mkdocs has checked the links."""
    return re.sub(r'data-twin="([^"]*)" href="#"|href="#" data-twin="([^"]*)"', r'href="\1\2"', html)


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, **_: Any) -> dict[str, Any]:
    """Let the choice of a language lead to the same page."""
    name = os.path.basename(page.url)
    to_english, to_chinese = ("", "zh/") if Path(config.docs_dir).name == "en" else ("../", "")
    config.extra["alternate"] = [
        {"name": "English", "link": to_english + name, "lang": "en"},
        {"name": "中文", "link": to_chinese + name, "lang": "zh"},
    ]
    return context

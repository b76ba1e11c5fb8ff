"""The pages of the documentation as tests read them: their commands, sections, tables and words in code style."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "paddlemix" / "examples" / "llava"
ENGLISH, CHINESE = ROOT / "docs" / "en", ROOT / "docs" / "zh"


def page(name: str) -> tuple[Path, Path]:
    """Return a page and its Chinese twin."""
    return ENGLISH / f"{name}.md", CHINESE / f"{name}.md"


READMES = (ROOT / "README.md", ROOT / "README_zh.md")
ASCEND, EVALUATION, PREPARE = page("ascend"), page("evaluation"), page("prepare")
SERVING, SEEDS = page("serving"), page("seeds")
CHAT, SETTINGS, WEIGHTS = page("chat"), page("settings"), page("weights")
MODELS, TROUBLESHOOTING = page("models"), page("troubleshooting")
TWINS = (READMES, *(page(path.stem) for path in sorted(ENGLISH.glob("*.md"))))

FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A heading and what follows it up to the next one, without blocks of code. code: the words in code style."""

    heading: str
    level: int
    text: str
    code: frozenset[str]


def blocks(path: Path, language: str) -> list[str]:
    """Return the blocks of code of a language in a page; "" is the language of blocks that name none."""
    return [code for name, code in FENCED.findall(path.read_text(encoding="utf-8")) if name == language]


def block_with(words: str, path: Path) -> str:
    """Return the only block of commands with these words."""
    (found,) = (block for block in blocks(path, "bash") if words in block)
    return found


def sections(path: Path) -> list[Section]:
    """Return the sections of a page, in order."""
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    found = []
    for part in re.split(r"^(?=#+ )", text, flags=re.MULTILINE)[1:]:
        marks, heading = re.match(r"(#+) (.*)", part).groups()
        code = frozenset(" ".join(words.split()) for words in re.findall(r"`([^`]+)`", part))
        found.append(Section(heading, len(marks), part, code))
    return found


def table_shapes(text: str) -> list[list[int]]:
    """Return the number of cell borders of every row of every table in a text."""
    tables = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    return [[row.count("|") for row in table.splitlines()] for table in tables]


def linked_folder(folder: Path) -> Path:
    """Link the package in a folder, so that commands run there as written and write outside the repository."""
    (folder / "paddlemix").symlink_to(ROOT / "paddlemix")
    return folder


def run(command: str, folder: Path, *, timeout: float = 600, variables: dict[str, str] | None = None, **options) -> str:
    """Run lines of a shell in a folder; return standard output. timeout: in seconds. variables: of the environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **(variables or {})}
    result = subprocess.run(
        ["bash", "-euc", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout

"""Take the README's screenshot of the chat: what a terminal shows of a real one, drawn by Chromium.

python tests/browser/chat_screenshot.py paddlemix/examples/llava/assets/chat.png
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conftest import executable
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[2]
COMMAND = "paddlemix chat --image-file paddlemix/examples/llava/tiny/shapes.png --temperature 0"
LINES = ("Describe the picture.", "How many shapes are there?", "Which shape is green?", "/images", "quit")
COLUMNS = 110
PAGE = """<html><body style="margin: 0; background: {background}">
<pre style="margin: 0; padding: 14px; display: inline-block; color: {foreground}; font: 15px/1.35 'DejaVu Sans Mono'">
{code}</pre></body></html>"""


def transcript() -> str:
    """Return what a chat sends to a terminal, with a line typed at each prompt."""
    here, there = pty.openpty()
    with tempfile.TemporaryDirectory() as cache:
        variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "PADDLEMIX_CACHE": cache}
        command = [sys.executable, "-m", *COMMAND.split()]
        chat = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=variables, cwd=ROOT)
        os.close(there)
        text = ""
        for number, line in enumerate(LINES, start=1):
            text = read_until(here, text, "USER: ", number)
            os.write(here, f"{line}\n".encode())
        text = read_until(here, text, "exit...", 1)
        chat.wait(timeout=60)
        os.close(here)
    return text


def read_until(descriptor: int, text: str, words: str, count: int, seconds: float = 120) -> str:
    """Add to a text what a terminal sends, until it has these words so often."""
    end = time.monotonic() + seconds
    while text.count(words) < count:
        assert time.monotonic() < end, text
        if select.select([descriptor], [], [], 0.2)[0]:
            text += os.read(descriptor, 65536).decode(errors="replace")
    return text


def screen(text: str) -> Text:
    """Return what stands on the screen at the end: erased text is gone."""
    text = re.sub(r"\x1b\[\?\d+[hl]", "", text.replace("\r\n", "\n"))
    lines = [line.rpartition("\x1b[K")[2].strip("\r") for line in text.split("\n")]
    return Text.from_ansi("\n".join([f"\x1b[2m$\x1b[0m {COMMAND}", *lines]))


def draw(text: Text, path: str) -> None:
    """Write the screen as an image."""
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(text)
    page = console.export_html(theme=MONOKAI, code_format=PAGE, inline_styles=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        opened = browser.new_page(device_scale_factor=1.5)
        opened.set_content(page)
        opened.locator("pre").screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    draw(screen(transcript()), sys.argv[1])

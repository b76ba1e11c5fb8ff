"""Install packages with pip: one line says what it is doing and for how long, and an error says what to do.

`python tools/install.py TITLE ARGUMENT...` is `python -m pip install ARGUMENT...` in the environment of that Python.
`make` calls it. What pip prints goes to `install.log` in the environment. It needs nothing but Python and pip.
"""

from __future__ import annotations

import queue
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

TICK = 0.2  # seconds between two looks at the clock on a terminal
HEARTBEAT = 20  # seconds after which a log without a terminal gets a line
STOP_SECONDS = 10  # for pip to end by itself after Ctrl-C
MEGABYTE = 1e6
ENVIRONMENT = Path(sys.prefix)
LOG, MARK = ENVIRONMENT / "install.log", ENVIRONMENT / ".installing"
PHASES = (  # what a line of pip's says, and what is shown
    (re.compile(r"Collecting ([\w.\[\]-]+)"), "choosing {}"),
    (re.compile(r"Downloading (\S+?)-\d\S*( \([\d.]+ [kMG]?B\))?"), "downloading {}"),
    (re.compile(r"Using cached (\S+?)-\d"), "taking {} from the cache"),
    (re.compile(r"(?:Building wheel for|Preparing metadata|Getting requirements to build)"), "building a package"),
    (re.compile(r"Installing collected packages: (.*)"), "unpacking"),
    (re.compile(r"WARNING: Retrying"), "the package index does not answer; trying again"),
)
PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
REMEDIES = (  # what pip prints on failure, and what to tell
    (r"CERTIFICATE_VERIFY_FAILED", "the package index has a certificate that is not trusted here: see `pip config`"),
    (r"No space left on device", "the disk is full"),
    (r"DO NOT MATCH THE HASHES", "a package was damaged on its way: run the same command again"),
    (r"Permission denied", "a file of the environment may not be written"),
    (
        r"Retrying \(|Max retries exceeded|NewConnectionError|name resolution|timed out|Connection (reset|aborted)",
        "the package index cannot be reached. Check the network and HTTPS_PROXY; a mirror is set by `pip config set "
        "global.index-url URL`",
    ),
)


class Screen:
    """One line on standard error that is drawn again and again; without a terminal, a line now and then."""

    def __init__(self, title: str):
        self.title, self.start = title, time.monotonic()
        self.is_terminal = sys.stderr.isatty()
        self.kinds, self.last_time = {"starting"}, self.start

    def show(self, phase: str) -> None:
        """Show what is done now."""
        now = time.monotonic()
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            line = f"{self.title}  {clock(now - self.start)}  {phase}"
            print(f"\r\x1b[K{line[:width]}", end="", file=sys.stderr, flush=True)
            return
        kind = phase.split()[0]
        if kind not in self.kinds or now - self.last_time >= HEARTBEAT:
            print(f"{self.title}  {clock(now - self.start)}  {phase}", file=sys.stderr, flush=True)
            self.kinds.add(kind)
            self.last_time = now

    def end(self, text: str) -> None:
        """Put the last line in the place of the others."""
        erased = "\r\x1b[K" if self.is_terminal else ""
        print(f"{erased}{self.title}  {clock(time.monotonic() - self.start)}  {text}", file=sys.stderr)


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Phases:
    """What pip is doing, by its lines and by what appears among the installed packages."""

    def __init__(self, packages: Path):
        self._packages, self._phase = packages, "starting"
        self._num_before = self._num_new = 0
        self._part = ""

    def read(self, line: str) -> None:
        """Take a line of pip's output."""
        progress = PROGRESS.match(line)
        if progress:
            done, all_bytes = map(int, progress.groups())
            self._part = f", {done / MEGABYTE:.0f} of {all_bytes / MEGABYTE:.0f} MB"
            return
        for pattern, text in PHASES:
            found = pattern.search(line)
            if found:
                self._phase, self._part = text.format("".join(part or "" for part in found.groups())), ""
                if text == "unpacking":
                    self._num_new, self._num_before = found[1].count(",") + 1, self._num_installed()

    def text(self) -> str:
        """Return the phase; while packages are unpacked, with their number."""
        if self._phase != "unpacking":
            return self._phase + self._part
        num_done = min(max(self._num_installed() - self._num_before, 0), self._num_new)
        return f"unpacking package {min(num_done + 1, self._num_new)} of {self._num_new}"

    def _num_installed(self) -> int:
        return sum(1 for _ in self._packages.glob("*.dist-info"))


def main(arguments: Sequence[str]) -> int:
    """Install; return pip's exit code, or 130 after Ctrl-C."""
    title, *words = arguments
    packages = Path(sysconfig.get_path("purelib"))
    mend(packages)
    MARK.touch()
    screen = Screen(title)
    try:
        code, output = run_pip(words, screen, Phases(packages))
    except KeyboardInterrupt:
        screen.end("stopped; the same command goes on from here")
        return 130
    if code:
        screen.end("failed")
        print(f"error: {reason(output)}\nThe output of pip is in {shown(LOG)}. What is already there is kept: the same "
              "command goes on from here.", file=sys.stderr)  # fmt: skip
        return code
    MARK.unlink()
    screen.end("done")
    return 0


def mend(packages: Path) -> None:
    """Repair what an installation that was stopped has left: an environment without pip, and packages in parts."""
    is_own = sys.prefix != sys.base_prefix
    is_whole = any(packages.glob("pip-*.dist-info/RECORD")) and (ENVIRONMENT / "bin" / "activate").exists()
    if MARK.exists() or (is_own and not is_whole):
        for notes in packages.glob("*.dist-info"):
            if not (notes / "RECORD").exists():  # which pip writes last; without notes it installs the package again
                shutil.rmtree(notes)
    if is_own and not is_whole:
        print(f"completing the environment {shown(ENVIRONMENT)}", file=sys.stderr)
        subprocess.run([sys._base_executable, "-m", "venv", sys.prefix], check=True)


def run_pip(words: Sequence[str], screen: Screen, phases: Phases) -> tuple[int, str]:
    """Run pip and show its phases; return its exit code and what it has printed."""
    # Compiling 12,000 files would take half of the time; most of them are never imported.
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-input", "--no-compile"]
    command += ["--progress-bar", "raw" if knows_raw_progress() else "off", *words]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    kept = []
    try:
        with LOG.open("a", encoding="utf-8") as log:
            print(f"\n$ {' '.join(command)}", file=log)
            for line in lines_or_ticks(process):
                if line and not PROGRESS.match(line):
                    kept.append(line)
                    log.write(line)
                phases.read(line)
                screen.show(phases.text())
    except KeyboardInterrupt:
        stop(process)
        raise
    return process.wait(), "".join(kept)


def lines_or_ticks(process: subprocess.Popen) -> Iterator[str]:
    """Yield the lines of a process, and "" whenever there has been none for a while."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=TICK)
        except queue.Empty:
            line = ""
        if line is None:
            return
        yield line


def stop(process: subprocess.Popen) -> None:
    """Wait for pip, which has got Ctrl-C as well, and removes what it was about to install; then end it."""
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def knows_raw_progress() -> bool:
    """Return whether this pip prints its progress in lines for programs (since 24.1)."""
    major, minor = (int(part) for part in metadata.version("pip").split(".")[:2])
    return (major, minor) >= (24, 1)


def reason(output: str) -> str:
    """Return why pip failed: in words for common causes, otherwise its own errors."""
    for pattern, text in REMEDIES:
        if re.search(pattern, output):
            return text
    errors = [line.strip() for line in output.splitlines() if line.lstrip().lower().startswith("error:")]
    return "\n".join(errors[-3:]) or "pip failed"


def shown(path: Path) -> str:
    """Return a path as short as it can be written from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

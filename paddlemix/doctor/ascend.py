"""Checks of an Ascend machine: driver and cards as `npu-smi` shows them, device files, CANN. Needs no paddle."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..terminal.sizes import plural
from .check import Check

SMI_SECONDS = 30
SMI_VERSION = re.compile(r"npu-smi\s+([\w.]+)")
SMI_CARD = re.compile(r"^\|\s*(\d+)\s+([A-Za-z0-9]*\d{3}\w*)\s*\|\s*([A-Za-z]+)\s*\|", re.MULTILINE)
SMI_MEMORY = re.compile(r"(\d+)\s*/\s*(\d+)\s*\|\s*$")
MODEL = "910B"
DRIVER, CANN = (23, 0, 3), (8, 0)  # the versions in paddle's documents for this model
FOLDER_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
USUAL_FOLDERS = ("usr/local/Ascend/ascend-toolkit/latest", "usr/local/Ascend/cann")
FILES = ("davinci_manager", "devmm_svm", "hisi_hdc")  # in /dev, in addition to davinci0 ...


@dataclass(frozen=True)
class Card:
    """A card: number, model, health in the tool's words, used and total memory in MB (0, 0 if not known)."""

    number: int
    model: str
    health: str
    used: int
    total: int


def read_cards(output: str) -> list[Card]:
    """Return the cards in the table that `npu-smi info` prints: two lines a card, the second with the memory."""
    lines, cards = output.splitlines(), []
    for number, line in enumerate(lines[:-1]):
        found = SMI_CARD.match(line)
        if found is None:
            continue
        memory = SMI_MEMORY.search(lines[number + 1])
        used, total = (int(value) for value in memory.groups()) if memory else (0, 0)
        cards.append(Card(int(found.group(1)), found.group(2), found.group(3), used, total))
    return cards


def check_driver(check: Check, root: Path = Path("/")) -> None:
    """Ask npu-smi for driver and cards, and check the device files. root: of the file system."""
    tool = shutil.which("npu-smi")
    if tool is None:
        check.warn(
            "npu-smi is missing: driver and cards are not known",
            "install the driver; in a container mount /usr/local/bin/npu-smi, /usr/local/dcmi and "
            "/usr/local/Ascend/driver",
        )
    else:
        _ask(check, tool)
    hidden = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if hidden is not None:
        check.say(f"ASCEND_RT_VISIBLE_DEVICES is {hidden!r}: card 0 of this program is the first of these")
    _check_files(check, root / "dev")


def _ask(check: Check, tool: str) -> None:
    try:
        done = subprocess.run([tool, "info"], capture_output=True, text=True, timeout=SMI_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        check.fail(f"npu-smi does not answer: {error}", "the driver hangs: restart it or the machine")
        return
    output = done.stdout + done.stderr
    found, cards = SMI_VERSION.search(output), read_cards(output)
    if done.returncode or not cards:
        last = ([line for line in output.splitlines() if line.strip()] or [""])[-1].strip()
        check.fail(
            f"npu-smi finds no card: it prints {last!r}",
            "look at `npu-smi info`; in a container start it with --privileged, or with --device /dev/davinci0, "
            "/dev/davinci_manager, /dev/devmm_svm and /dev/hisi_hdc",
        )
        return
    version = found.group(1) if found else None
    check.values |= {"driver": version, "cards": [vars(card) for card in cards]}
    check.say(f"driver {version or 'of unknown version'}, {plural(len(cards), 'card')}")
    if version and numbers(version) < DRIVER:
        check.warn(f"driver {version} is older than {'.'.join(map(str, DRIVER))}", "update driver and firmware")
    for card in cards:
        _judge(check, card)


def _judge(check: Check, card: Card) -> None:
    text = f"card {card.number}: {card.model}, {card.health}, {card.total - card.used} of {card.total} MB free"
    if card.health != "OK":
        check.fail(text, f"`npu-smi info -t health -i {card.number}` shows more; use another card, or reset this one")
    elif not card.model.startswith(MODEL):
        check.warn(text, f"paddle's plugin is made for {MODEL}; other models are untested")
    elif card.used > card.total // 2:
        check.warn(text, "others use more than half of the memory: `npu-smi info` lists the processes")
    else:
        check.say(text)


def _check_files(check: Check, folder: Path) -> None:
    cards = sorted(path for path in folder.glob("davinci*") if path.name[7:].isdigit())
    needed = [*cards, *(folder / name for name in FILES)] if cards else []
    missing = [str(path) for path in needed if not path.exists()]
    closed = [str(path) for path in needed if path.exists() and not os.access(path, os.R_OK | os.W_OK)]
    if missing:
        check.warn(f"missing: {', '.join(missing)}", "pass them to the container (--privileged does)")
    if closed:
        check.fail(f"not readable and writable for you: {', '.join(closed)}", "join the group HwHiAiUser, or be root")


def check_cann(check: Check, root: Path = Path("/")) -> None:
    """Find CANN and its version, and check that its variables are set. root: of the file system."""
    named = next((os.environ[name] for name in FOLDER_VARIABLES if os.environ.get(name)), None)
    folders = [Path(named)] if named else [root / folder for folder in USUAL_FOLDERS]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        problem = f"ASCEND_HOME_PATH is {named!r}, which is not a folder" if named else "CANN is not found"
        check.fail(
            f"{problem} (looked at {', '.join(map(str, folders))})",
            "install CANN 8.0.0 (toolkit and kernels for 910b), then `source "
            "/usr/local/Ascend/ascend-toolkit/set_env.sh`; the container images of paddle-npu have it",
        )
        return
    version = cann_version(folder)
    check.values |= {"home": str(folder), "version": version}
    check.say(f"CANN {version or 'of unknown version'} in {folder}")
    script = next((path for path in (folder / "set_env.sh", folder.parent / "set_env.sh") if path.is_file()), None)
    if named is None:
        check.fail("its variables are not set: ASCEND_HOME_PATH is empty", f"source {script or folder / 'set_env.sh'}")
    if version and numbers(version) < CANN:
        check.warn(f"CANN {version} is older than {'.'.join(map(str, CANN))}", "install CANN 8.0.0")
    kernels = folder / "opp" / "built-in" / "op_impl" / "ai_core" / "tbe" / "kernel"
    if (folder / "opp").is_dir() and not kernels.is_dir():
        check.warn(
            f"CANN's compiled kernels are not in {kernels}: most operations would fail, or compile for minutes",
            f"install the kernels package for your card and {version or 'this version'} (Ascend-cann-kernels-910b)",
        )


def cann_version(folder: Path) -> str | None:
    """Return the version in CANN's files, for example 8.0.RC1, None if there is none."""
    files = {
        folder / f"{platform.machine()}-linux" / "ascend_toolkit_install.info": r"^version=(\S+)",
        folder / "version.cfg": r"running_version=\[[^\]:]*:([^\]]+)\]",
        folder / "compiler" / "version.info": r"^Version=(\S+)",
    }
    for path, pattern in files.items():
        found = re.search(pattern, _text(path), re.MULTILINE)
        if found:
            return found.group(1)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version to compare, (8, 0) for "8.0.RC1"."""
    return tuple(int(digits) for digits in re.findall(r"(?:^|\.)(\d+)(?=\.|$)", version))

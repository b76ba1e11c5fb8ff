"""What libraries print goes to a file, and our own text to the screen; processes of their own are tried."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import logging, os, signal, sys, warnings
from pathlib import Path
from paddlemix.terminal.hidden import hidden_libraries, library_at_work
from paddlemix.terminal.log import notice
"""
HIDING = """
with hidden_libraries({is_first}, "a title") as hidden:
    print("before the import")
    with hidden.importing():
        print("while it is imported")
        own = logging.getLogger("library")
        own.addHandler(logging.StreamHandler())
        own.propagate = False
    own.warning("a warning of its logger")
    own.info("too little for the screen")
    own.setLevel("INFO")
    own.info("information of its logger")
    warnings.warn("a warning of Python")
    os.write(2, b"text of C++ on standard error\\n")
    os.system("echo text of another program")
    with library_at_work():
        print("a print of a library")
    {more}
    hidden.move_to(Path("run.log"))
    notice("our notice")
    os.write(1, b"text of C++ on standard output\\n")
    print("after the move")
print("at the end")
"""
HIDDEN = (
    "==== 20",
    "a title",
    "while it is imported",
    "information of its logger",
    "UserWarning: a warning of Python",
    "text of C++ on standard error",
    "text of another program",
    "a print of a library",
    "text of C++ on standard output",
)


def run(folder: Path, code: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", START + code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


def test_the_file_has_what_libraries_print_and_the_screen_what_we_do(tmp_path):
    done = run(tmp_path, HIDING.format(is_first=True, more=""))
    text = (tmp_path / "run.log").read_text()
    assert done.returncode == 0, done.stderr
    assert [part for part in HIDDEN if part not in text] == []
    assert done.stdout.splitlines() == ["before the import", "after the move", "at the end"]
    assert done.stderr.splitlines() == ["library: a warning of its logger", "paddlemix: our notice"]


def test_the_file_is_appended_to_and_never_a_link(tmp_path):
    (tmp_path / "run.log").write_text("of an earlier run\n")
    assert run(tmp_path, HIDING.format(is_first=True, more="")).returncode == 0
    assert (tmp_path / "run.log").read_text().startswith("of an earlier run\n====")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "run.log").symlink_to(tmp_path / "other")
    assert run(tmp_path / "link", HIDING.format(is_first=True, more="")).returncode != 0
    assert not (tmp_path / "other").exists()


def test_other_processes_show_standard_error_only(tmp_path):
    done = run(tmp_path, HIDING.format(is_first=False, more=""))
    assert done.stdout == "at the end\n" and "paddlemix: our notice" in done.stderr
    assert "after the move" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize(
    ("how", "number"), [("os.abort()", signal.SIGABRT), ("os.kill(os.getpid(), 11)", signal.SIGSEGV)]
)
def test_a_crash_shows_the_python_stack(tmp_path, how, number):
    done = run(tmp_path, HIDING.format(is_first=True, more=how))
    assert done.returncode == -number
    assert "Fatal Python error" in done.stderr and 'File "<string>", line' in done.stderr


def test_nothing_is_hidden_where_a_program_has_replaced_the_streams(tmp_path):
    code = """
import io
sys.stdout = io.StringIO()
with hidden_libraries(True, "a title") as hidden:
    assert hidden is None
    os.write(2, b"shown\\n")
"""
    assert run(tmp_path, code).stderr == "shown\n"


QUIET = """
from paddlemix.terminal.hidden import quiet_libraries
Path("noisy.py").write_text("print('while it is imported')")
sys.path.insert(0, ".")
with quiet_libraries("a title", "noisy"):
    warnings.warn("a warning of Python")
    logging.warning("a warning of a library")
    notice("our notice")
    print("our result")
    {more}
"""


def test_command_without_a_log_shows_its_own_text_and_the_warnings_of_loggers_only(tmp_path):
    done = run(tmp_path, QUIET.format(more=""))
    assert done.returncode == 0 and done.stdout == "our result\n"
    assert "a warning of a library" in done.stderr and "our notice" in done.stderr
    assert "while it is imported" not in done.stderr and "a warning of Python" not in done.stderr


@pytest.mark.parametrize(("error", "is_shown"), [("ValueError", False), ("RuntimeError", True)])
def test_command_without_a_log_shows_what_libraries_said_after_an_unexpected_error(error, is_shown, tmp_path):
    done = run(tmp_path, QUIET.format(more=f"raise {error}('the error')"))
    assert done.returncode == 1 and "the error" in done.stderr
    assert ("while it is imported" in done.stderr) is is_shown

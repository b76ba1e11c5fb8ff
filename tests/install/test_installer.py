"""tools/install.py: what it shows while pip works, what it says when pip fails, and what it repairs."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import archives
import pytest

INSTALLER = archives.ROOT / "tools" / "install.py"
FAKE_PIP = """
import os, sys, time
for line in os.environ["SAID"].splitlines():
    print(line, flush=True)
    if line == "(waits)":
        time.sleep(60)
sys.exit(int(os.environ.get("CODE", "0")))
"""
UNREACHABLE = """WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /simple/x/
ERROR: Could not find a version that satisfies the requirement x (from versions: none)
ERROR: No matching distribution found for x"""


@pytest.fixture
def python(tmp_path):
    """Return the interpreter of an environment whose pip prints the lines of the variable SAID."""
    python = archives.empty_environment(tmp_path / "environment")
    packages = archives.packages_of(python)
    archives.pretend(python, "pip", "23.2.1")
    (packages / "pip").mkdir()
    (packages / "pip" / "__main__.py").write_text(FAKE_PIP, encoding="utf-8")
    return python


def install(python: Path, said: str, code: int = 0) -> str:
    """Install with a pip that prints some lines and ends with a code; return what is printed."""
    command = [python, INSTALLER, "[1/2] packages", "x"]
    return archives.run(command, python.parents[1], code=code, SAID=said, CODE=str(code))


def test_an_installation_says_what_it_does_and_leaves_no_mark(python):
    output = install(python, "Collecting x>=1\n  Downloading x-1.0-py3-none-any.whl (190.2 MB)\nCollecting y\n")
    assert re.sub(r"\d:\d\d", "T", output).splitlines() == [
        "[1/2] packages  T  choosing x",
        "[1/2] packages  T  downloading x (190.2 MB)",
        "[1/2] packages  T  done",
    ]
    environment = python.parents[1]
    assert not (environment / ".installing").exists()
    assert "Downloading x-1.0-py3-none-any.whl" in (environment / "install.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (UNREACHABLE, "the package index cannot be reached. Check the network and HTTPS_PROXY"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...", "a certificate that is not"),
        ("noise\nERROR: Cannot install a and b\nERROR: ResolutionImpossible", "error: ERROR: Cannot install a and b\n"),
    ],
    ids=["network", "disk", "certificate", "other"],
)
def test_a_failure_says_why_and_where_the_output_of_pip_is(python, said, reason):
    output = install(python, said, code=1)
    assert reason in output and "The output of pip is in install.log" in output and "goes on from here" in output
    assert (python.parents[1] / ".installing").exists()


def test_what_a_stopped_installation_left_in_parts_is_installed_again(python):
    packages = archives.packages_of(python)
    for name in ("whole", "part"):
        archives.pretend(python, name, "1.0")
    (packages / "part-1.0.dist-info" / "RECORD").unlink()
    install(python, "Collecting x")
    assert (packages / "part-1.0.dist-info").exists(), "other people's packages are left alone"
    (python.parents[1] / ".installing").touch()
    install(python, "Collecting x")
    assert not (packages / "part-1.0.dist-info").exists() and (packages / "whole-1.0.dist-info").exists()


def test_ctrl_c_is_one_line_and_leaves_a_mark(python):
    process = subprocess.Popen(
        [python, INSTALLER, "packages", "x"],
        env={**os.environ, "SAID": "Collecting x\n(waits)"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # of its own, so that the signal reaches pip too, as from a terminal
    )
    assert "choosing x" in process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and rest.endswith("stopped; the same command goes on from here\n")
    assert "Traceback" not in rest and (python.parents[1] / ".installing").exists()


@pytest.mark.skipif("PADDLEMIX_TEST_INSTALL" not in os.environ, reason="takes 10 seconds: make test-install")
def test_an_environment_without_pip_is_completed(tmp_path):
    python = archives.empty_environment(tmp_path / "environment")
    output = archives.run([python, INSTALLER, "nothing", "--no-index", "pip"], tmp_path)
    assert "completing the environment" in output and output.endswith("done\n")
    assert (python.parents[1] / "bin" / "activate").exists()


def test_a_terminal_has_one_line_of_its_width(python):
    said = "Collecting a-package-with-a-very-long-name-that-does-not-fit-into-a-line-of-80-columns-at-all\n(waits)"
    pid, screen = pty.fork()
    if pid == 0:  # the child, which has a terminal
        os.execve(python, [python, INSTALLER, "[1/2] packages", "x"], {**os.environ, "SAID": said, "COLUMNS": "80"})
    seen, end = b"", time.monotonic() + 60
    while b"that-does-not" not in seen:
        assert time.monotonic() < end, seen
        seen += os.read(screen, 4096)
    os.write(screen, b"\x03")
    while b"stopped" not in seen:
        seen += os.read(screen, 4096)
    os.waitpid(pid, 0)
    os.close(screen)
    lines = [line.removeprefix(b"\x1b[K") for line in re.split(rb"\r\n?", seen)]
    assert all(len(line.rstrip(b"^C")) <= 79 for line in lines) and seen.count(b"\n") <= 1

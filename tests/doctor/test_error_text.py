"""The errors of libraries in one line."""

from __future__ import annotations

import signal

import pytest

from paddlemix.doctor import error_text

PADDLE = """
--------------------------------------
C++ Traceback (most recent call last):
0   paddle::experimental::topk(paddle::Tensor const&)
----------------------
Error Message Summary:
----------------------
NotFoundError: The kernel `topk` for bfloat16 is not registered. (at /paddle/kernel_factory.cc:300)
"""
TLS = "/lib/aarch64-linux-gnu/libgomp.so.1: cannot allocate memory in static TLS block"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (PADDLE, "NotFoundError: The kernel `topk` for bfloat16"),
        ("one\nEE1001: The argument is invalid\nTraceback\n", "EE1001: The argument is invalid"),
        ("first\nlast", "last"),
        ("", "without a message"),
        (TLS, "export LD_PRELOAD=/lib/aarch64-linux-gnu/libgomp.so.1"),
        ("x" * 1000, "xxx..."),
    ],
)
def test_the_most_informative_line_is_chosen(text, part):
    line = error_text.one_line(text)
    assert part in line and "\n" not in line and len(line) <= error_text.MAX_LENGTH


def test_the_end_of_a_process_is_described_by_its_signal():
    assert "SIGILL: the processor lacks instructions" in error_text.of_end(-signal.SIGILL, "")
    assert "SIGABRT: EZ9999: Inner" in error_text.of_end(
        -signal.SIGABRT, "EZ9999: Inner\nError Message Summary:\nFatalError: `Process"
    )
    assert error_text.of_end(1, "RuntimeError: no") == "the process ended with code 1: RuntimeError: no"


def test_only_the_arm_error_names_a_library_to_load_first():
    assert error_text.library_to_preload(TLS) == "/lib/aarch64-linux-gnu/libgomp.so.1"
    assert error_text.library_to_preload(PADDLE) is None

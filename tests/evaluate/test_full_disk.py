"""A file of answers on a full disk: the error names the file, and what was written before stays."""

from __future__ import annotations

import resource
import signal

import pytest

from paddlemix.evaluate.line_file import LineFile


def test_line_that_cannot_be_written_is_an_error_with_the_name_of_the_file(tmp_path):
    path, limits = tmp_path / "journal.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"journal\.jsonl"), LineFile(path, is_synced=False) as file:
            for number in range(100):
                file.add({"number": number, "text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    with LineFile(path) as file:
        file.add({"number": "after"})
    lines = path.read_text().splitlines()
    assert lines[0].startswith('{"number": 0') and lines[-1] == '{"number": "after"}'

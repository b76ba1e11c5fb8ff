"""After a crash, a hang or an early end of a process every part is reported, and the others are still done."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddlemix.doctor.check import FAILED, OK, SKIPPED, WARNING
from paddlemix.doctor.processes import CheckProcesses

PARTS = ["paddle", "device", "dense", "rms norm", "training", "chat"]


@pytest.fixture
def work(monkeypatch):
    """Return a function that runs all parts with stub_worker; the device's name selects what goes wrong."""
    for name in ("LD_PRELOAD", "PADDLEMIX_PLAIN_OPS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def run(device: str, patience: float = 30.0):
        checks = list(CheckProcesses(device, patience=patience, worker="stub_worker").run(PARTS))
        assert [check.name for check in checks] == PARTS
        return {check.name: check for check in checks}

    return run


def statuses(checks) -> list[str]:
    return [check.status for check in checks.values()]


def test_parts_that_work_share_a_process_and_training_and_chat_another(work):
    checks = work("fine")
    assert statuses(checks) == [OK] * 6
    processes = [check.facts[0].split()[-1] for check in checks.values()]
    assert len(set(processes[:4])) == len(set(processes[4:])) == 1 and processes[0] != processes[4]


def test_after_a_crash_a_part_is_repeated_without_kernels_as_are_training_and_chat(work):
    checks = work("crash-dense")
    assert statuses(checks) == [OK, OK, FAILED, OK, OK, OK]
    dense = checks["dense"]
    assert "ended by SIGABRT" in dense.facts[0] and "EZ9999: Inner Error!" in dense.facts[0]
    assert "(in dense bfloat16)" in dense.facts[0] and dense.facts[1].startswith("dense in ")
    assert dense.advice[0].startswith("export PADDLEMIX_PLAIN_OPS='1'")
    assert "PADDLEMIX_PLAIN_OPS" not in " ".join(checks["rms norm"].facts)
    assert all("with PADDLEMIX_PLAIN_OPS=1" in checks[name].facts[-1] for name in ("training", "chat"))


def test_a_crash_without_kernels_too_is_reported_and_the_rest_is_done(work):
    checks = work("always-rms norm")
    assert statuses(checks) == [OK, OK, OK, FAILED, OK, OK]
    assert not [one for one in checks["rms norm"].advice if "PLAIN" in one]


def test_a_part_that_hangs_is_ended_after_its_patience(work):
    checks = work("hang-chat", patience=1.5)
    assert statuses(checks) == [OK] * 5 + [FAILED]
    assert "nothing happened for 2 seconds" in checks["chat"].facts[0]


def test_without_a_device_the_rest_is_skipped(work):
    checks = work("fail-device")
    assert statuses(checks) == [OK, FAILED] + [SKIPPED] * 4
    assert checks["dense"].facts == ["needs device, which failed"]
    assert statuses(work("always-paddle")) == [FAILED] + [SKIPPED] * 5


def test_a_process_that_ends_after_a_failure_is_followed_by_another(work):
    checks = work("fail-dense")
    assert statuses(checks) == [OK, OK, FAILED, OK, OK, OK]
    assert checks["device"].facts[0].split()[-1] != checks["rms norm"].facts[0].split()[-1]


def test_on_arm_a_library_that_cannot_load_late_is_loaded_first(work):
    checks = work("arm")
    assert statuses(checks) == [WARNING] + [OK] * 5
    assert checks["paddle"].facts[0] == "static TLS block"
    assert checks["paddle"].advice[0].startswith("export LD_PRELOAD='/opt/libgomp.so.1' before python")

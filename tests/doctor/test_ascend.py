"""The checks of driver, cards and CANN: what they read, what they find wrong, and their advice."""

from __future__ import annotations

import os

import fake_ascend
import pytest

from paddlemix.doctor import ascend
from paddlemix.doctor.check import FAILED, OK, WARNING, Check


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a root folder; PATH has an npu-smi only if a test writes one, and no variable of Ascend's is set."""
    for name in (*ascend.FOLDER_VARIABLES, "ASCEND_RT_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    (tmp_path / "dev").mkdir()
    return tmp_path


def driver(machine) -> Check:
    check = Check("driver")
    ascend.check_driver(check, machine)
    return check


def cann(machine) -> Check:
    check = Check("CANN")
    ascend.check_cann(check, machine)
    return check


def test_cards_are_read_from_the_table():
    cards = ascend.read_cards(fake_ascend.table((("910B3", "OK", 3350), ("910B2C", "Warning", 60000))))
    assert [vars(card) for card in cards] == [
        {"number": 0, "model": "910B3", "health": "OK", "used": 3350, "total": 65536},
        {"number": 1, "model": "910B2C", "health": "Warning", "used": 60000, "total": 65536},
    ]


@pytest.mark.parametrize(
    ("cards", "version", "status", "part"),
    [
        ((("910B3", "OK", 3350),), "24.1.0", OK, "card 0: 910B3, OK, 62186 of 65536 MB free"),
        ((("910B3", "OK", 3350),), "23.0.1", WARNING, "driver 23.0.1 is older than 23.0.3"),
        ((("910B3", "Alarm", 3350),), "23.0.3", FAILED, "card 0: 910B3, Alarm"),
        ((("310P3", "OK", 3350),), "23.0.3", WARNING, "310P3"),
        ((("910B3", "OK", 60000),), "23.0.3", WARNING, "5536 of 65536 MB free"),
    ],
)
def test_cards_and_driver_are_judged(machine, cards, version, status, part):
    fake_ascend.write_smi(machine / "bin", fake_ascend.table(cards, version))
    check = driver(machine)
    assert check.status == status and any(part in fact for fact in check.facts)
    assert bool(check.advice) == (status != OK)


def test_missing_tool_and_tool_without_cards_are_distinguished(machine):
    assert driver(machine).status == WARNING and "npu-smi is missing" in driver(machine).facts[0]
    fake_ascend.write_smi(machine / "bin", "dcmi model initialized failed, because the device is used.", 255)
    check = driver(machine)
    assert (
        check.status == FAILED
        and "dcmi model initialized failed" in check.facts[0]
        and "/dev/davinci0" in check.advice[0]
    )


def test_device_files_that_a_container_lacks_are_named(machine):
    fake_ascend.write_smi(machine / "bin", fake_ascend.table())
    for name in ("davinci0", "davinci_manager", "hisi_hdc"):
        (machine / "dev" / name).touch()
    check = driver(machine)
    assert check.status == WARNING and check.facts[-1] == f"missing: {machine / 'dev' / 'devmm_svm'}"


def test_cann_is_found_by_its_variable_with_its_version(machine, monkeypatch):
    monkeypatch.setenv("ASCEND_HOME_PATH", str(fake_ascend.write_cann(machine / "cann" / "latest")))
    assert cann(machine).status == OK and cann(machine).values["version"] == "8.0.0"


def test_cann_whose_variables_are_not_set_fails_with_the_line_to_type(machine):
    folder = fake_ascend.write_cann(machine / "usr/local/Ascend/ascend-toolkit/latest")
    check = cann(machine)
    assert check.status == FAILED and check.advice == [f"source {folder.parent / 'set_env.sh'}"]


def test_missing_old_and_half_installed_cann_are_reported(machine, monkeypatch):
    assert cann(machine).status == FAILED and "CANN is not found" in cann(machine).facts[0]
    monkeypatch.setenv("ASCEND_HOME_PATH", str(machine / "nowhere"))
    assert "which is not a folder" in cann(machine).facts[0]
    monkeypatch.setenv("ASCEND_HOME_PATH", str(fake_ascend.write_cann(machine / "old/latest", "7.0.RC1", False)))
    check = cann(machine)
    assert check.status == WARNING and "older than 8.0" in check.facts[1] and "compiled kernels" in check.facts[2]


@pytest.mark.parametrize(("text", "expected"), [("8.0.RC1", (8, 0)), ("23.0.3", (23, 0, 3)), ("8.0.T13", (8, 0))])
def test_versions_are_compared_by_their_numbers(text, expected):
    assert ascend.numbers(text) == expected

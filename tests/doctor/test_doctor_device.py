"""`paddlemix doctor --device cpu`: the report of a machine, and the comparison with the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from paddlemix import cli
from paddlemix.doctor import device, machine
from paddlemix.doctor.check import FAILED, OK, SKIPPED, WARNING, Check, Diagnosis
from paddlemix.doctor.processes import CheckProcesses
from paddlemix.doctor.tiny_runs import ANSWERS
from paddlemix.doctor.worker import KERNELS, PARTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report():
    """Return the report of the command on this machine's CPU, run in a subprocess."""
    command = [sys.executable, "-m", "paddlemix.cli", "doctor", "--device", "cpu", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout)


def test_a_cpu_passes_every_check(report):
    checks = {check["name"]: check for check in report["checks"]}
    assert list(checks) == ["machine", "packages", *PARTS] and report["device"] == "cpu"
    assert {check["status"] for check in checks.values()} <= {OK, WARNING} and not report["has_failed"]
    assert checks["chat"]["float32"] == ANSWERS
    assert len(checks["training"]["float32"]) == 4
    for name in KERNELS:
        found = checks[name]["float32"]
        assert found["path"] == "plain operations"
        assert 0 < found["forward"] < 1e-4 and 0 < found["backward"] < 1e-4, name


def stand_in(monkeypatch, answers: dict[str, list[Check]]):
    """Replace the subprocesses by given checks. answers: by device, in order."""

    def run_parts(self, parts):
        return (check for check in answers[self.device] if check.name in parts)

    monkeypatch.setattr(CheckProcesses, "run", run_parts)
    monkeypatch.setattr(device, "_first_checks", lambda kind: [])


@pytest.mark.parametrize(
    ("files", "has_plugin", "tool", "kind"),
    [
        ([], False, None, "cpu"),
        (["nvidiactl"], False, None, "cpu"),
        (["nvidia0"], False, None, "gpu"),
        ([], False, "/usr/bin/nvidia-smi", "gpu"),
        (["davinci0", "nvidia0"], False, None, "npu"),
        ([], True, None, "npu"),
    ],
)
def test_without_a_name_the_best_device_of_the_machine_is_checked(
    files, has_plugin, tool, kind, monkeypatch, tmp_path, capsys
):
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(machine, "DEVICE_FILES", tmp_path)
    monkeypatch.setattr(machine.accelerators, "has_plugin", lambda kind: has_plugin)
    monkeypatch.setattr(machine.shutil, "which", lambda name: tool)
    seen = []
    monkeypatch.setattr(device, "examine", lambda name, **options: seen.append(name) or 0)
    assert cli.main(["doctor"]) == 0 and seen == [kind]
    error = capsys.readouterr().err
    assert f"checking {kind}, the best device" in error and "CONFIG.json" in error


def done(name: str, **values) -> Check:
    return Check(name, values={key.replace("_", " "): value for key, value in values.items()})


def test_losses_and_answers_are_compared_with_those_of_the_cpu(monkeypatch, capsys):
    right, wrong = [3.0, 2.0], [3.0, 2.5]
    on_cpu = [done("training", float32=right), done("chat", float32={"q": "a"})]
    on_card = [
        done("training", float32=right, bfloat16_O2=wrong),
        done("chat", float32={"q": "a"}, bfloat16={"q": "b"}),
    ]
    stand_in(monkeypatch, {"npu": on_card, "cpu": on_cpu})
    assert device.examine("npu") == 1
    text = capsys.readouterr().out
    assert "float32: losses off by 0e+00" in text and "bfloat16 O2: losses off by 2e-01" in text
    assert "'q' gives 'b', on the CPU 'a'" in text and on_card[1].status == WARNING
    assert text.splitlines()[-1].startswith("npu: 1 failed (training); start with the first.")


def test_without_trial_nothing_is_trained(monkeypatch):
    stand_in(monkeypatch, {"cpu": [done("paddle")]})
    diagnosis = Diagnosis()
    checks = list(device.checks_of(diagnosis, "cpu", is_tried=False))
    assert [(check.name, check.status) for check in checks[1:]] == [("training", SKIPPED), ("chat", SKIPPED)]
    assert not diagnosis.has_failed


def test_failed_run_on_the_cpu_is_not_compared():
    check = done("training", float32=[1.0])
    device.compare(check, Check("training", FAILED, ["broken"]))
    assert check.status == WARNING and "broken" in check.facts[0]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--device"], "needs one name"),
        (["--device", "npu", "--processes", "2"], "are for a configuration"),
        (["--stage", "pretrain"], "error: --processes and --stage are for a configuration"),
    ],
)
def test_options_that_do_not_fit_a_device_are_refused_in_one_line(words, part, capsys):
    assert cli.main(["doctor", *words]) == 1
    assert part in capsys.readouterr().err


def test_other_settings_beside_the_device_are_a_configuration(monkeypatch, capsys):
    seen = []

    def diagnose(values, **options):
        seen.append(dict(values))
        return Diagnosis()

    stub = types.SimpleNamespace(diagnose=diagnose)
    monkeypatch.setitem(sys.modules, "paddlemix.doctor.run_checks", stub)
    monkeypatch.setattr("paddlemix.device.prepare_environment", lambda device=None: {})
    assert cli.main(["doctor", "--device", "cpu", "--max_length", "64"]) == 0
    assert seen == [{"device": "cpu", "max_length": "64"}] and "ready to train" in capsys.readouterr().out

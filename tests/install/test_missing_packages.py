"""Without paddle or an optional package, a command ends with one error that has the command to install it."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import subprocess
import sys
from email.message import Message

import archives
import pytest

from paddlemix import accelerators, packages
from paddlemix.accelerators import explained
from paddlemix.cli import main
from paddlemix.doctor import machine, report
from paddlemix.doctor.check import WARNING, Check
from paddlemix.terminal.style import Style

MODEL = archives.ROOT / "paddlemix" / archives.TINY / "model"


@pytest.fixture
def without_paddle(tmp_path):
    """Return a function that runs a program where paddle cannot be imported; it returns the lines of its errors."""
    text = "raise ModuleNotFoundError(\"No module named 'paddle'\", name='paddle')"
    (tmp_path / "paddle.py").write_text(text, encoding="utf-8")

    def run(*words):
        command = [sys.executable, *map(str, words)]
        path = f"{tmp_path}:{archives.ROOT}"
        environment = {"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 1
        return done.stderr.splitlines()

    return run


@pytest.mark.parametrize(
    "words",
    [
        ["chat", "--model-path", MODEL, "--query", "Hi"],
        ["sft", "no.json", "--output_dir", "out"],
        ["serve", "--model-path", MODEL, "--port", "0"],
    ],
    ids=lambda words: words[0],
)
def test_without_paddle_a_command_names_the_builds(without_paddle, words, tmp_path):
    (tmp_path / "no.json").write_text("{}", encoding="utf-8")
    lines = without_paddle("-m", "paddlemix", *words)
    (start,) = (number for number, line in enumerate(lines) if "paddle is not installed" in line)
    assert "Traceback" not in "".join(lines)
    assert "pip install 'paddlepaddle>=3.0.0,<3.4'" in lines[start + 1]
    assert "pip install paddlepaddle-gpu==3" in lines[start + 2] and "stable/cu126/" in lines[start + 2]
    assert "paddle-custom-npu" in lines[start + 5]


def test_without_paddle_an_import_names_the_builds(without_paddle):
    lines = without_paddle("-c", "from paddlemix import ChatSession")
    assert any(line.startswith("ModuleNotFoundError: paddle is not installed. ") for line in lines)


def test_the_named_versions_of_paddle_are_those_of_the_requirements():
    (line,) = (line for line in packages.requirement_lines() if line.startswith("paddlepaddle"))
    assert f"pip install '{line}'" in packages.INSTALL_PADDLE


def test_a_missing_requirement_is_named_with_its_version_and_other_errors_stay():
    with pytest.raises(ValueError, match=r"^paddlenlp .* pip install 'paddlenlp==3\.0\.0b4'$"), explained():
        raise ModuleNotFoundError("No module named 'paddlenlp'", name="paddlenlp")
    with pytest.raises(ValueError, match="pip install 'pillow>=10'"), explained():
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL")
    with pytest.raises(ModuleNotFoundError), explained():
        raise ModuleNotFoundError("No module named 'paddlemix.x'", name="paddlemix.x")


def test_a_report_without_paddle_has_the_commands_in_whole_lines(monkeypatch):
    monkeypatch.setattr(accelerators, "paddle_version", lambda: ("paddlepaddle", None))
    check = Check("packages")
    machine.check_packages(check, "cpu")
    lines = [line.strip() for line in report.check_lines(check, Style(io.StringIO()))]
    assert {line.strip() for line in packages.INSTALL_PADDLE.splitlines()[1:]} <= set(lines)


def test_two_builds_of_paddle_over_each_other_are_a_warning(monkeypatch):
    versions = {"paddlepaddle": "3.3.1", "paddlepaddle-gpu": "3.3.0"}
    monkeypatch.setattr(machine, "version_of", versions.get)
    check = Check("packages")
    machine.check_packages(check, "cpu")
    assert check.status == WARNING and check.advice[0].startswith("pip uninstall paddlepaddle paddlepaddle-gpu")
    assert "paddlepaddle 3.3.1 and paddlepaddle-gpu 3.3.0 are both installed, over each other" in check.facts


def schema():
    from paddlemix.generate import grammar

    grammar._llguidance()


def replicas():
    from paddlemix.serve import ray_app
    from paddlemix.serve.cluster.ray_settings import settings_of

    ray_app.serve_on_ray(*settings_of({}))


def called(name: str):
    """Return a call of a function by its full name in the package."""
    module, _, function = name.rpartition(".")
    return lambda: getattr(importlib.import_module(f"paddlemix.{module}"), function)()


OPTIONAL = [
    ("eval", "openpyxl", called("evaluate.files.workbook.import_openpyxl")),
    ("hdf5", "h5py", called("data.hdf5.layout.load_h5py")),
    ("structured", "llguidance", schema),
    ("cluster", "ray", replicas),
]


@pytest.mark.parametrize(("extra", "package", "call"), OPTIONAL, ids=[row[0] for row in OPTIONAL])
def test_a_missing_extra_is_named(extra, package, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    described = Message()
    described["Provides-Extra"] = extra
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: described)
    with pytest.raises(ValueError, match=rf": pip install 'paddlemix\[{extra}\]'$"):
        call()


def test_a_server_names_all_that_it_lacks(monkeypatch, capsys):
    for package in ("uvicorn", "prometheus_client"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(packages, "extra_command", lambda extra: f"install {extra}")
    assert main(["serve", "--model-path", str(MODEL)]) == 1
    expected = "a server needs uvicorn and prometheus_client: install serve"
    assert expected in capsys.readouterr().err


def test_in_a_checkout_that_is_not_installed_the_file_is_named(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", nothing)
    assert packages.extra_command("serve") == "pip install -r requirements-serve.txt"
    assert (archives.ROOT / "requirements-serve.txt").is_file()


def test_without_a_checkout_the_requirements_are_those_of_the_installed_package(monkeypatch, tmp_path):
    described = Message()
    for line in ("numpy<2,>=1.26", 'paddlepaddle<3.4,>=3.0.0; extra == "cpu"', 'numba>=0.61; extra == "cpu"'):
        described["Requires-Dist"] = line
    monkeypatch.setattr(packages, "CHECKOUT", tmp_path)
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: described)
    assert packages.requirement_lines() == ["numpy<2,>=1.26", "paddlepaddle<3.4,>=3.0.0"]

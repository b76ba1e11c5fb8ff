"""The repository as a whole: requirements, shipped settings, make, continuous integration, and rules of style."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "paddlemix"
CONFIGS = PACKAGE / "config" / "llava"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def requirement_lines(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in (re.sub(r"\s*#.*", "", line).strip() for line in lines) if line]


def setup_arguments() -> dict:
    """Run setup.py without building anything and return the arguments it passes to setuptools."""
    code = (
        "import json, setuptools; "
        "setuptools.setup = lambda **values: print(json.dumps(values)); "
        "exec(compile(open('setup.py', encoding='utf-8').read(), 'setup.py', 'exec'), {'__file__': 'setup.py'})"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def test_setup_takes_its_dependencies_from_the_requirement_files():
    values = setup_arguments()
    lines = requirement_lines("requirements.txt")
    paddle = [line for line in lines if line.startswith("paddlepaddle")]
    assert values["install_requires"] == [line for line in lines if line not in paddle]
    extras = values["extras_require"]
    assert extras["cpu"] == paddle + requirement_lines("requirements-cpu.txt")
    for name in ("eval", "hdf5", "serve", "structured", "dev"):
        assert extras[name] == requirement_lines(f"requirements-{name}.txt")
        assert set(extras[name]) <= set(extras["dev"])


def test_package_data_includes_all_files_that_are_no_modules():
    values = setup_arguments()
    assert values["entry_points"]["console_scripts"] == ["paddlemix = paddlemix.cli:main"]
    covered = {path for pattern in values["package_data"]["paddlemix"] for path in PACKAGE.glob(pattern)}
    others = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others and others <= covered


def test_folders_with_modules_are_packages():
    folders = {path.parent for path in MODULES}
    assert {folder for folder in folders if not (folder / "__init__.py").is_file()} == set()


@pytest.fixture
def workspace(tmp_path):
    """Return a folder with copies of the files that make reads and an environment that looks installed."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", ".installed", ".installed-dev"):
        (tmp_path / ".venv" / name).touch()
    return tmp_path


def plan(folder: Path, *words: str) -> str:
    """Return the commands that make would run (make -n)."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "VENV", "MAKEFLAGS")}
    result = subprocess.run(
        ["make", "-n", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout


TARGETS = [
    ("chat", "paddlemix chat --model-path paddlemix/examples/llava/tiny/model --image-file"),
    ("test", "python -m pytest"),
    ("lint", "ruff check .\n.venv/bin/python -m ruff format --check ."),
    ("tiny", "bash paddlemix/examples/llava/tiny/train.sh"),
]


@pytest.mark.parametrize(("target", "command"), TARGETS)
def test_second_call_of_make_installs_nothing(workspace, target, command):
    planned = plan(workspace, target)
    assert command in planned
    assert "tools/install.py" not in planned and "venv .venv" not in planned


@pytest.mark.parametrize("target", ["chat", "test", "lint", "tiny"])
def test_changed_requirements_are_installed(workspace, target):
    later = time.time() + 60
    os.utime(workspace / "requirements.txt", (later, later))
    assert "tools/install.py" in plan(workspace, target)


def test_changed_development_requirements_are_installed_only_for_tests(workspace):
    later = time.time() + 60
    os.utime(workspace / "requirements-dev.txt", (later, later))
    assert "-r requirements-dev.txt" in plan(workspace, "test")
    assert "tools/install.py" not in plan(workspace, "chat")


def test_missing_environment_is_created_before_anything_is_installed(workspace):
    shutil.rmtree(workspace / ".venv")
    planned = plan(workspace, "test")
    steps = [planned.index(step) for step in ("-m venv .venv", "-r .venv/requirements.txt", "-e .", "-m pytest")]
    assert steps == sorted(steps)


def test_oldest_paddle_has_a_separate_environment_and_equals_the_lower_bound(workspace):
    planned = plan(workspace, "test-paddle300")
    assert ".venv-paddle300/bin/python -m pytest tests/npu_sim" in planned and "VENV=.venv-paddle300" in planned
    constraint = (ROOT / "tests/npu_sim/paddle300.txt").read_text().strip()
    assert f"paddlepaddle>={constraint.split('==')[1]}," in (ROOT / "requirements.txt").read_text()


@pytest.mark.parametrize("target", ["test-paddle300", "test-transformers5"])
def test_test_files_that_make_names_exist(target):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = next(line for line in plan(ROOT, target).splitlines() if " -m pytest tests" in line)
    named = [word for word in command.split() if word.startswith("tests/")]
    assert len(named) >= 5 and all((ROOT / name).exists() for name in named), named


def test_the_whole_suite_is_shared_by_processes_and_named_tests_run_in_one(workspace):
    for words in ((), ("ARGS=-k anyres",), ("ARGS=-rs --durations=10",)):
        assert "-m pytest -n auto --dist loadfile" in plan(workspace, "test", *words)
    for words in ("tests/image", "-x tests/image/test_anyres.py tests/hub"):
        assert " -n " not in plan(workspace, "test", f"ARGS={words}").split("pytest")[1]


def test_make_forwards_arguments_and_accepts_another_environment(workspace):
    assert "-m pytest tests/image -k x" in plan(workspace, "test", "ARGS=tests/image -k x")
    assert "other/bin/paddlemix chat" in plan(workspace, "chat", "VENV=other")


def test_unsuitable_python_is_refused_by_name(workspace):
    shutil.rmtree(workspace / ".venv")
    old = workspace / "old-python"
    old.write_text("#!/bin/sh\necho 'is Python 3.9' >&2\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    result = subprocess.run(
        ["make", "chat", "PYTHON=no-such-python ./old-python"], cwd=workspace, capture_output=True, text=True
    )
    assert result.returncode != 0 and not (workspace / ".venv" / ".installed").exists()
    assert "no-such-python: not found; ./old-python: is Python 3.9" in result.stderr


def test_failed_installation_leaves_no_stamp(workspace):
    shutil.rmtree(workspace / ".venv")
    (workspace / ".venv" / "bin").mkdir(parents=True)
    python = workspace / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *install*) exit 1;; esac\n', encoding="utf-8")
    python.chmod(0o755)
    result = subprocess.run(["make", "chat"], cwd=workspace, capture_output=True, text=True)
    assert result.returncode != 0 and not (workspace / ".venv" / ".installed").exists()


@pytest.mark.parametrize(("installed", "is_kept"), [("paddlepaddle-gpu==3.0.0", True), ("paddlepaddle==3.0.0", False)])
def test_paddle_for_an_accelerator_is_not_overwritten(workspace, installed, is_kept):
    (workspace / ".venv" / ".installed").unlink()
    python = workspace / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *list*) echo "{installed}";; esac\n', encoding="utf-8")
    python.chmod(0o755)
    subprocess.run(["make", "install"], cwd=workspace, capture_output=True, check=True)
    lines = (workspace / ".venv" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("paddlenlp==") for line in lines)
    assert any(line.startswith("paddlepaddle>") for line in lines) is not is_kept


def test_paddle_for_cuda_is_installed_first_if_asked_for(workspace):
    (workspace / ".venv" / ".installed").unlink()
    python = workspace / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$*" >> called\n', encoding="utf-8")
    python.chmod(0o755)
    subprocess.run(["make", "install", "CUDA=cu126"], cwd=workspace, capture_output=True, check=True)
    first = (workspace / "called").read_text(encoding="utf-8").splitlines()[0]
    assert "paddlepaddle-gpu>=3.0.0,<3.4 -i https://www.paddlepaddle.org.cn/packages/stable/cu126/" in first


def test_a_first_installation_says_how_to_use_the_environment(workspace):
    (workspace / ".venv" / ".installed").unlink()
    python = workspace / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\n", encoding="utf-8")
    python.chmod(0o755)
    for expected in (True, False):
        done = subprocess.run(
            ["make", "--no-print-directory", "install"], cwd=workspace, capture_output=True, text=True, check=True
        )
        assert (". .venv/bin/activate" in done.stderr) is expected and done.stdout.count("\n") <= 1


CHECKS = (
    "lint",
    "test",
    "test-paddle300",
    "test-transformers5",
    "test-browser",
    "test-cluster",
    "test-install",
    "docs",
)


@pytest.mark.parametrize("failing", [None, *CHECKS])
def test_continuous_integration_runs_all_checks_and_fails_with_any_of_them(tmp_path, failing):
    make = tmp_path / "make"
    make.write_text(
        f'#!/bin/sh\necho "$2" >> {tmp_path}/called\necho "CI=$CI"\n'
        f'[ "$2" = test ] && echo "12 passed in 3.45s"\n[ "$2" != "{failing}" ]\n',
        encoding="utf-8",
    )
    make.chmod(0o755)
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")  # so that nothing is installed
    (tmp_path / "apt-get").chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    result = subprocess.run([ROOT / ".ci" / "run"], env=environment, capture_output=True, text=True)
    assert (result.returncode == 0) == (failing is None)
    assert (tmp_path / "called").read_text().split() == list(CHECKS)
    assert "CI=true" in result.stdout and result.stdout.splitlines()[-1] == "12 passed in 3.45s"


def test_license_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert setup_arguments()["license"] == "Apache-2.0"


@pytest.mark.parametrize(("files", "most"), [(MODULES, 300), (TESTS, 500)], ids=["package", "tests"])
def test_files_are_short(files, most):
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > most} == {}


def test_no_todo_is_left_and_no_module_is_called_utils():
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    unfinished = [str(path) for path in MODULES if mark.search(path.read_text(encoding="utf-8"))]
    assert unfinished == []
    assert [str(path) for path in MODULES if re.search(r"utils|helper|misc|_v\d+$", path.stem)] == []


def test_names_of_test_files_are_unique():
    counts = Counter(path.name for path in TESTS if path.name != "conftest.py")
    assert {name: count for name, count in counts.items() if count > 1} == {}

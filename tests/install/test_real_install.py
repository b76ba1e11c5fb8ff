"""The package is built, installed with all that it needs into empty environments, and used there.

`make test-install` runs these tests. They download what pip has not kept, take minutes and need 2 GB for a while.
"""

from __future__ import annotations

import os
import re
import shutil
import sys

import archives
import pytest

pytestmark = pytest.mark.skipif("PADDLEMIX_TEST_INSTALL" not in os.environ, reason="takes minutes: make test-install")
PIP = ("-m", "pip", "install", "--no-compile", "--progress-bar", "off")


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Return the interpreter of an environment with the wheel and its extras for a CPU; removed afterwards."""
    folder = tmp_path_factory.mktemp("installed")
    python = archives.empty_environment(folder / "environment", has_pip=True)
    archives.run([python, *PIP, f"{built[1]}[cpu,serve,eval,structured,hdf5]"], folder, seconds=1500)
    yield python
    shutil.rmtree(folder)


def test_wheel_with_extras_fits_together_and_works_in_another_folder(installed, tmp_path):
    assert "No broken requirements found" in archives.run([installed, "-m", "pip", "check"], tmp_path)
    archives.try_commands(installed, tmp_path)
    modules = "numba, fastapi, uvicorn, prometheus_client, openpyxl, llguidance, h5py"
    archives.run([installed, "-c", f"import {modules}"], tmp_path)


def test_the_command_that_an_error_names_adds_the_extra(installed, tmp_path):
    archives.run([installed, "-m", "pip", "uninstall", "-qy", "h5py"], tmp_path)
    probe = [installed, "-c", "from paddlemix.data.hdf5.layout import load_h5py; load_h5py()"]
    command = re.search(r"pip install '(paddlemix\[hdf5\])'", archives.run(probe, tmp_path, code=1))
    archives.run([installed, *PIP, command[1]], tmp_path)
    archives.run(probe, tmp_path)


def test_archive_of_the_sources_installs_too(built, installed, tmp_path):
    archives.run([installed, "-m", "pip", "uninstall", "-qy", "paddlemix"], tmp_path)
    archives.run([installed, *PIP, "--no-deps", built[0]], tmp_path)
    archives.try_commands(installed, tmp_path)


@pytest.mark.parametrize("wanted", ["", "[all]"], ids=["plain", "all"])
def test_beside_paddle_for_cuda_the_build_for_a_cpu_is_not_installed(built, tmp_path, wanted):
    python = archives.empty_environment(tmp_path / "environment")
    archives.pretend(python, "paddlepaddle-gpu", "3.3.1")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--dry-run", "--progress-bar", "off"]
    output = archives.run([*pip, f"{built[1]}{wanted}"], tmp_path, seconds=1500)
    chosen = re.findall(r"Would install (.*)", output)[0].split()
    names = {re.sub(r"-\d.*", "", name).lower() for name in chosen}
    assert {"paddlemix", "paddlenlp"} <= names and not any(name.startswith("paddlepaddle") for name in names)
    assert wanted == "" or {"ray", "numba", "fastapi", "openpyxl", "h5py", "llguidance"} <= names


def test_the_extra_for_a_cpu_installs_paddle(built, tmp_path):
    python = archives.empty_environment(tmp_path / "environment")
    for name, version in (("paddlenlp", "3.0.0b4"), ("datasets", "3.6.0"), ("matplotlib", "3.9")):  # looked up already
        archives.pretend(python, name, version)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--dry-run", "--progress-bar", "off"]
    assert re.search(r"Would install .*paddlepaddle-3\.", archives.run([*pip, f"{built[1]}[cpu]"], tmp_path))

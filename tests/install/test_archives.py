"""What is built to be handed on holds all that the commands need, works from any folder, and leaves paddle alone."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from zipfile import ZipFile

import archives
from packaging.requirements import Requirement

import paddlemix
from paddlemix.cli import COMMANDS

EXTRAS = {"all", "cluster", "cpu", "dev", "eval", "hdf5", "serve", "structured"}
FILES = {
    str(path.relative_to(archives.ROOT))
    for path in (archives.ROOT / "paddlemix").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}


def requirements(wheel: Path, extra: str = "") -> dict[str, Requirement]:
    """Return what a wheel requires, by name."""
    lines = map(Requirement, archives.metadata_of(wheel).get_all("Requires-Dist"))
    return {line.name: line for line in lines if line.marker is None or line.marker.evaluate({"extra": extra})}


def test_wheel_and_sources_hold_every_file_of_the_package_and_no_other(built):
    sources, wheel = built
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == FILES
    with tarfile.open(sources) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert inside >= FILES and not any(name.endswith(".pyc") for name in inside)
    assert inside >= {"CHANGELOG.md", "LICENSE", *(path.name for path in archives.ROOT.glob("requirements*.txt"))}


def test_version_is_stated_once_and_has_an_entry_in_the_changelog(built):
    assert archives.metadata_of(built[1])["Version"] == paddlemix.__version__
    newest = re.search(r"^## (\S+)", (archives.ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest[1] == paddlemix.__version__


def test_extras_are_those_of_the_requirement_files(built):
    wheel = built[1]
    assert set(archives.metadata_of(wheel).get_all("Provides-Extra")) == EXTRAS
    plain = requirements(wheel)
    for extra in EXTRAS - {"all", "dev"}:
        lines = (archives.ROOT / f"requirements-{extra}.txt").read_text(encoding="utf-8").splitlines()
        wanted = {Requirement(line.split("#")[0]).name for line in lines}
        added = requirements(wheel, extra).keys() - plain.keys()
        assert added - {"paddlepaddle"} == wanted
        assert wanted <= requirements(wheel, "all").keys()


def test_only_the_extra_for_a_cpu_brings_paddle(built):
    with_paddle = {extra for extra in EXTRAS | {""} if "paddlepaddle" in requirements(built[1], extra)}
    assert with_paddle == {"cpu"}


def test_installing_the_wheel_keeps_another_build_of_paddle(built, tmp_path):
    wheel = built[1]
    python = archives.empty_environment(tmp_path / "environment")
    archives.pretend(python, "paddlepaddle-gpu", "3.3.1")
    for name, requirement in requirements(wheel).items():
        bounds = {part.operator: part.version for part in requirement.specifier}
        version = bounds.get(">=") or bounds.get("==") or "0.1"
        archives.pretend(python, name, version)
    output = archives.install_wheel(python, wheel, "--dry-run")
    assert re.findall(r"Would install (.*)", output) == [f"paddlemix-{paddlemix.__version__}"]


def test_installed_wheel_chats_and_trains_in_another_folder(built, tmp_path):
    python = archives.empty_environment(tmp_path / "environment")
    archives.lend_packages(python)
    archives.install_wheel(python, built[1], "--no-deps")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    archives.try_commands(python, folder)
    probe = "from paddlemix import cli; print(*(cli.command_parser(name).prog for name in cli.COMMANDS))"
    assert len(archives.run([python, "-c", probe], folder).split()) == len(COMMANDS)

"""The package as it is handed on: an archive of its sources, the wheel built from it, and environments to try it in.

All of it works without a network, with the setuptools of this environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "CHANGELOG.md", "README.md", "README_zh.md")
CLEAN = ("PYTHONPATH", "PYTHONHOME", "PIP_CONSTRAINT", "PIP_NO_INDEX", "VIRTUAL_ENV")
TINY = "examples/llava/tiny"
QUESTION = ["--image-file", "shapes.png", "--temperature", "0", "--query", "How many shapes are there?"]
ANSWER = "The number of shapes is four.\n"
ROWS = """[
{"image": "shapes.png", "conversations": [{"from": "human", "value": "<image>\\nHow many shapes are there?"},
                                          {"from": "gpt", "value": "The number of shapes is four."}]},
{"image": "shapes.png", "conversations": [{"from": "human", "value": "<image>\\nIs there a cat?"},
                                          {"from": "gpt", "value": "No, there is no cat."}]}
]"""
STEP = """{
"model_name_or_path": "model", "output_dir": "out", "do_train": true, "device": "cpu", "max_steps": 1, "lora": true,
"dataset": {"train": [{"name": "chatml_dataset", "data_files": "rows.json"}]}, "image_folder": ".",
"per_device_train_batch_size": 2, "learning_rate": 1e-3, "disable_tqdm": true, "report_to": "none",
"save_strategy": "no"
}"""


def build(folder: Path) -> tuple[Path, Path]:
    """Build the archive of the sources and, from nothing but that, the wheel; return both files."""
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in (*SOURCES, *(path.name for path in ROOT.glob("requirements*.txt"))):
        shutil.copy(ROOT / name, checkout)
    shutil.copytree(ROOT / "paddlemix", checkout / "paddlemix", ignore=shutil.ignore_patterns("__pycache__"))
    setup(checkout, "sdist")
    (sources,) = (checkout / "dist").glob("*.tar.gz")
    shutil.unpack_archive(sources, folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    setup(unpacked, "bdist_wheel")
    (wheel,) = (unpacked / "dist").glob("*.whl")
    return sources, wheel


def setup(folder: Path, command: str) -> None:
    """Run setup.py in a folder."""
    run([sys.executable, "setup.py", "-q", command], folder)


def run(command: Sequence[str | Path], folder: Path, *, code: int = 0, seconds: float = 600, **variables: str) -> str:
    """Run a command in a folder without the variables that would show it this checkout; return all that it prints."""
    environment = {key: value for key, value in os.environ.items() if key not in CLEAN}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**environment, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def metadata_of(wheel: Path) -> Message:
    """Return the metadata of a wheel."""
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode("utf-8"))


def empty_environment(folder: Path, *, has_pip: bool = False) -> Path:
    """Make an environment without packages; return its interpreter."""
    run([sys.executable, "-m", "venv", folder, *([] if has_pip else ["--without-pip"])], folder.parent)
    return folder / "bin" / "python"


def packages_of(python: Path) -> Path:
    """Return the folder with the packages of an environment."""
    (folder,) = python.parents[1].glob("lib/python3*/site-packages")
    return folder


def lend_packages(python: Path) -> None:
    """Let an environment import what is installed here, below what is installed in itself."""
    (packages_of(python) / "lent.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")


def pretend(python: Path, name: str, version: str) -> None:
    """Write what pip would find in an environment if a package were installed there."""
    folder = packages_of(python) / f"{re.sub(r'[-_.]+', '_', name)}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (folder / "RECORD").touch()


def install_wheel(python: Path, wheel: str | Path, *options: str) -> str:
    """Install a wheel with the pip of this environment and without an index."""
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index"]
    return run([*pip, *options, wheel], python.parents[1])


def try_commands(python: Path, folder: Path) -> None:
    """Chat with the bundled model and train a step with the installed commands, in a folder with nothing else."""
    tiny = packages_of(python) / "paddlemix" / TINY
    shutil.copy(tiny / "shapes.png", folder)
    (folder / "model").symlink_to(tiny / "model")
    (folder / "rows.json").write_text(ROWS, encoding="utf-8")
    (folder / "step.json").write_text(STEP, encoding="utf-8")
    paddlemix = python.with_name("paddlemix")
    where = run([python, "-c", "import paddlemix; print(paddlemix.__file__)"], folder)
    assert Path(where.strip()).is_relative_to(packages_of(python)), where
    assert run([paddlemix, "chat", "--model-path", "model", *QUESTION], folder).endswith(ANSWER)
    output = run([paddlemix, "sft", "step.json"], folder)
    assert list((folder / "out").glob("*.safetensors")) or list((folder / "out").glob("*.pdparams")), output

"""Where this package is, and packages that are not installed: what needs them, and the command that installs them.

Nothing here imports one of them, because the texts are for those who lack it.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
FRAMEWORK = "paddlepaddle"  # no dependency of the package: the builds for CUDA have another name and the same folder
DISTRIBUTIONS = {"PIL": "pillow", "google.protobuf": "protobuf"}  # of modules with another name
INDEX = "https://www.paddlepaddle.org.cn/packages"
NIGHTLY = "3.0.0.dev20250527"  # of which Paddle and its plugin for Ascend were published together
INSTALL_PADDLE = f"""Install the build for this machine:
  CPU     pip install 'paddlepaddle>=3.0.0,<3.4'
  CUDA    pip install paddlepaddle-gpu==3.3.1 -i {INDEX}/stable/cu126/
          (or cu118, cu129: at most the CUDA of nvidia-smi)
  Ascend  pip install --pre paddlepaddle=={NIGHTLY} -i {INDEX}/nightly/cpu/
          pip install --pre paddle-custom-npu=={NIGHTLY} -i {INDEX}/nightly/npu/
          (if that date is gone: both in 3.0.0)"""


def import_path() -> str:
    """Return PYTHONPATH for a process that has to import this package from where it is."""
    return os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))


def requirement_lines() -> list[str]:
    """Return the requirements of a checkout or of the installed package, and the supported versions of paddle."""
    file = CHECKOUT / "requirements.txt"
    if file.is_file() and (CHECKOUT / "setup.py").is_file():
        lines = [line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line]
    lines = _metadata().get_all("Requires-Dist") or []
    return [line.split(";")[0].strip() for line in lines if "extra ==" not in line or line.startswith(FRAMEWORK)]


def extra_command(extra: str) -> str:
    """Return the command that installs an optional part of the package."""
    is_installed = extra in (_metadata().get_all("Provides-Extra") or ())
    return f"pip install 'paddlemix[{extra}]'" if is_installed else f"pip install -r requirements-{extra}.txt"


def missing(need: str, extra: str) -> ValueError:
    """Return the error for a part of the program whose optional package is not installed. need: "X needs PACKAGE"."""
    return ValueError(f"{need}: {extra_command(extra)}")


def missing_text(module: str) -> str | None:
    """Return cause and remedy in words for a module that cannot be found; None if it is none that the package needs."""
    if module.split(".")[0] == "paddle":
        return f"paddle is not installed. {INSTALL_PADDLE}"
    name = DISTRIBUTIONS.get(module, module.split(".")[0]).replace("_", "-").lower()
    for line in requirement_lines():
        if re.split(r"[^\w.-]", line, maxsplit=1)[0].replace("_", "-").lower() == name:
            return f"{name} is not installed, and paddlemix needs it here: pip install '{line}'"
    return None


def _metadata() -> importlib.metadata.PackageMetadata:
    """Return the metadata of the installed package; of none for a checkout that is not installed."""
    try:
        return importlib.metadata.metadata("paddlemix")
    except importlib.metadata.PackageNotFoundError:
        from email.message import Message

        return Message()

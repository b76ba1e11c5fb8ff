"""The machine, and what is installed on it for a kind of device. Needs no paddle."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from ..accelerators import check_versions, has_plugin, paddle_version, plugin_folder, version_of, what_is_missing
from .check import Check

SMI_SECONDS = 30
ARM = ("aarch64", "arm64")
QUERY = ["--query-gpu=index,name,driver_version,memory.free,memory.total", "--format=csv,noheader"]
NAMED = ("paddlenlp", "numpy")


def check_machine(check: Check) -> None:
    """Say which machine, system and Python these are, and what ARM machines stumble over."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    container = ", in a container" if Path("/.dockerenv").exists() else ""
    check.say(f"{platform.machine()}, {processor()}, {cores} cores; {platform.platform()}{container}")
    check.say(f"python {platform.python_version()}, {platform.libc_ver()[0] or 'libc'} {platform.libc_ver()[1]}")
    preload = os.environ.get("LD_PRELOAD")
    if preload:
        check.say(f"LD_PRELOAD is {preload}")
        for library in preload.replace(":", " ").split():
            if "/" in library and not Path(library).exists():
                check.warn(f"LD_PRELOAD names {library}, which is not there", "unset it, or name what is there")
    elif platform.machine() in ARM:
        check.say("ARM: should a library say `cannot allocate memory in static TLS block`, LD_PRELOAD is tried below")
    check.values |= {"machine": platform.machine(), "python": platform.python_version()}


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "hardware")))
    return next(names, "") or platform.processor() or "unknown processor"


def check_packages(check: Check, kind: str) -> None:
    """Say which versions are installed, and whether paddle and what it needs for a kind of device fit each other."""
    name, paddle = paddle_version()
    plugin = version_of(f"paddle-custom-{kind}")
    versions = {name: paddle, **{other: version_of(other) for other in NAMED}}
    if kind not in ("cpu", "gpu"):
        versions[f"paddle-custom-{kind}"] = plugin
    check.values["versions"] = versions
    check.say(", ".join(f"{key} {value or 'missing'}" for key, value in versions.items()))
    if paddle is None:
        check.fail("paddle is not installed", "pip install -r requirements.txt")
        return
    if kind == "gpu" and name != "paddlepaddle-gpu":
        check.fail(f"{name} is a build for the CPU", what_is_missing("gpu", None))
    if kind in ("cpu", "gpu"):
        return
    folder = plugin_folder()
    if has_plugin(kind):
        check.say(f"plugin for {kind}: {folder}{'' if plugin else ', of unknown version'}")
        check_versions(kind)
    else:
        check.fail(f"no plugin for {kind}", what_is_missing(kind, None))
    if kind == "npu" and name == "paddlepaddle-gpu":
        check.fail("paddlepaddle-gpu is installed", "the plugin goes with the CPU wheel: pip install paddlepaddle")


def check_nvidia(check: Check) -> None:
    """Ask nvidia-smi for driver and cards."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        check.warn("nvidia-smi is not there: driver and cards are not known", "install NVIDIA's driver")
        return
    try:
        done = subprocess.run([tool, *QUERY], capture_output=True, text=True, timeout=SMI_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        check.fail(f"nvidia-smi does not answer: {error}", "the driver hangs: restart the machine")
        return
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines:
        said = (done.stderr or done.stdout).strip().splitlines()
        check.fail(f"nvidia-smi finds no card: {said[-1] if said else 'it says nothing'}", "see `nvidia-smi`")
        return
    check.values["cards"] = lines
    for line in lines:
        check.say(f"card {line}")
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        check.say(f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}")

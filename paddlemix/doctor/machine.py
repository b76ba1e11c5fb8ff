"""Checks of the machine: its processor, what is installed on it, NVIDIA's driver and the disk.

The module does not import paddle, because a report must not end where paddle cannot be imported.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from .. import accelerators
from ..accelerators import PADDLES, advice_for_missing, version_of
from ..device import CPU, GPU, NPU
from ..packages import FRAMEWORK, INSTALL_PADDLE, requirement_lines
from ..terminal.sizes import in_bytes
from .check import Check

PYTHON = ((3, 10), (3, 12))
NAMED = ("paddlenlp", "numpy")
NEEDED = (FRAMEWORK, "paddlenlp")  # other packages may work in another version
ARM = ("aarch64", "arm64")
SMI_SECONDS = 30
DEVICE_FILES = Path("/dev")
VECTORS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve")
QUERY = ["--query-gpu=index,name,driver_version,memory.free,memory.total", "--format=csv,noheader"]


def check_machine(check: Check) -> None:
    """Report machine, system and Python, and what goes wrong on ARM machines."""
    container = ", in a container" if Path("/.dockerenv").exists() else ""
    check.say(f"{platform.machine()}, {processor()}, {num_cores()} cores; {platform.platform()}{container}")
    check.say(f"python {platform.python_version()}, {platform.libc_ver()[0] or 'libc'} {platform.libc_ver()[1]}")
    preload = os.environ.get("LD_PRELOAD")
    if preload:
        check.say(f"LD_PRELOAD is {preload}")
        for library in preload.replace(":", " ").split():
            if "/" in library and not Path(library).exists():
                check.warn(f"LD_PRELOAD names {library}, which does not exist", "unset it, or name an existing file")
    elif platform.machine() in ARM:
        check.say(
            "ARM: if a library fails with `cannot allocate memory in static TLS block`, LD_PRELOAD is tried below"
        )
    check.values |= {"machine": platform.machine(), "python": platform.python_version()}


def best_kind() -> str:
    """Return the best kind of device that this machine has, by its plugin, its device files or the driver's program.

    A card of which paddle's package is missing counts: the report then says what to install.
    """
    if accelerators.has_plugin(NPU) or any(DEVICE_FILES.glob("davinci[0-9]*")):
        return NPU
    return GPU if any(DEVICE_FILES.glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") else CPU


def has_traces(kind: str) -> bool:
    """Return whether a card of a kind has left traces here, even if it does not work: device files, a driver's tool."""
    files, tool = {NPU: ("davinci[0-9]*", "npu-smi"), GPU: ("nvidia[0-9]*", "nvidia-smi")}[kind]
    return any(DEVICE_FILES.glob(files)) or shutil.which(tool) is not None


def processor() -> str:
    """Return the processor's name."""
    names = _processor_lines("model name", "hardware")
    return next(names, "") or platform.processor() or "unknown processor"


def vector_flags() -> list[str]:
    """Return which of VECTORS the processor has, according to Linux."""
    flags = set(next(_processor_lines("flags", "features"), "").split())
    return [flag for flag in VECTORS if flag in flags]


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor_lines(*names: str) -> Iterator[str]:
    """Yield the values of lines with such a name in Linux's description of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    yield from (line.partition(":")[2].strip() for line in lines if line.lower().startswith(names))


def check_versions(check: Check) -> None:
    """Compare the installed packages with the bounds of the package's requirements."""
    installed = ", ".join(f"{name} {_version(name) or 'missing'}" for name in NAMED)
    check.say(f"python {platform.python_version()}, paddle {_version(PADDLES[0])}, {installed}")
    if not PYTHON[0] <= sys.version_info[:2] <= PYTHON[1]:
        check.warn("the package is tested with Python 3.10 to 3.12", "make an environment with one of these")
    _check_builds(check)
    for requirement in _requirements():
        version = _version(requirement.name)
        wanted = f"{requirement.name}{requirement.specifier}"
        if version is None:
            check.fail(f"{requirement.name} is not installed: expected {wanted}", f"pip install '{wanted}'")
        elif not requirement.specifier.contains(_release(requirement.name, version), prereleases=True):
            add = check.fail if requirement.name in NEEDED else check.warn
            add(f"{requirement.name} is {version}: expected {wanted}", f"pip install '{wanted}'")


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in requirement_lines()]


def _check_builds(check: Check) -> None:
    """Warn if two builds of paddle lie over each other: both have the folder `paddle`, and the last one has won."""
    builds = [f"{name} {version}" for name in PADDLES if (version := version_of(name))]
    if len(builds) > 1:
        advice = f"pip uninstall {' '.join(PADDLES)}, then install the one that you want"
        check.warn(f"{' and '.join(builds)} are both installed, over each other", advice)


def _version(name: str) -> str | None:
    """Return the installed version of a package; a build of paddle under any name counts."""
    if name in PADDLES:
        import paddle

        return paddle.__version__
    return version_of(name)


def _release(name: str, version: str) -> str:
    """Return the version to compare. For a nightly build of paddle, which plugins require, it is its release.

    A build from source has no version (0.0.0) and passes as the oldest supported one.
    """
    if name not in PADDLES:
        return version
    release = Version(version).base_version
    return release if any(Version(release).release) else "3.0.0"


def check_packages(check: Check, kind: str) -> None:
    """Report the installed versions, and whether paddle and its plugin for a kind of device fit together."""
    name, paddle = accelerators.paddle_version()
    plugin = version_of(f"paddle-custom-{kind}")
    versions = {name: paddle, **{other: version_of(other) for other in NAMED}}
    if kind not in (CPU, GPU):
        versions[f"paddle-custom-{kind}"] = plugin
    check.values["versions"] = versions
    check.say(", ".join(f"{key} {value or 'missing'}" for key, value in versions.items()))
    if paddle is None:
        check.fail("paddle is not installed", INSTALL_PADDLE)
        return
    _check_builds(check)
    if kind == GPU and name != "paddlepaddle-gpu":
        check.fail(f"{name} is a build for the CPU", advice_for_missing(GPU, None))
    if kind in (CPU, GPU):
        return
    if accelerators.has_plugin(kind):
        check.say(f"plugin for {kind}: {accelerators.plugin_folder()}{'' if plugin else ', of unknown version'}")
        accelerators.check_versions(kind)
    else:
        check.fail(f"no plugin for {kind}", advice_for_missing(kind, None))
    if kind == NPU and name == "paddlepaddle-gpu":
        check.fail("paddlepaddle-gpu is installed", "the plugin needs the CPU wheel: pip install paddlepaddle")


def check_nvidia(check: Check) -> None:
    """Ask nvidia-smi for the driver and the cards."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        check.warn("nvidia-smi is missing: driver and cards are not known", "install NVIDIA's driver")
        return
    try:
        done = subprocess.run([tool, *QUERY], capture_output=True, text=True, timeout=SMI_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        check.fail(f"nvidia-smi does not answer: {error}", "the driver hangs: restart the machine")
        return
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines:
        output = (done.stderr or done.stdout).strip().splitlines()
        check.fail(f"nvidia-smi finds no card: {output[-1] if output else 'it prints nothing'}", "see `nvidia-smi`")
        return
    check.values["cards"] = lines
    for line in lines:
        check.say(f"card {line}")
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        check.say(f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}")


def check_disk(check: Check, output_dir: Path, checkpoint_bytes: int, result_bytes: int, num_kept: int | None) -> None:
    """Compare the size of a run's output with the free space. num_kept: checkpoints to keep, None for all of them."""
    folder = next(folder for folder in (output_dir.absolute(), *output_dir.absolute().parents) if folder.is_dir())
    if not os.access(folder, os.W_OK):
        check.fail(f"{folder} cannot be written to", "choose another output_dir")
        return
    free = shutil.disk_usage(folder).free
    # A new checkpoint is written before the oldest one is deleted.
    needed = result_bytes + checkpoint_bytes * (2 if num_kept is None else num_kept + 1)
    check.values |= {"free": free, "needed": needed, "checkpoint": checkpoint_bytes}
    sizes = [in_bytes(size) for size in (free, checkpoint_bytes, needed)]
    check.say(f"{output_dir}: {sizes[0]} free; a checkpoint takes {sizes[1]}, the whole run {sizes[2]}")
    if num_kept is None and checkpoint_bytes:
        check.warn("save_total_limit is not set, so that every checkpoint is kept", 'set "save_total_limit"')
    if needed > free:
        check.fail("the disk is too small", 'free some of it, or set "save_total_limit" lower')

"""Simulate an Ascend device: build a plugin for the installed paddle, and run Python processes that have an `npu`.

It uses host memory and paddle's CPU kernels. So it tests plumbing, dtypes, copies and the operations that are called,
but not an Ascend's numerics or speed. See plugin/README.md.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from half_kernels import write_sources

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).parent / "plugin"
LIBRARY = "libpaddle-sim-npu.so"
NUM_HALF_FILES = 2
FLAGS = "-O1 -std=c++17 -w -fPIC -DPADDLE_WITH_CUSTOM_DEVICE -DPADDLE_WITH_CUSTOM_KERNEL".split()
VISIBLE = ("sim_ops.cc",)  # custom operations register through symbols that must be visible to paddle
LINK = "-Wl,--no-as-needed -l:libphi_core.so -l:libcommon.so -Wl,-z,defs".split()
# Variables that are removed: a new process must set them itself, and an outer process may have set them.
CLEARED = ("FLAGS_", "SIM_NPU_", "CUSTOM_DEVICE_", "PADDLE_TRAINER", "OMP_NUM_THREADS", "ASCEND_")
STATISTIC = re.compile(r"(h2d|d2h|d2d) (\d+) \(([\d.]+) MB\)")
PEAK = re.compile(r"peak ([\d.]+) MB")
COLLECTIVE = re.compile(r"^\[sim_npu\] xccl (\w+) (\d+) \(([\d.]+) MB\)", re.MULTILINE)


@dataclass(frozen=True)
class Statistics:
    """Statistics of a process on its card: copies and megabytes by kind (h2d, d2h, d2d), and peak memory."""

    copies: dict[str, int]
    megabytes: dict[str, float]
    peak_megabytes: float


@dataclass(frozen=True)
class Finished:
    """A process that has ended.

    statistics: one entry per process that exited normally, in the order of the exits. collectives: name -> number of
    calls in all processes.
    """

    returncode: int
    output: str
    errors: str
    statistics: tuple[Statistics, ...]
    collectives: dict[str, int]

    @property
    def text(self) -> str:
        """Return standard output and standard error."""
        return self.output + self.errors


def missing() -> str | None:
    """Return why this machine cannot build the plugin, or None if it can."""
    if platform.system() != "Linux":
        return f"the simulated device is built on Linux only, not on {platform.system()}"
    if shutil.which(compiler()) is None:
        return f"no C++ compiler {compiler()!r} for the simulated device (on Debian and Ubuntu: apt install g++)"
    return None


def compiler() -> str:
    """Return the name of the compiler: $CXX, or else g++."""
    return os.environ.get("CXX", "g++")


@functools.cache
def build() -> Path:
    """Return the folder of the plugin for the installed paddle, for CUSTOM_DEVICE_ROOT; build it if it is not cached.

    Raises RuntimeError with the compiler's output.
    """
    folder = cache_folder() / _key()
    if (folder / LIBRARY).is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / ".lock"):
        if not (folder / LIBRARY).is_file():  # another process has not built it meanwhile
            with tempfile.TemporaryDirectory(prefix="build-", dir=folder.parent) as scratch:
                _compile(Path(scratch)).replace(folder / LIBRARY)  # atomically, in case that this process is killed
    return folder


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time enter; the others wait."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cache_folder() -> Path:
    """Return where builds are kept, outside the checkout."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "paddlemix-npu-sim"


def paddle_folder() -> Path:
    """Return where paddle is installed, without importing it."""
    spec = importlib.util.find_spec("paddle")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _key() -> str:
    """Return a name for what the plugin is made of: sources, paddle's version and commit, compiler, processor."""
    seen = hashlib.sha256()
    sources = [*PLUGIN.glob("*.cc"), *PLUGIN.glob("*.h"), Path(__file__).parent / "half_kernels.py"]
    for path in sorted(sources):
        seen.update(path.name.encode() + path.read_bytes())
    seen.update(repr((FLAGS, VISIBLE, LINK, NUM_HALF_FILES)).encode())
    seen.update((paddle_folder() / "version" / "__init__.py").read_bytes())
    seen.update(subprocess.run([compiler(), "--version"], capture_output=True, check=True).stdout)
    seen.update(platform.machine().encode())
    return seen.hexdigest()[:16]


def _compile(scratch: Path) -> Path:
    include = paddle_folder() / "include"
    sources = [*write_sources(include, scratch, NUM_HALF_FILES), *sorted(PLUGIN.glob("*.cc"))]
    flags = [*FLAGS, f"-I{PLUGIN}", f"-I{include}", f"-I{include / 'third_party'}"]

    def compile_one(source: Path) -> Path:
        hidden = [] if source.name in VISIBLE else ["-fvisibility=hidden"]
        target = scratch / f"{source.stem}.o"
        _call([compiler(), *flags, *hidden, "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = [str(path) for path in pool.map(compile_one, sources)]
    made = scratch / LIBRARY
    link = ["-shared", f"-Wl,-soname,{LIBRARY}", f"-L{paddle_folder() / 'libs'}", *objects, *LINK]
    _call([compiler(), *link, "-o", str(made)])
    return made


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")


def run(
    arguments: list[str | Path],
    *,
    num_cards: int = 1,
    is_strict: bool = False,
    environment: dict[str, str] | None = None,
    typed: str | None = None,
    folder: Path | None = None,
    timeout: float = 300,
) -> Finished:
    """Run `python arguments` with the plugin installed and no other variable of the NPU set.

    is_strict: only those float16 and bfloat16 kernels that the real backend has. environment: additional variables.
    typed: standard input. folder: the working directory. Raises subprocess.TimeoutExpired after `timeout` seconds and
    kills every process that it started.
    """
    strict = {"SIM_NPU_STRICT": "1"} if is_strict else {}
    variables = {**card_environment(num_cards), "SIM_NPU_STATS": "1", **strict, **(environment or {})}
    command = [sys.executable, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=variables, cwd=folder, text=True, start_new_session=True, **pipes)
    try:
        output, errors = process.communicate(typed, timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # including the children of a launcher
        process.communicate()
        raise
    return Finished(process.returncode, output, errors, *read_statistics(errors))


def card_environment(num_cards: int) -> dict[str, str]:
    """Return the environment of a process that has so many cards."""
    return {**plain_environment(), "CUSTOM_DEVICE_ROOT": str(build()), "SIM_NPU_COUNT": str(num_cards)}


def plain_environment() -> dict[str, str]:
    """Return this process's environment without variables of devices, with the repository as PYTHONPATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(CLEARED)}
    return {**kept, "PYTHONPATH": str(ROOT), "PADDLEMIX_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def read_statistics(errors: str) -> tuple[tuple[Statistics, ...], dict[str, int]]:
    """Return the plugin's statistics for each process, and the calls of each collective in all processes."""
    found = []
    for line in errors.splitlines():
        kinds = STATISTIC.findall(line)
        peak = PEAK.search(line)
        if line.startswith("[sim_npu] h2d") and peak:
            copies = {kind: int(number) for kind, number, _ in kinds}
            megabytes = {kind: float(size) for kind, _, size in kinds}
            found.append(Statistics(copies, megabytes, float(peak.group(1))))
    collectives: dict[str, int] = {}
    for name, number, _ in COLLECTIVE.findall(errors):
        collectives[name] = collectives.get(name, 0) + int(number)
    return tuple(found), collectives

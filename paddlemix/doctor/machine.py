"""Checks of what a run stands on: versions, the device and its arithmetic, the disk."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from packaging.requirements import Requirement
from packaging.version import Version

from .. import device as devices
from ..accelerators import PADDLES, version_of
from ..terminal.sizes import in_bytes, in_memory
from .check import Check

REQUIREMENTS = Path(__file__).parents[3] / "requirements.txt"
PYTHON = ((3, 10), (3, 12))
NAMED = ("paddlenlp", "numpy")
NEEDED = ("paddlepaddle", "paddlenlp")  # of the others another version may do
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}  # TF32 and half precision round


def check_versions(check: Check) -> None:
    """Compare what is installed with the bounds of requirements.txt."""
    check.say(f"python {platform.python_version()}, paddle {paddle.__version__}, {_installed_list()}")
    if not PYTHON[0] <= sys.version_info[:2] <= PYTHON[1]:
        check.warn("the package is tested with Python 3.10 to 3.12", "make an environment with one of these")
    for requirement in _requirements():
        version = _version(requirement.name)
        wanted = f"{requirement.name}{requirement.specifier}"
        if version is None:
            check.fail(f"{requirement.name} is not installed: expected {wanted}", "pip install -r requirements.txt")
        elif not requirement.specifier.contains(_release(requirement.name, version), prereleases=True):
            tell = check.fail if requirement.name in NEEDED else check.warn
            tell(f"{requirement.name} is {version}: expected {wanted}", f"pip install '{wanted}'")


def _installed_list() -> str:
    return ", ".join(f"{name} {_version(name) or 'missing'}" for name in NAMED)


def _requirements() -> list[Requirement]:
    """Return the bounds of a checkout, or of the installed package."""
    if REQUIREMENTS.is_file():
        lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    else:
        lines = [line for line in importlib.metadata.requires("paddlemix") or () if "extra ==" not in line]
    return [Requirement(line) for line in lines if line]


def _version(name: str) -> str | None:
    if name in PADDLES:  # another build under another name will do
        return paddle.__version__
    return version_of(name)


def _release(name: str, version: str) -> str:
    """Return the version to judge: a nightly of paddle's, with which plugins pair, stands for its release.

    A build from source without a version (0.0.0) is not judged: it passes for the oldest that will do.
    """
    if name not in PADDLES:
        return version
    release = Version(version).base_version
    return release if any(Version(release).release) else "3.0.0"


def check_device(check: Check, device: str, dtype: str, is_asked_for: bool) -> None:
    """Run what training is made of, forward and backward, and compare with NumPy. dtype: that will be computed in."""
    memory = devices.device_memory(device)
    size = "memory not known" if memory is None else f"{in_memory(memory[1])} of {in_memory(memory[0])} free"
    check.say(f"{device}, {size}; computes in {dtype}")
    check.values |= {"device": device, "dtype": dtype, "memory": memory and {"total": memory[0], "free": memory[1]}}
    if is_asked_for and dtype == "float32":
        check.warn("16 bits are asked for, which this device cannot compute in: it will take float32, twice the memory")
    for name in dict.fromkeys(("float32", dtype)):
        wrong = {operation: text for operation, text in try_operations(name).items() if text}
        for operation, text in wrong.items():
            check.fail(f"{operation} in {name}: {text}", "see README.md on the installation for this device")
        if not wrong:
            check.say(f"{name}: matrix product, convolution and embedding, forward and backward, equal NumPy's")


def try_operations(dtype: str) -> dict[str, str]:
    """Return for each operation what is wrong with it, "" for nothing."""
    draw = np.random.default_rng(0).standard_normal
    x, w = draw([8, 16]).astype(np.float32), draw([16, 4]).astype(np.float32)
    picture, kernel = draw([2, 3, 4, 4]).astype(np.float32), draw([5, 3, 2, 2]).astype(np.float32)
    table, index = draw([10, 6]).astype(np.float32), np.array([1, 3, 3])
    patches = picture.reshape([2, 3, 2, 2, 2, 2]).transpose([0, 2, 4, 1, 3, 5]).reshape([2, 2, 2, 12])
    folded = (patches @ kernel.reshape([5, 12]).T).transpose([0, 3, 1, 2])
    counts = np.bincount(index, minlength=10)[:, None] * np.ones([1, 6])
    sums = picture.reshape([2, 3, 2, 2, 2, 2]).sum(axis=(0, 2, 4))
    return {
        "matrix product": _try(dtype, lambda a: paddle.matmul(paddle.to_tensor(x, dtype=dtype), a), w, x @ w,
                               np.repeat(x.sum(0)[:, None], 4, 1)),
        "convolution": _try(dtype, lambda a: F.conv2d(paddle.to_tensor(picture, dtype=dtype), a, stride=2), kernel,
                            folded, np.repeat(sums[None], 5, 0)),
        "embedding": _try(dtype, lambda a: F.embedding(paddle.to_tensor(index), a), table, table[index], counts),
    }  # fmt: skip


def _try(dtype: str, run: Callable, values: np.ndarray, expected: np.ndarray, gradient: np.ndarray) -> str:
    try:
        # Cast on the device, since not all of them take half precision from the host.
        argument = paddle.to_tensor(values).astype(dtype)
        argument.stop_gradient = False
        result = run(argument)
        result.astype("float32").sum().backward()
        pairs = [(result, expected, "result"), (argument.grad, gradient, "gradient")]
        for found, wanted, name in pairs:
            error = float(np.abs(found.astype("float32").numpy() - wanted).max() / np.abs(wanted).max())
            if not error < TOLERANCE[dtype]:
                return f"the {name} differs from NumPy's by {error:.1e} of its size"
    except (RuntimeError, NotImplementedError, ValueError, OSError) as error:
        return str(error).strip().splitlines()[-1]
    return ""


def check_disk(check: Check, output_dir: Path, checkpoint_bytes: int, result_bytes: int, num_kept: int | None) -> None:
    """Compare what a run will write with what is free. num_kept: checkpoints on the disk at a time, None for any."""
    place = next(folder for folder in (output_dir.absolute(), *output_dir.absolute().parents) if folder.is_dir())
    if not os.access(place, os.W_OK):
        check.fail(f"{place} cannot be written to", "choose another output_dir")
        return
    free = shutil.disk_usage(place).free
    # The new checkpoint is written before the oldest one is deleted.
    needed = result_bytes + checkpoint_bytes * (2 if num_kept is None else num_kept + 1)
    check.values |= {"free": free, "needed": needed, "checkpoint": checkpoint_bytes}
    check.say(
        f"{output_dir}: {in_bytes(free)} free; a checkpoint takes {in_bytes(checkpoint_bytes)}, all {in_bytes(needed)}"
    )
    if num_kept is None and checkpoint_bytes:
        check.warn("save_total_limit is not set, so that every checkpoint stays", 'set "save_total_limit"')
    if needed > free:
        check.fail("the disk is too small", 'free some of it, or set "save_total_limit" lower')

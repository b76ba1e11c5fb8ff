"""Files of an Ascend machine for tests: an npu-smi that prints tables, device files, CANN."""

from __future__ import annotations

import platform
from pathlib import Path

LINE = "+------------------+---------------+----------------------+"
HEAD = """| npu-smi {version}        Version: {version}      |
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |"""
CARD = """| {number}     {model}               | {health}            | 89.9        39         0    / 0             |
| 0                         | 0000:41:00.0  | 0           0    / 0          {used} / 65536         |"""
REST = """| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
| No running processes found in NPU 0                                                            |"""


def table(cards=(("910B3", "OK", 3350),), version: str = "24.1.0") -> str:
    """Return what `npu-smi info` prints for cards of (model, health, used MB)."""
    rows = [
        CARD.format(number=number, model=model, health=health, used=used)
        for number, (model, health, used) in enumerate(cards)
    ]
    return "\n".join([LINE, HEAD.format(version=version), LINE, *rows, LINE, REST])


def write_smi(folder: Path, output: str, code: int = 0) -> Path:
    """Write an npu-smi to a folder that is on PATH."""
    folder.mkdir(exist_ok=True)
    tool = folder / "npu-smi"
    usages = "HBM Capacity(MB) : 65536\nHBM Usage Rate(%) : 5"
    tool.write_text(
        f'#!/bin/sh\nif [ "$2" = "-t" ]; then echo "{usages}"; exit 0; fi\ncat <<"END"\n{output}\nEND\nexit {code}\n'
    )
    tool.chmod(0o755)
    return folder


def write_cann(folder: Path, version: str = "8.0.0", has_kernels: bool = True) -> Path:
    """Write what CANN leaves of itself in its folder."""
    info = folder / f"{platform.machine()}-linux" / "ascend_toolkit_install.info"
    info.parent.mkdir(parents=True)
    info.write_text(f"package_name=Ascend-cann-toolkit\nversion={version}\ninnerversion=V100R001\n")
    kernels = folder / "opp/built-in/op_impl/ai_core/tbe" / ("kernel" if has_kernels else "impl")
    kernels.mkdir(parents=True)
    (folder.parent / "set_env.sh").touch()
    return folder

"""Paddle's device plugins (Ascend and others): environment variables, matching versions, and why loading fails.

Nothing here imports paddle, because all of it is needed before that import.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .packages import NIGHTLY, missing_text
from .terminal.log import notice

# Known-good values for Ascend (reference: PaddleMIX's documents and PaddleCustomDevice's npu backend).
NPU_ENVIRONMENT = {
    "FLAGS_npu_storage_format": "0",
    "FLAGS_use_stride_kernel": "0",
    "FLAGS_npu_jit_compile": "0",
    "FLAGS_npu_scale_aclnn": "True",
    "FLAGS_npu_split_aclnn": "True",
    "FLAGS_allocator_strategy": "auto_growth",
    "CUSTOM_DEVICE_BLACK_LIST": "set_value,set_value_with_tensor",
}
ROOT_VARIABLE = "CUSTOM_DEVICE_ROOT"
PADDLES = ("paddlepaddle", "paddlepaddle-gpu")
STATIC_TLS = re.compile(r"(\S+\.so[\w.]*): cannot allocate memory in static TLS block")
NOT_OPENED = re.compile(r"Fail to open library: (\S+) with error: (.*)")
SMI_SECONDS = 10
SMI_CAPACITY = re.compile(r"(?:HBM|DDR|Memory) Capacity\(MB\)\s*:\s*(\d+)")
SMI_RATE = re.compile(r"(?:HBM|DDR|Memory) Usage Rate\(%\)\s*:\s*(\d+)")


def plugin_folder() -> Path | None:
    """Return the folder that paddle loads its plugins from, None if there is none."""
    root = os.environ.get(ROOT_VARIABLE)
    if root is not None:
        folder = Path(root) if root else None
    else:
        spec = importlib.util.find_spec("paddle")
        folder = Path(spec.origin).parents[1] / "paddle_custom_device" if spec and spec.origin else None
    return folder if folder is not None and folder.is_dir() else None


def has_plugin(kind: str) -> bool:
    """Return whether there is a plugin for a kind of device, by the name of its library (libpaddle-custom-npu.so)."""
    folder = plugin_folder()
    return folder is not None and any(kind in re.split(r"[-_.]", path.name) for path in folder.glob("*.so"))


def wanted_environment(device: str | None) -> dict[str, str]:
    """Return the variables that a device needs. None means the best device: an Ascend if its plugin is installed."""
    kind = (device or "").split(":")[0]
    if kind == "npu" or (not kind and has_plugin("npu")):
        return dict(NPU_ENVIRONMENT)
    if kind == "cpu" and plugin_folder() is not None:
        return {ROOT_VARIABLE: ""}  # with a plugin loaded, paddlenlp would use its device
    return {}


def report_environment(device: str | None, chosen: dict[str, str]) -> None:
    """Print in one line that variables were set for an Ascend, and which ones the user had set otherwise."""
    wanted = wanted_environment(device)
    mine = [f"{name}={chosen[name]}" for name in NPU_ENVIRONMENT if name in wanted and name in chosen]
    kept = [name for name in NPU_ENVIRONMENT if name in wanted and os.environ.get(name) != wanted[name]]
    is_first = os.environ.get("PADDLE_TRAINER_ID", "0") == "0"
    if mine and is_first:
        rest = f"; as you set them: {', '.join(f'{name}={os.environ[name]}' for name in kept)}" if kept else ""
        others = f" and {len(mine) - 1} more, as in env_npu.sh" if len(mine) > 1 else ""
        notice(f"set for npu: {mine[0]}{others}{rest}")


def check_versions(kind: str) -> None:
    """Compare the versions of paddle and of its plugin, which must be of one release.

    Raises ValueError if they are not. Nightly builds of different dates only cause a notice. A plugin built from
    source without a version (0.0.0) is not checked.
    """
    from packaging.version import Version

    name = f"paddle-custom-{kind}"
    plugin, (paddle_name, paddle) = version_of(name), paddle_version()
    if plugin is None or paddle is None or not any(Version(plugin).release):
        return
    if Version(plugin).release != Version(paddle).release:
        raise ValueError(
            f"{name} {plugin} does not fit {paddle_name} {paddle}: both must be of one release; "
            f"pip install 'paddlepaddle=={plugin}' (the CPU wheel), or {name} {paddle}"
        )
    if Version(plugin).public != Version(paddle).public:
        notice(f"{name} is {plugin} and {paddle_name} {paddle}: if it fails, install both of the same date")


def version_of(name: str) -> str | None:
    """Return the version of an installed distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def paddle_version() -> tuple[str, str | None]:
    """Return the name and the version of the installed paddle."""
    for name in PADDLES:
        if (version := version_of(name)) is not None:
            return name, version
    return PADDLES[0], None


def advice_for_missing(kind: str, num_cards: int | None) -> str:
    """Return advice for a device that is missing. num_cards: found by its plugin, None without a plugin."""
    if num_cards is not None and kind == "gpu":
        return "paddle finds no card: see nvidia-smi, and CUDA_VISIBLE_DEVICES"
    if num_cards is not None:
        looked = "npu-smi info" if kind == "npu" else "the vendor's tool"
        hidden = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
        where = f" (ASCEND_RT_VISIBLE_DEVICES is {hidden!r})" if kind == "npu" and hidden is not None else ""
        return f"its plugin is loaded but finds no card{where}: see {looked}; in a container pass the cards through"
    if kind == "gpu":
        return "install paddlepaddle-gpu for your CUDA version"
    if kind != "npu":
        return "check the name (gpu, npu or cpu), or install paddle's plugin for it"
    found, paddle = plugin_folder(), paddle_version()[1]
    where = f"{found} has none" if found else "none is installed"
    installed = f"; installed is paddlepaddle {paddle}" if paddle else ""
    return (
        f"paddle's plugin for it is missing ({where}): install CANN 8, then paddlepaddle {NIGHTLY} "
        f"and paddle-custom-npu {NIGHTLY}, or both in 3.0.0 (docs/en/ascend.md){installed}"
    )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise ValueError with cause and remedy instead of an error of loading: a package, paddle itself or a plugin."""
    try:
        yield
    except ModuleNotFoundError as error:
        text = missing_text(error.name or "")
        if text is None:
            raise
        raise ValueError(text) from None
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        text = explanation(str(error))
        if text is None:
            raise
        raise ValueError(text) from error


def explanation(text: str) -> str | None:
    """Return cause and remedy of a loading error in one line, None for another kind of error."""
    selected = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("FLAGS_selected_")]
    if "use wrong place" in text and selected:
        return (
            f"this process was given a card that does not exist ({' '.join(selected)}): name in --devices of "
            "paddle.distributed.launch only cards that this machine has; numbers start at 0"
        )
    full = STATIC_TLS.search(text)
    if full:
        library = full.group(1)
        return (
            f"{library} cannot be loaded this late (static TLS block, common on ARM machines): load it first, with "
            f"`export LD_PRELOAD={library}` before python"
        )
    failed = NOT_OPENED.search(text)
    if failed is None:
        return None
    library, reason = failed.groups()
    if "undefined symbol" in reason:
        paddle = paddle_version()[1]
        return f"{library} was built for another paddle than {paddle}: install matching versions ({reason.strip()})"
    return (
        f"paddle's plugin {library} cannot be loaded: {reason.strip()}; for Ascend install the driver and CANN 8, and "
        "`source /usr/local/Ascend/ascend-toolkit/set_env.sh` before python"
    )


def npu_memory(card: int) -> tuple[int, int] | None:
    """Return an Ascend card's total and free bytes as `npu-smi` states them, None if it does not.

    card: number in this process; ASCEND_RT_VISIBLE_DEVICES maps it to a card of the machine.
    """
    visible = [name for name in os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "").split(",") if name.strip().isdigit()]
    number = visible[card].strip() if card < len(visible) else str(card)
    tool = shutil.which("npu-smi")
    if tool is None:
        return None
    command = [tool, "info", "-t", "usages", "-i", number]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    capacities, rates = ([int(value) for value in pattern.findall(output)] for pattern in (SMI_CAPACITY, SMI_RATE))
    total = max(capacities, default=0) * 1024**2
    return (total, total * (100 - max(rates, default=0)) // 100) if total else None

"""The order of training stages: what a run starts from is often what another run, or `compose`, writes."""

from __future__ import annotations

import json
from pathlib import Path

COMPOSED = "-start"  # end of the folders that the recipes start stage 1 from


def check_start(name: str, config_folder: Path | None) -> None:
    """Raise ValueError for a model that an earlier stage has not written yet, before hubs are asked for it.

    name: model_name_or_path. config_folder: of the run's configuration, where those of the other stages lie.
    """
    if config_folder is None or Path(name).expanduser().exists():
        return
    for config in sorted(config_folder.glob("*.json")):
        if _output_of(config) != name:
            continue
        command = "pretrain" if "pretrain" in config.stem else "sft"
        raise ValueError(f"{name} does not exist yet: run the stage before first: paddlemix {command} {_short(config)}")
    if name.startswith("checkpoints/") and name.endswith(COMPOSED):
        raise ValueError(
            f"{name} does not exist yet: compose it first: paddlemix compose --language-model DIR --vision-tower DIR "
            f"--output {name}"
        )


def _output_of(config: Path) -> str | None:
    """Return output_dir of a configuration, None for a file that is none."""
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values.get("output_dir") if isinstance(values, dict) else None


def _short(path: Path) -> str:
    """Return a path from the current folder on, if it is below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

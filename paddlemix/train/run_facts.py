"""What a checkpoint belongs to: the model that a run began with, what it trains, and its data.

A run that goes on from a checkpoint with another model, rank or data would end with weights that no settings describe.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.output_folder import NOTE
from ..tensor_files.stored import read_json
from .results import fingerprint
from .run_folder import FORMAT, RUN

ENDINGS = (".safetensors", ".pdparams", ".bin")  # of weights
END_BYTES = 1 << 20  # of a weight file, at its beginning and end, that tell it from others
NONE = "none"
# What has to be the same, in the order in which differences are told; `model` and `data` are told by their names.
SAME = (
    "model",
    "lora_rank",
    "lora_alpha",
    "rslora",
    "lora_path",
    "quantization",
    "trained",
    "data",
    "num_rows",
    "template",
    "max_length",
    "packing",
)
ORDER = ("seed", "samples_per_step")  # what only the order of the rows hangs on
# What may be changed on the way, as where a loss has leapt.
LEARNING = (
    "learning_rate",
    "mm_projector_lr",
    "mm_vision_tower_lr",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "loss_reduction",
    "fp16",
    "bf16",
    "fp16_opt_level",
)


def describe_run(
    settings,
    *,
    home: Path,
    trained: Iterable[str],
    template: str,
    files: Iterable[str],
    num_rows: int,
    quantization: str | None,
) -> dict[str, Any]:
    """Return a run's facts, which JSON can hold.

    settings: as `arguments.parse` returns them. trained: the names of what trains; files: of the training data. Reads
    the data files as a whole and the ends of the weight files.
    """
    model_args, data_args, args = settings
    names = sorted(trained)
    return {
        "model": _named(home),
        "lora_rank": model_args.lora_rank if model_args.lora else NONE,
        "lora_alpha": model_args.lora_alpha if model_args.lora else NONE,
        "rslora": bool(model_args.lora and model_args.rslora),
        "lora_path": _named(model_args.lora_path) if model_args.lora and model_args.lora_path else NONE,
        "quantization": quantization or NONE,
        "trained": {"name": f"{len(names)} tensors", "fingerprint": _digest(*(name.encode() for name in names))},
        "data": [fingerprint(Path(file)) for file in files],
        "num_rows": num_rows,
        "template": template,
        "max_length": data_args.max_length,
        "packing": bool(data_args.packing or data_args.mixtoken),
        **{name: _plain(vars(args)[name]) for name in LEARNING},
        "seed": args.seed,
        "samples_per_step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
    }


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _named(folder: str | Path) -> dict[str, str]:
    return {"name": str(folder), "fingerprint": model_fingerprint(Path(folder))}


def model_fingerprint(home: Path) -> str:
    """Return a hash that other weights or another config change, of config files and the ends of weight files."""
    parts, others = [], {path.parent for path in home.glob(f"*/**/{NOTE}")}  # other commands' outputs inside it
    for path in sorted(home.rglob("*")):
        if not path.is_file() or any(part.startswith(("checkpoint-", ".")) for part in path.relative_to(home).parts):
            continue
        if others.intersection(path.parents):
            continue
        if path.name == "config.json":
            parts += [path.relative_to(home).as_posix().encode(), path.read_bytes()]
        elif path.suffix in ENDINGS:
            parts += [path.relative_to(home).as_posix().encode(), str(path.stat().st_size).encode(), *_ends(path)]
    return _digest(*parts)


def _ends(path: Path) -> tuple[bytes, bytes]:
    with path.open("rb") as file:
        start = file.read(END_BYTES)
        file.seek(max(path.stat().st_size - END_BYTES, 0))
        return start, file.read(END_BYTES)


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def read_facts(checkpoint: Path) -> dict[str, Any] | None:
    """Return the facts of a checkpoint, None for one that does not have them: an earlier version's, or PaddleMIX's."""
    path = Path(checkpoint) / RUN
    values = read_json(path) if path.is_file() else {}
    return values if FORMAT in values else None


def check_same(
    facts: Mapping[str, Any], checkpoint: Path, *, is_data_checked: bool, tell: Callable[[str], None]
) -> None:
    """Raise ValueError where a checkpoint belongs to a run with another model, adapter or data than facts say.

    tell: takes a line on what changes only the order of the rows.
    """
    before = read_facts(checkpoint)
    if before is not None:
        check_facts(before, facts, str(checkpoint), is_data_checked=is_data_checked)
        for text in differences(before, facts, ORDER):
            tell(f"{text}: rows of this epoch may come twice, or not at all")
        for text in differences(before, facts, [key for key in LEARNING if key in before]):
            tell(text)


def check_facts(
    before: Mapping[str, Any],
    facts: Mapping[str, Any],
    what: str,
    *,
    is_data_checked: bool,
    keys: Iterable[str] = SAME,
) -> None:
    """Raise ValueError where the facts of a run before differ. what: it is of that run. keys: what is compared."""
    keys = [key for key in keys if is_data_checked or key not in ("data", "num_rows")]
    found = differences(before, facts, keys)
    if found:
        raise ValueError(
            f"{what} is of a run with other settings: {'; '.join(found)}. Set overwrite_output_dir to begin anew "
            "in this folder, or name another output_dir"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Return what differs, as "key was this, and is that"."""
    found = []
    for key in keys:
        if _identity(before.get(key)) != _identity(now.get(key)):
            old, new = _shown(before.get(key)), _shown(now.get(key))
            found.append(f"{key} was {old}, and is {new if new != old else 'another one of that name'}")
    return found


def _identity(value: Any) -> Any:
    """Return what two values are compared by: a model's fingerprint, the hashes of data files, a number itself."""
    if isinstance(value, Mapping):
        return value.get("fingerprint")
    if isinstance(value, list):
        return [entry.get("sha256") if isinstance(entry, Mapping) else entry for entry in value]
    return value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name"))
    if isinstance(value, list):
        names = (entry.get("file") if isinstance(entry, Mapping) else entry for entry in value)
        return ", ".join(map(str, names)) or NONE
    return str(value)

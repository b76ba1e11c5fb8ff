"""The facts that identify a run: the model that it starts from, the parameters that train, and its data.

They are saved in checkpoints and compared before a run resumes: with another model, rank or data it would end with
weights that no settings describe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.output_folder import NOTE
from ..data.row_sequence import data_files
from ..fingerprint import fingerprint
from ..tensor_files.stored import read_json
from .arguments import RunArguments
from .config_file import plain
from .data_sets import DataSets
from .eval_tasks import best_metric_fact
from .run_folder import FORMAT, RUN

ENDINGS = (".safetensors", ".pdparams", ".bin")  # of weight files
END_BYTES = 1 << 20  # bytes at the beginning and the end of a weight file that its fingerprint is computed from
NONE = "none"
# Facts that must not differ, in the order in which differences are reported.
MUST_MATCH = (
    "model",
    "lora_rank",
    "lora_alpha",
    "vision_lora_rank",
    "vision_lora_alpha",
    "rslora",
    "lora_path",
    "quantization",
    "trained",
    "data",
    "num_rows",
    "template",
    "max_length",
    "packing",
    "metric_for_best_model",  # the best checkpoint so far is recorded with its value of this metric
)
ORDER = ("seed", "samples_per_step")  # facts that only the order of the rows depends on
# Facts that may change when a run resumes, for example after its loss has leapt.
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
    settings: RunArguments, model_folder: Path, model, data: DataSets, quantization: str | None
) -> dict[str, Any]:
    """Return a run's facts as JSON values.

    Reads the whole data files, and the beginnings and ends of the weight files.
    """
    model_args, data_args, args = settings
    names = sorted(name for name, parameter in model.named_parameters() if not parameter.stop_gradient)
    return {
        "model": _named(model_folder),
        "lora_rank": model_args.lora_rank if model_args.lora else NONE,
        "lora_alpha": model_args.lora_alpha if model_args.lora else NONE,
        "vision_lora_rank": model_args.vision_lora_rank if model_args.lora else None,
        "vision_lora_alpha": model_args.vision_lora_alpha if model_args.lora else None,
        "rslora": bool(model_args.lora and model_args.rslora),
        "lora_path": _named(model_args.lora_path) if model_args.lora and model_args.lora_path else NONE,
        "quantization": quantization or NONE,
        "trained": {"name": f"{len(names)} tensors", "fingerprint": _digest(*(name.encode() for name in names))},
        "data": [_data_file(file) for file in data_files(data.train_rows)],
        "num_rows": len(data.train_rows),
        "template": data.train_processor.template.name,
        "max_length": data_args.max_length,
        "packing": data_args.is_packed,
        "metric_for_best_model": best_metric_fact(args.metric_for_best_model, data.tasks),
        **{name: plain(vars(args)[name]) for name in LEARNING},
        "seed": args.seed,
        "samples_per_step": samples_per_step(args),
    }


def samples_per_step(args, num_readers: int | None = None) -> int:
    """Return how many samples one step trains, in all processes together.

    num_readers: processes that read other rows than the others, None for those of now.
    """
    num_readers = args.dataset_world_size if num_readers is None else num_readers
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * num_readers


def _data_file(file: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a data file; a cache has those of the files that it was made of."""
    return fingerprint(Path(file)) if isinstance(file, str) else {key: file[key] for key in ("file", "bytes", "sha256")}


def _named(folder: str | Path) -> dict[str, str]:
    return {"name": str(folder), "fingerprint": model_fingerprint(Path(folder))}


def model_fingerprint(folder: Path) -> str:
    """Return a hash of a model's config files and of its weight files' sizes, beginnings and ends."""
    parts, others = [], {path.parent for path in folder.glob(f"*/**/{NOTE}")}  # outputs of other commands inside it
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(("checkpoint-", ".")) for part in name.parts):
            continue
        if others.intersection(path.parents):
            continue
        if path.name == "config.json":
            parts += [name.as_posix().encode(), path.read_bytes()]
        elif path.suffix in ENDINGS:
            parts += [name.as_posix().encode(), str(path.stat().st_size).encode(), *_ends(path)]
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
    """Return a checkpoint's facts, None for a checkpoint of an earlier version or of PaddleMIX, which have none."""
    path = Path(checkpoint) / RUN
    values = read_json(path) if path.is_file() else {}
    return values if FORMAT in values else None


def check_checkpoint_facts(
    facts: Mapping[str, Any], checkpoint: Path, *, is_data_checked: bool, warn: Callable[[str], None]
) -> None:
    """Raise ValueError for a checkpoint of a run with another model, adapter or data. facts: of this run.

    warn: called with a line for each difference in the order of the rows or in the settings for learning.
    """
    before = read_facts(checkpoint)
    if before is not None:
        check_facts(before, facts, str(checkpoint), is_data_checked=is_data_checked)
        for text in differences(before, facts, ORDER):
            warn(f"{text}: rows of this epoch may come twice, or not at all")
        for text in differences(before, facts, [key for key in LEARNING if key in before]):
            warn(text)


def check_facts(
    before: Mapping[str, Any],
    facts: Mapping[str, Any],
    what: str,
    *,
    is_data_checked: bool,
    keys: Iterable[str] = MUST_MATCH,
) -> None:
    """Raise ValueError if a run's facts differ from those of an earlier run. what: an output of the earlier run."""
    keys = [key for key in keys if is_data_checked or key not in ("data", "num_rows")]
    found = differences(before, facts, keys)
    if found:
        raise ValueError(
            f"{what} is of a run with other settings: {'; '.join(found)}. Set overwrite_output_dir to start afresh "
            "in this folder, or name another output_dir"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Return a text for each key whose values differ: "key was this, and is that"."""
    found = []
    for key in keys:
        if _identity(before.get(key)) != _identity(now.get(key)):
            old, new = _shown(before.get(key)), _shown(now.get(key))
            found.append(f"{key} was {old}, and is {new if new != old else 'another one with the same name'}")
    return found


def _identity(value: Any) -> Any:
    """Return what a fact is compared by: a model's fingerprint, the hashes of data files, or else the value itself."""
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
    return NONE if value is None else str(value)

"""LoRA folders in PaddleMIX's format: lora_model_state.pdparams and lora_config.json.

The file holds `<layer>.lora_A` [in, r] and `<layer>.lora_B` [r, out] under PaddleMIX's names, and whole the other
tensors that were trained (projector, image_newline). Merging is W + A B * scaling (Hu et al. 2021).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import paddle

from .files import CheckpointError, StoredTensor, preview, read_json
from .layouts import paddlemix
from .pdparams import open_pdparams

WEIGHTS, CONFIG = "lora_model_state.pdparams", "lora_config.json"
BASE_KEY = "base_model_name_or_path"


def is_adapter(path: Path) -> bool:
    return (Path(path) / CONFIG).is_file()


def remove_adapter(path: Path) -> None:
    """Delete an adapter's files from a folder that a whole model was written to, which would be read as one."""
    for name in (CONFIG, WEIGHTS):
        (Path(path) / name).unlink(missing_ok=True)


def base_of(path: Path) -> Path:
    """Return the folder of the model that an adapter was trained on. Raises CheckpointError if it is not known."""
    base = read_json(path / CONFIG).get(BASE_KEY)
    if not base:
        raise CheckpointError(
            f"{path} is a LoRA folder whose {CONFIG} does not name its base model ({BASE_KEY}): merge it first with "
            "merge_lora_params.py --model_name_or_path BASE --lora_path THIS --merge_model_path OUT"
        )
    for place in (Path(base), path / base):
        if place.is_dir() and place.resolve() != path.resolve():
            return place
    raise CheckpointError(f"{path} is a LoRA folder for the base model {base}, which does not exist (any more)")


def read_adapter(path: Path, config) -> dict[str, StoredTensor]:
    """Return an adapter's tensors under our names. Raises CheckpointError for unknown names and incomplete pairs."""
    path = Path(path)
    if not (path / WEIGHTS).is_file():
        raise CheckpointError(f"{path} has {CONFIG} but no {WEIGHTS}: the adapter's weights are missing")
    table = paddlemix.table(config)
    found, unknown = {}, []
    for name, tensor in open_pdparams(path / WEIGHTS).items():
        if paddlemix.is_dropped(name, config):
            continue
        translated = _translate(table.to_ours, name)
        if translated is None:
            unknown.append(name)
        else:
            found[translated] = tensor
    if unknown:
        raise CheckpointError(f"{path / WEIGHTS} holds tensors that nobody knows: {preview(sorted(unknown))}")
    _check_pairs(path, found)
    return found


def to_paddlemix_name(name: str, config) -> str:
    """Return PaddleMIX's name of a parameter, a LoRA factor included."""
    translated = _translate(paddlemix.table(config).to_theirs, name)
    assert translated is not None, name
    return translated


def _translate(translate, name: str) -> str | None:
    """Translate a name; a LoRA factor goes by the name of the weight that it changes."""
    stem, _, tail = name.rpartition(".")
    is_factor = tail in ("lora_A", "lora_B")
    target = translate(f"{stem}.weight" if is_factor else name)
    if target is None:
        return None
    return f"{target[0].removesuffix('.weight')}.{tail}" if is_factor else target[0]


def _check_pairs(path: Path, tensors: dict) -> None:
    stems = {tail: {name[:-7] for name in tensors if name.endswith(tail)} for tail in (".lora_A", ".lora_B")}
    odd = sorted(stems[".lora_A"] ^ stems[".lora_B"])
    if odd:
        raise CheckpointError(f"{path / WEIGHTS}: only one of lora_A and lora_B is there for {preview(odd)}")
    if not stems[".lora_A"]:
        raise CheckpointError(f"{path / WEIGHTS} holds no lora_A and lora_B at all, so it is not an adapter")


def rank_of(path: Path) -> int:
    """Return r of an adapter's config. Raises CheckpointError."""
    rank = read_json(Path(path) / CONFIG).get("r")
    if not isinstance(rank, int) or rank < 1:
        raise CheckpointError(f"{Path(path) / CONFIG} has r {rank!r}, expected a number of at least 1")
    return rank


def scaling_of(path: Path) -> float:
    """Return alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA. Raises for variants that cannot be merged."""
    values = read_json(Path(path) / CONFIG)
    rank = rank_of(path)
    try:
        alpha = float(values["lora_alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{Path(path) / CONFIG} needs 'lora_alpha' as a number: {error!r}") from None
    for variant in ("pissa", "loraga", "lora_use_mixer", "use_mora", "mora"):
        if values.get(variant):
            raise CheckpointError(f"{Path(path) / CONFIG}: {variant} is set, which cannot be merged here")
    return alpha / math.sqrt(rank) if values.get("rslora") else alpha / rank


def merge_into(model, path) -> None:
    """Put the tensors that an adapter holds whole into its base model, and add its products in float32."""
    path = Path(path)
    scaling = scaling_of(path)
    parameters = dict(model.named_parameters())
    tensors = read_adapter(path, model.config)
    _check_fit(path, parameters, tensors)
    for name, tensor in tensors.items():
        if not name.endswith((".lora_A", ".lora_B")):
            parameters[name].set_value(paddle.to_tensor(_widened(tensor)).astype(parameters[name].dtype))
    for name, tensor in tensors.items():  # after that, since a layer may have trained whole and with an adapter
        stem, _, tail = name.rpartition(".")
        if tail == "lora_A":
            delta = _widened(tensor) @ _widened(tensors[f"{stem}.lora_B"]) * np.float32(scaling)
            weight = parameters[f"{stem}.weight"]
            weight.set_value((weight.astype("float32") + paddle.to_tensor(delta)).astype(weight.dtype))


def _check_fit(path: Path, parameters: dict, tensors: dict[str, StoredTensor]) -> None:
    rank = rank_of(path)
    wrong, odd = [], []
    for name, tensor in tensors.items():
        stem, _, tail = name.rpartition(".")
        if tail == "lora_B":
            continue
        shape = tuple(tensor.shape)
        if tail == "lora_A":
            second = tuple(tensors[f"{stem}.lora_B"].shape)
            if shape[1:] != (rank,) or second[:1] != (rank,) or len(second) != 2:
                odd.append(f"{stem} ({list(shape)} and {list(second)})")
                continue
            shape = (shape[0], second[1])
        target = parameters.get(f"{stem}.weight" if tail == "lora_A" else name)
        if target is None or tuple(target.shape) != shape:
            wrong.append(f"{name} {list(shape)}")
    if odd:
        raise CheckpointError(
            f"{path / WEIGHTS} has factors that are not of rank {rank} (r of {CONFIG}): {preview(odd)}"
        )
    if wrong:
        raise CheckpointError(f"{path} was trained on another model, these do not fit the base: {preview(wrong)}")


def _widened(tensor: StoredTensor) -> np.ndarray:
    """Return float32 values."""
    if tensor.dtype == "bfloat16":
        return (tensor.values.astype(np.uint32) << 16).view(np.float32)
    return tensor.values.astype(np.float32)

"""From a folder in any known layout to a model."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import paddle

from .. import device as devices
from ..models.config import LlavaConfig
from ..models.llava import LlavaForConditionalGeneration
from . import lora
from .files import CheckpointError, StoredTensor, preview
from .layouts import detect


def read_config(path) -> LlavaConfig:
    """Read a folder's configuration without its weights. Raises CheckpointError."""
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[ModuleType, LlavaConfig]:
    """Return a folder's layout and configuration."""
    layout, raw = detect(path)
    try:
        return layout, layout.read_config(path, raw)
    except CheckpointError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path / 'config.json'} cannot be used: {error}") from error


def load_model(path, *, dtype: str | None = None, device: str | None = None) -> LlavaForConditionalGeneration:
    """Load a model folder, or a LoRA folder together with its base (the adapter comes merged).

    dtype None: as stored, where the device can compute in it, else float32. device None: the best there is.
    Raises CheckpointError with the lists of missing, unexpected and misshapen tensors.
    """
    path = Path(path)
    if lora.is_adapter(path):
        model = load_model(lora.base_of(path), dtype=dtype, device=device)
        lora.merge_into(model, path)
        return model
    layout, config = _read(path)
    devices.use_device(device)
    dtype = devices.choose_dtype(dtype, stored=config.dtype)
    model = build_model(config, dtype)
    fill(model, our_tensors(path, layout, config))
    model.eval()
    return model


def build_model(config: LlavaConfig, dtype: str) -> LlavaForConditionalGeneration:
    """Make a model whose parameters have `dtype` and hold zeros."""
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        return LlavaForConditionalGeneration(config)
    finally:
        paddle.set_default_dtype(before)


def our_tensors(path: Path, layout, config: LlavaConfig) -> dict[str, tuple[StoredTensor, bool]]:
    """Return our name -> (tensor, is_transposed) for every tensor of a folder. Raises for names that no rule knows."""
    table = layout.table(config)
    found: dict[str, tuple[StoredTensor, bool]] = {}
    unexpected = []
    for name, tensor in layout.open_tensors(path).items():
        name = layout.canonical(name)
        if layout.is_dropped(name, config):
            continue
        target = (name, False) if table is None else table.to_ours(name)
        if target is None:
            unexpected.append(name)
        elif target[0] in found:
            raise CheckpointError(f"{path} holds two tensors for {target[0]}, one of them under the name {name}")
        else:
            found[target[0]] = (tensor, target[1])
    if unexpected:
        names = preview(sorted(unexpected))
        raise CheckpointError(f"{path} holds {len(unexpected)} tensors that nobody knows: {names}")
    return found


def fill(model: LlavaForConditionalGeneration, tensors: dict[str, tuple[StoredTensor, bool]]) -> None:
    """Copy tensors into the parameters; every parameter must get one of its own shape, and none may be left over."""
    parameters = dict(model.named_parameters())
    problems = []
    for title, names in (
        ("missing", sorted(set(parameters) - set(tensors))),
        ("unexpected", sorted(set(tensors) - set(parameters))),
        ("of another shape", _misshapen(parameters, tensors)),
    ):
        if names:
            problems.append(f"{len(names)} {title}: {preview(names)}")
    if problems:
        raise CheckpointError("the weights do not fit the model that config.json describes; " + "; ".join(problems))
    for name, (tensor, is_transposed) in tensors.items():
        put(parameters[name], tensor, is_transposed)


def _misshapen(parameters, tensors) -> list[str]:
    wrong = []
    for name in sorted(set(parameters) & set(tensors)):
        tensor, is_transposed = tensors[name]
        shape = tensor.shape[::-1] if is_transposed else tensor.shape
        if tuple(parameters[name].shape) != tuple(shape):
            wrong.append(f"{name} ({list(shape)}, expected {list(parameters[name].shape)})")
    return wrong


def put(parameter, tensor: StoredTensor, is_transposed: bool) -> None:
    """Copy one tensor into a parameter of any float dtype."""
    values = tensor.values.T if is_transposed else tensor.values
    parameter.set_value(as_paddle(np.ascontiguousarray(values), tensor.dtype).astype(parameter.dtype))


def as_paddle(values: np.ndarray, dtype: str):
    """Make a paddle tensor; bfloat16 comes as bits in uint16 and is widened, which loses nothing."""
    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return paddle.to_tensor(values)

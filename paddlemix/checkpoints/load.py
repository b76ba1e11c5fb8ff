"""From a folder in any known layout to a model."""

from __future__ import annotations

import dataclasses
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import paddle

from .. import device as devices
from ..hub import hub
from ..models.config import LlavaConfig
from ..models.llava import LlavaForConditionalGeneration
from ..models.quantized import QuantizedLinear, quantize_layers, quantized_layers
from ..ops.host_memory import new_memory
from ..ops.quantize import check_kind
from ..tensor_files.copying import copy_into
from ..tensor_files.stored import CheckpointError, StoredTensor, preview
from ..tensor_files.transforms import contiguous
from .adapters import Oriented
from .quantized import to_codes
from .side_files import NOTED, SideFiles
from .source import our_tensors, read_source
from .source import read_config as read_config  # callers of load find it here

NUM_READERS = 2


def load_model(
    path,
    *,
    base=None,
    dtype: str | None = None,
    device: str | None = None,
    quantization: str | None = None,
    base_quantization: str | None = NOTED,
) -> LlavaForConditionalGeneration:
    """Load a model folder of any layout, or side files together with their base (adapters come merged).

    path, base: folders, or names that a hub knows; base None takes the one that the side files name. dtype None: as
    stored, where the device can compute in it, else float32. device None: the best there is.
    quantization: "int8" or "nf4" holds the weights of the decoder's linear layers as codes (`models.quantized`), made
    one tensor at a time; adapters then stay beside them in dtype. base_quantization: what the base's weights are
    rounded to before an adapter is merged into them, NOTED for what its config says that it was trained over.
    Raises CheckpointError with the lists of missing, unexpected and misshapen tensors.
    """
    check_kind(quantization)
    path = hub.resolve(path)
    layout, config = read_source(path, base, merge_dtype="float32")  # so that what is merged is rounded once
    if isinstance(layout, SideFiles):
        layout = dataclasses.replace(layout, base_quantization=base_quantization)
    devices.use_device(device)
    dtype = devices.choose_dtype(dtype, stored=config.dtype)
    model = build_model(config, dtype, quantization, is_empty=True)
    fill(model, our_tensors(path, layout, config), path)
    model.eval()
    return model


def build_model(
    config: LlavaConfig, dtype: str, quantization: str | None = None, *, is_empty: bool = False
) -> LlavaForConditionalGeneration:
    """Make a model whose parameters have `dtype` and hold zeros; layers for codes hold nothing yet.

    is_empty: the parameters have no memory either before `fill` gives them some, which then nobody clears in vain.
    """
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        if quantization is None and not is_empty:
            return LlavaForConditionalGeneration(config)
        with paddle.LazyGuard():  # so that the weights that codes stand in for are never made
            model = LlavaForConditionalGeneration(config)
        if quantization is not None:
            quantize_layers(model.language_model, quantization)
        for parameter in () if is_empty else model.parameters():
            parameter.initialize()
        return model
    finally:
        paddle.set_default_dtype(before)


def fill(model: LlavaForConditionalGeneration, tensors: dict[str, Oriented], source) -> None:
    """Copy tensors into the parameters, or as codes into the layers that hold such.

    Each must get one of its own shape, and none may be left over. source: the folder, for messages. Raises
    CheckpointError.
    """
    parameters: dict[str, Any] = dict(model.named_parameters())
    parameters |= {f"{name}.weight": layer for name, layer in quantized_layers(model).items()}
    problems = []
    for title, names in (
        ("missing", sorted(set(parameters) - set(tensors))),
        ("unexpected", sorted(set(tensors) - set(parameters))),
        ("of another shape", _misshapen(parameters, tensors)),
    ):
        if names:
            problems.append(f"{len(names)} {title}: {preview(names)}")
    if problems:
        raise CheckpointError(
            f"{source}: the weights do not fit the model that config.json describes; {'; '.join(problems)}"
        )
    try:
        _copy_all(parameters, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None


def _copy_all(parameters: dict[str, Any], tensors: dict[str, Oriented]) -> None:
    # Reading and turning take the time and need no paddle: a few tensors are got ready while others are copied.
    pending: deque[tuple[str, Future]] = deque()
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for name, (tensor, is_transposed) in tensors.items():
            slot = parameters[name]
            if isinstance(slot, QuantizedLinear):
                ready = readers.submit(to_codes, name, tensor, is_transposed, slot.kind)
            else:
                ready = readers.submit(_ready, slot, tensor, is_transposed, new_memory(slot))
            pending.append((name, ready))
            if len(pending) > NUM_READERS:
                _copy(parameters, tensors, *pending.popleft())
        while pending:
            _copy(parameters, tensors, *pending.popleft())


def _copy(parameters: dict, tensors: dict[str, Oriented], name: str, ready: Future) -> None:
    slot, values = parameters[name], ready.result()
    if isinstance(slot, QuantizedLinear):
        slot.put(*values)
    elif values is not None:
        _set(slot, values, tensors[name][0].dtype)


def as_oriented(parameters) -> dict[str, Oriented]:
    """Return parameters as stored tensors, brought to the host when they are asked for."""
    return {
        name: (StoredTensor(str(one.dtype).split(".")[-1], tuple(one.shape), one.numpy), False)
        for name, one in parameters.items()
    }


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
    _set(parameter, _ready(parameter, tensor, is_transposed), tensor.dtype)


def _ready(parameter, tensor: StoredTensor, is_transposed: bool, memory: np.ndarray | None = None) -> np.ndarray | None:
    """Return a tensor's values in the parameter's orientation, in float32 if that is what the parameter has.

    memory: the parameter's own, which gets them instead; then the result is None.
    """
    values = tensor.values.T if is_transposed else tensor.values
    if memory is not None:
        return copy_into(memory, values, tensor.dtype)
    return contiguous(values, tensor.dtype, widen=parameter.dtype == paddle.float32)


def _set(parameter, values: np.ndarray, dtype: str) -> None:
    if not parameter._is_initialized():
        parameter.initialize()
    if values.dtype == np.float32 and parameter.dtype == paddle.float32:
        parameter.set_value(values)
    else:
        parameter.set_value(as_paddle(values, dtype).astype(parameter.dtype))


def as_paddle(values: np.ndarray, dtype: str):
    """Make a paddle tensor; bfloat16 comes as bits in uint16 and is widened, which loses nothing."""
    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return paddle.to_tensor(values)

"""Loading a model from a checkpoint in any known layout."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from .. import device as devices
from ..hub.resolve import resolve
from ..models.config import LlavaConfig
from ..models.llava import Llava
from ..models.parallel.cards import Cards
from ..models.quantized import QuantizedLinear, quantize_layers, quantized_layers
from ..ops.host_memory import new_memory
from ..ops.quantize import check_kind
from ..tensor_files.copying import copy_into, widened
from ..tensor_files.stored import CheckpointError, StoredTensor
from ..tensor_files.transforms import contiguous
from .layouts.shapes import misfits
from .parts import cut_tensors
from .quantized import to_codes
from .source import AS_RECORDED, Source, open_source

NUM_READERS = max(2, min(8, len(os.sched_getaffinity(0))))


def load_model(
    source: str | Path | Source,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    device: str | None = None,
    quantization: str | None = None,
    base_quantization: str | None = AS_RECORDED,
    model_class: type[Llava] = Llava,
    cards: Cards | None = None,
) -> Llava:
    """Load a checkpoint of any layout, a partial one together with its base (adapters are merged).

    source: a folder, a name that a hub knows, or an open checkpoint. base: see `open_source`. dtype None: as stored if
    the device can compute in it, else float32. device None: the best one.
    quantization: "int8" or "nf4" keeps the weights of the decoder's linear layers as codes (`models.quantized`), made
    one tensor at a time. Adapters are then not merged but kept in dtype. base_quantization: what the base's weights are
    rounded to before an adapter is merged, AS_RECORDED for the quantization in the adapter's training.
    cards: those that share the decoder; this process then reads its part only.
    Raises CheckpointError with the lists of missing, unexpected and misshapen tensors.
    """
    check_kind(quantization)
    source = source if isinstance(source, Source) else open_source(resolve(source), base)
    # In float32, so that merged tensors are rounded once.
    source = dataclasses.replace(source, merge_dtype="float32", base_quantization=base_quantization)
    devices.use_device(device)
    dtype = devices.choose_dtype(dtype, stored=source.config.dtype)
    model = build_model(source.config, dtype, quantization, is_empty=True, model_class=model_class, cards=cards)
    fill(model, source.tensors, source.path)
    model.eval()
    return model


def build_model(
    config: LlavaConfig,
    dtype: str,
    quantization: str | None = None,
    *,
    is_empty: bool = False,
    model_class: type[Llava] = Llava,
    cards: Cards | None = None,
) -> Llava:
    """Make a model whose parameters have `dtype` and are zero. Layers for codes are empty.

    is_empty: the parameters are left unallocated until `fill`, which saves zeroing.
    """
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        if quantization is None and not is_empty:
            return model_class(config, cards)
        with paddle.LazyGuard():  # so that weights that are replaced by codes are never allocated
            model = model_class(config, cards)
        if quantization is not None:
            quantize_layers(model.language_model, quantization)
        for parameter in () if is_empty else model.parameters():
            parameter.initialize()
        return model
    finally:
        paddle.set_default_dtype(before)


def fill(model: Llava, tensors: Mapping[str, StoredTensor], source: Path) -> None:
    """Copy tensors into the parameters, or as codes into quantized layers; of a cut model this card's parts.

    The names and shapes must be those of the whole model. source: the folder, for messages. Raises CheckpointError.
    """
    parameters: dict[str, Any] = dict(model.named_parameters())
    parameters |= {f"{name}.weight": layer for name, layer in quantized_layers(model).items()}
    tensors = cut_tensors(tensors, model.cards)
    if problems := misfits({name: tuple(slot.shape) for name, slot in parameters.items()}, tensors):
        raise CheckpointError(f"{source}: the weights do not fit the model: {'; '.join(problems)}")
    try:
        _copy_all(parameters, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None


def _copy_all(parameters: dict[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    # Reading and transposing take most of the time and need no paddle, so that threads prepare a few tensors ahead.
    pending: deque[tuple[str, Future]] = deque()
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for name, tensor in tensors.items():
            slot = parameters[name]
            if isinstance(slot, QuantizedLinear):
                ready = readers.submit(to_codes, name, tensor, slot.kind)
            else:
                ready = readers.submit(_ready, slot, tensor, new_memory(slot))
            pending.append((name, ready))
            if len(pending) > NUM_READERS:
                _copy(parameters, tensors, *pending.popleft())
        while pending:
            _copy(parameters, tensors, *pending.popleft())


def _copy(parameters: dict[str, Any], tensors: Mapping[str, StoredTensor], name: str, ready: Future) -> None:
    slot, values = parameters[name], ready.result()
    if isinstance(slot, QuantizedLinear):
        slot.set_codes(*values)
    elif values is not None:
        _set(slot, values, tensors[name].dtype)


def assign(parameter: Any, tensor: StoredTensor) -> None:
    """Copy one tensor into a parameter of any float dtype."""
    _set(parameter, _ready(parameter, tensor), tensor.dtype)


def _ready(parameter: Any, tensor: StoredTensor, memory: np.ndarray | None = None) -> np.ndarray | None:
    """Return a tensor's values, in float32 if the parameter is in float32.

    memory: of the parameter itself. The values are written there, and the result is None.
    """
    values = tensor.values
    if memory is not None:
        return copy_into(memory, values, tensor.dtype)
    return contiguous(values, tensor.dtype, widen=parameter.dtype == paddle.float32)


def _set(parameter: Any, values: np.ndarray, dtype: str) -> None:
    if not parameter._is_initialized():
        parameter.initialize()
    if values.dtype == np.float32 and parameter.dtype == paddle.float32:
        parameter.set_value(values)
    else:
        parameter.set_value(paddle.to_tensor(widened(values, dtype)).astype(parameter.dtype))

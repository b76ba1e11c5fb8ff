"""Saving a model to a folder of ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from paddle import Tensor

from ..models.llava import Llava
from ..models.quantized import quantized_layers
from ..output import write_json
from ..tensor_files.shards import NUMPY_SAFETENSORS, parse_size, write_weights
from ..tensor_files.stored import StoredTensor
from .gathering import gathering
from .layouts import own_folder as layout
from .layouts.shapes import parameter_shapes
from .output_folder import exchanged

OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def save_model(
    model: Llava,
    path: str | Path,
    *,
    max_shard_size: int | str = "5GB",
    dtype: str | None = None,
    frozen: Mapping[str, StoredTensor] | None = None,
) -> None:
    """Write weights and config.json to a folder. Files of another model there are replaced, see `exchanged`.

    dtype: of the weights on disk, None for that of the model. All cards that share a model must call it; the first of
    them writes. frozen: the weights that the codes of a quantized model were made of, which are written as they are;
    without them a quantized model raises ValueError.
    """
    unrounded = weights_of_codes(model, frozen)
    parameters, max_bytes = dict(model.named_parameters()), parse_size(max_shard_size)
    with gathering(parameters, model.cards) as whole:
        if whole is None:
            return
        shapes = None if model.cards is None else parameter_shapes(model.config)
        tensors = stored_parameters(parameters, dtype, shapes, whole) | unrounded
        _write(model, Path(path), tensors, max_bytes, dtype)


def _write(model: Llava, path: Path, tensors: dict[str, StoredTensor], max_bytes: int, dtype: str | None) -> None:
    with exchanged(path, None, is_replaced=OURS.fullmatch) as folder:
        write_weights(folder, "model", NUMPY_SAFETENSORS, tensors, max_bytes)
        save_config(model, folder, dtype)


def weights_of_codes(model: Llava, frozen: Mapping[str, StoredTensor] | None) -> dict[str, StoredTensor]:
    """Return the weights of the quantized layers as they were before.

    Raises ValueError if they are not known: the rounded values would be taken for the model's weights.
    """
    layers = quantized_layers(model)
    if layers and frozen is None:
        kind = next(iter(layers.values())).kind
        raise ValueError(
            f"this model has {len(layers)} weights in {kind} and cannot be saved: load it without load_in_8bit and "
            "load_in_4bit to save it; `paddlemix merge` makes a whole model of an adapter that was trained on it"
        )
    return {f"{name}.weight": (frozen or {})[f"{name}.weight"] for name in layers}


def save_config(model: Llava, path: Path, dtype: str | None = None) -> None:
    """Write config.json. dtype: of the weights on disk, None for that of the model."""
    dtype = dtype or str(model.language_model.norm.weight.dtype).split(".")[-1]
    write_json(path / "config.json", layout.config_json(dataclasses.replace(model.config, dtype=dtype)))


def stored_parameters(
    parameters: Mapping[str, Tensor],
    dtype: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    whole: Callable[[str], Tensor] | None = None,
) -> dict[str, StoredTensor]:
    """Return parameters as tensors whose values are copied to the host when they are read.

    dtype: None for that of each parameter. bfloat16 is read as its bits in uint16. shapes, whole: the shapes of the
    whole tensors and a function from a name to one of them; None where the parameters are whole.
    """
    whole = parameters.__getitem__ if whole is None else whole
    shapes = {name: tuple(one.shape) for name, one in parameters.items()} if shapes is None else shapes
    return {
        name: StoredTensor(dtype or str(one.dtype).split(".")[-1], shapes[name], partial(_read, whole, name, dtype))
        for name, one in parameters.items()
    }


def _read(whole: Callable[[str], Tensor], name: str, dtype: str | None) -> np.ndarray:
    parameter = whole(name)
    return (parameter if dtype is None else parameter.astype(dtype)).numpy()

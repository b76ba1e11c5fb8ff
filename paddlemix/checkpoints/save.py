"""Saving a model to a folder of ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from paddle import Tensor

from ..models.llava import Llava
from ..models.quantized import quantized_layers
from ..output import write_json
from ..tensor_files.shards import NUMPY_SAFETENSORS, parse_size, write_weights
from ..tensor_files.stored import StoredTensor
from .layouts import own_folder as layout
from .output_folder import exchanged

OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def save_model(
    model: Llava,
    path: str | Path,
    *,
    max_shard_size: int | str = "5GB",
    dtype: str | None = None,
) -> None:
    """Write weights and config.json to a folder. Files of another model there are replaced, see `exchanged`.

    dtype: of the weights on disk, None for that of the model. Raises ValueError for a quantized model.
    """
    _refuse_codes(model)
    tensors, max_bytes = stored_parameters(dict(model.named_parameters()), dtype), parse_size(max_shard_size)
    with exchanged(Path(path), None, is_replaced=OURS.fullmatch) as folder:
        write_weights(folder, "model", NUMPY_SAFETENSORS, tensors, max_bytes)
        save_config(model, folder, dtype)


def _refuse_codes(model: Llava) -> None:
    """Raise ValueError for a quantized model, whose rounded values would be taken for the model's weights."""
    layers = quantized_layers(model)
    if layers:
        kind = next(iter(layers.values())).kind
        raise ValueError(
            f"this model has {len(layers)} weights in {kind} and cannot be saved: load it without load_in_8bit and "
            "load_in_4bit to save it; `paddlemix merge` makes a whole model of an adapter that was trained on it"
        )


def save_config(model: Llava, path: Path, dtype: str | None = None) -> None:
    """Write config.json. dtype: of the weights on disk, None for that of the model."""
    dtype = dtype or str(model.language_model.norm.weight.dtype).split(".")[-1]
    write_json(path / "config.json", layout.config_json(dataclasses.replace(model.config, dtype=dtype)))


def stored_parameters(parameters: Mapping[str, Tensor], dtype: str | None = None) -> dict[str, StoredTensor]:
    """Return parameters as tensors whose values are copied to the host when they are read.

    dtype: None for that of each parameter. bfloat16 is read as its bits in uint16.
    """
    return {
        name: StoredTensor(dtype or str(one.dtype).split(".")[-1], tuple(one.shape), partial(_read, one, dtype))
        for name, one in parameters.items()
    }


def _read(parameter: Tensor, dtype: str | None) -> np.ndarray:
    return (parameter if dtype is None else parameter.astype(dtype)).numpy()

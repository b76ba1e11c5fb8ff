"""From a model to our own folder."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from ..models.llava import LlavaForConditionalGeneration
from ..models.quantized import quantized_layers
from ..output import replacing, write_json
from ..tensor_files.safetensors import write_safetensors
from ..tensor_files.shards import parse_size, split
from ..tensor_files.stored import StoredTensor, held
from .layouts import paddle as layout
from .output_folder import exchanged

OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def save_model(
    model: LlavaForConditionalGeneration, path, *, max_shard_size: int | str = "5GB", dtype: str | None = None
) -> None:
    """Write weights and config.json to a folder, whose files of another model are replaced; see `exchanged`.

    dtype: of the weights on disk; None keeps that of the model. Raises ValueError for a model that holds codes.
    """
    _refuse_codes(model)
    tensors = {name: as_stored(parameter, dtype) for name, parameter in model.named_parameters()}
    shards = split(tensors, parse_size(max_shard_size))
    with exchanged(Path(path), None, is_replaced=OURS.fullmatch) as folder:
        _write_shards(folder, shards)
        save_config(model, folder, dtype)


def _refuse_codes(model: LlavaForConditionalGeneration) -> None:
    """Raise ValueError for a quantised model: what its codes stand for would pass for the model's weights."""
    layers = quantized_layers(model)
    if layers:
        kind = next(iter(layers.values())).kind
        raise ValueError(
            f"this model holds {len(layers)} weights in {kind} and cannot be saved: load it without load_in_8bit and "
            f"load_in_4bit to save it; an adapter that was trained on it becomes a whole model with `paddlemix merge`"
        )


def save_config(model: LlavaForConditionalGeneration, path: Path, dtype: str | None = None) -> None:
    """Write config.json; its dtype is that of the weights on disk."""
    dtype = dtype or str(model.language_model.norm.weight.dtype).split(".")[-1]
    write_json(path / "config.json", layout.config_json(dataclasses.replace(model.config, dtype=dtype)))


def _write_shards(path: Path, shards: list[dict[str, StoredTensor]]) -> None:
    """Write shards and their index."""
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [layout.WEIGHTS]
    for name, shard in zip(names, shards, strict=True):
        with replacing(path / name) as file:
            write_safetensors(file, shard, {"format": "np"})
    if len(shards) == 1:
        return
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    total = sum(tensor.num_bytes for shard in shards for tensor in shard.values())
    write_json(path / layout.INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def as_stored(parameter, dtype: str | None = None) -> StoredTensor:
    """Bring a parameter to the host, in another dtype if one is given; bfloat16 becomes its bits in uint16."""
    if dtype is not None:
        parameter = parameter.astype(dtype)
    return held(parameter.numpy(), str(parameter.dtype).split(".")[-1])

"""From a model to our own folder."""

from __future__ import annotations

import dataclasses
import re
from contextlib import ExitStack
from pathlib import Path

from ..models.llava import LlavaForConditionalGeneration
from ..models.quantized import quantized_layers
from .files import StoredTensor, held, replacing, write_json, write_safetensors
from .layouts import paddle as layout
from .shards import parse_size, split

OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def save_model(
    model: LlavaForConditionalGeneration, path, *, max_shard_size: int | str = "5GB", dtype: str | None = None
) -> None:
    """Write weights and config.json; files appear under their names only when they are whole, config.json last.

    dtype: of the weights on disk; None keeps that of the model. Raises ValueError for a model that holds codes.
    """
    path = Path(path)
    _refuse_codes(model)
    tensors = {name: as_stored(parameter, dtype) for name, parameter in model.named_parameters()}
    shards = split(tensors, parse_size(max_shard_size))
    path.mkdir(parents=True, exist_ok=True)
    written = _write_shards(path, shards)
    save_config(model, path, dtype)
    for old in path.glob("model*.safetensors*"):
        if OURS.fullmatch(old.name) and old.name not in written:
            old.unlink()


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


def _write_shards(path: Path, shards: list[dict[str, StoredTensor]]) -> set[str]:
    """Write shards and their index. All are whole before the first takes its name, so that old and new never mix."""
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [layout.WEIGHTS]
    with ExitStack() as stack:
        for name, shard in zip(names, shards, strict=True):
            write_safetensors(stack.enter_context(replacing(path / name)), shard, {"format": "np"})
    if len(shards) == 1:
        return set(names)
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    total = sum(tensor.num_bytes for shard in shards for tensor in shard.values())
    write_json(path / layout.INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return {*names, layout.INDEX}


def as_stored(parameter, dtype: str | None = None) -> StoredTensor:
    """Bring a parameter to the host, in another dtype if one is given; bfloat16 becomes its bits in uint16."""
    if dtype is not None:
        parameter = parameter.astype(dtype)
    return held(parameter.numpy(), str(parameter.dtype).split(".")[-1])

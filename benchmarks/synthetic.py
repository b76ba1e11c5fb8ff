"""Write a LLaVA of any size with random weights, tensor by tensor, for benchmarks."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
from tqdm import tqdm

from paddlemix.checkpoints.layouts import LAYOUTS
from paddlemix.checkpoints.layouts.layout import Vocabulary
from paddlemix.checkpoints.layouts.shapes import parameter_shapes
from paddlemix.checkpoints.write import write_part_weights
from paddlemix.models.config import LanguageConfig, LlavaConfig
from paddlemix.output import write_json
from paddlemix.tensor_files.stored import StoredTensor, storage_dtype
from paddlemix.tensor_files.transforms import cast_values

SHARD_BYTES = 2 * 10**9
STD = np.float32(0.02)
POOL, RUN = 1 << 24, 1 << 20  # numbers that are drawn, and those in a run from a random place among them


def config_of_size(num_bytes: float, dtype: str, language: LanguageConfig) -> LlavaConfig:
    """Return a LLaVA 1.5 with CLIP-L/336 and as many of `language`'s layers as are needed for num_bytes."""
    config = LlavaConfig(language=dataclasses.replace(language, num_hidden_layers=1), dtype=dtype, eos_token_ids=(2,))
    while size_of(config) < num_bytes:
        more = dataclasses.replace(config.language, num_hidden_layers=config.language.num_hidden_layers + 1)
        config = dataclasses.replace(config, language=more)
    return config


def size_of(config: LlavaConfig) -> int:
    """Return the bytes of a model's weights."""
    return sum(tensor.num_bytes for tensor in random_tensors(config).values())


def random_tensors(config: LlavaConfig) -> dict[str, StoredTensor]:
    """Return random tensors that are generated when they are read: norms around 1, all others with std 0.02.

    Runs of numbers occur in several tensors.
    """
    return {
        name: StoredTensor(
            config.dtype, shape, lambda seed=seed, name=name, shape=shape: _draw(seed, name, shape, config.dtype)
        )
        for seed, (name, shape) in enumerate(parameter_shapes(config).items())
    }


def _draw(seed: int, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if "norm" in name:
        values = np.float32(1) + STD * rng.standard_normal(shape, np.float32)
        return np.asarray(cast_values(values, "float32", dtype))
    result = np.empty(shape, storage_dtype(dtype))
    flat, pool = result.reshape(-1), _pool(dtype)
    for start in range(0, flat.size, RUN):
        part = flat[start : start + RUN]
        first = rng.integers(POOL - RUN)
        part[:] = pool[first : first + part.size]
    return result


@functools.cache
def _pool(dtype: str) -> np.ndarray:
    """Return normal numbers to copy runs of, because drawing billions takes minutes."""
    return cast_values(STD * np.random.default_rng(0).standard_normal(POOL, np.float32), "float32", dtype)


def write_checkpoint(folder: Path, layout: str, config: LlavaConfig) -> None:
    """Write a checkpoint in a layout, without a tokenizer."""
    with tqdm(total=size_of(config), unit="B", unit_scale=True, desc=f"writing {layout}") as bar:
        for part in LAYOUTS[layout].parts(config, random_tensors(config), Vocabulary()):
            write_part_weights(folder, part, SHARD_BYTES, bar)
            for name, content in part.json_files.items():
                write_json(folder / part.folder / name, content)

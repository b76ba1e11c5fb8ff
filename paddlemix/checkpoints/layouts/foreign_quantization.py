"""Weights that another tool quantized: recognized and named, but not read. Knows the marks, not the formats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...foreign_json import is_silent, shown
from ...tensor_files.stored import CheckpointError, StoredTensor, preview
from ...tensor_files.transforms import FLOATS
from .folder import Folder

# Keys of config.json: transformers' (and PaddleNLP's), an older one of compressed-tensors, MLX's.
CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
# Files that AutoGPTQ, AutoAWQ, NVIDIA's ModelOpt, optimum-quanto and Intel's tools write beside config.json.
FILES_BESIDE = (
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "quanto_qmap.json",
    "quant_strategy.json",
)
# Keys for the method, in the order of lookup. PaddleNLP writes its own as null if nothing is quantized.
METHOD_KEYS = ("quant_method", "quant_type", "weight_quantize_algo", "quant_algo", "quant_library")
BITSANDBYTES_KEYS = ("load_in_8bit", "load_in_4bit", "_load_in_8bit", "_load_in_4bit")
SHOWN_KEYS = (*METHOD_KEYS, *BITSANDBYTES_KEYS, "bits", "w_bit", "weight_bits", "group_size", "format", "fmt")
# Names of the tensors beside or instead of a matrix in bitsandbytes, AWQ, GPTQ, fp8, compressed-tensors, HQQ, AQLM,
# quanto, MLX and PaddleNLP.
MARK = re.compile(
    r".*\.(qweight|qzeros|scales|biases|g_idx|SCB|weight_format|(nested_)?(absmax|quant_map)|quant_state\..+|"
    r"weight_scale(_\w+)?|input_scale|weight_packed|weight_shape|weight_zero_point|weight_g_idx|W_q|codes|codebooks|"
    r"quant_weight|quant_scale|\w+_blocks|\w+_scales|weight\._data|weight\._scale)"
)
ADVICE = (
    "weights that another tool quantized are not read. Load the model as it was before, with --load-4bit or "
    "--load-8bit to save memory, or dequantize it with transformers (model.dequantize(), then save_pretrained)"
)
IF_NOT = "If the stored weights are not quantized after all, as after merging a QLoRA run, remove this statement"


def refuse_quantized(folder: Folder) -> None:
    """Raise CheckpointError if config.json, or a file beside it, says that the weights are quantized."""
    for where, values in _statements(folder):
        method = _method(values)
        if method is not None:
            raise CheckpointError(f"{folder}: {where} {method}: {ADVICE}. {IF_NOT}")


def quantized_names(names: Iterable[str]) -> list[str]:
    """Return the names that only quantized weights have."""
    return [name for name in names if MARK.fullmatch(name)]


def quantized_tensors(names: Iterable[str]) -> str:
    """Return the problem with tensors that only quantized weights have."""
    return f"tensors of quantized weights, without quantization_config: {preview(names, 3)}; {ADVICE}"


def wrong_dtype(name: str, tensor: StoredTensor) -> str | None:
    """Return the problem with the dtype of a model's tensor, None for a float of 16 or 32 bits."""
    if tensor.dtype in FLOATS and tensor.dtype != "float64":
        return None
    return f"{name} {list(tensor.shape)} is {tensor.dtype}"


def wrong_dtypes(problems: list[str]) -> str:
    """Return one sentence about the problems that `wrong_dtype` found."""
    is_double = all(problem.endswith("float64") for problem in problems)
    advice = "save it in float32 (model.float() in torch)" if is_double else ADVICE
    return f"{preview(problems, 3)}, expected float32, float16 or bfloat16: {advice}"


def _statements(folder: Folder) -> Iterator[tuple[str, Any]]:
    """Yield where quantization is stated, in words, and the statement."""
    raw = folder.json("config.json") if folder.has_any("config.json") else {}
    parts = {"": raw} | {f"{name}.": part for name, part in raw.items() if isinstance(part, Mapping)}
    for start, part in parts.items():
        for key in CONFIG_KEYS:
            if key in part:
                yield f"config.json states {start}{key}", part[key]
    for name in FILES_BESIDE:
        if folder.has_any(name):
            values = folder.json(name)
            yield f"{name} states a quantization_config", values.get("quantization", values)


def _method(values: Any) -> str | None:
    """Return the method in a statement, None if it says that nothing is quantized."""
    if is_silent(values):
        return None
    if not isinstance(values, Mapping):
        return shown(values)
    facts = [f"{key} {shown(values[key])}" for key in SHOWN_KEYS if not is_silent(values.get(key))]
    if not facts and any(key in values for key in (*METHOD_KEYS, *BITSANDBYTES_KEYS)):
        return None
    return f"({', '.join(facts)})" if facts else shown(dict(values))

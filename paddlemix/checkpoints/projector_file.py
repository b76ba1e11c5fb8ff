"""Projectors outside a model: in a separate file, or drawn from a seed."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import numpy as np

from ..conversation.templates import IMAGE_MARKS
from ..models.projector_type import LINEAR, RESIDUAL_BLOCK, projector_layers
from ..output import named_file, replacing
from ..tensor_files.shards import FORMATS, PDPARAMS
from ..tensor_files.stored import CheckpointError, StoredTensor, preview
from ..tensor_files.transforms import gathered_rows, transposed
from ..terminal.near_paths import did_you_mean
from .layouts.components import EMBEDDING, mm_projector_rules
from .layouts.foreign_quantization import wrong_dtype, wrong_dtypes
from .layouts.output_part import renamed
from .layouts.rules import KeyTable, Rule
from .source import Source, open_source

LAYER = r"\d+(?:\.pre_norm|\.proj\.\d+)?"
# LLaVA's and PaddleMIX's names after any prefix, and xtuner's whole names.
NAMES = (
    re.compile(rf"(?:.*\.)?mm_projector\.(?:(?P<layer>{LAYER})\.)?(?P<kind>weight|bias)"),
    re.compile(r"model\.(?P<layer>\d+)\.(?P<kind>weight|bias)"),
)
NEWLINE = re.compile(r"(?:.*\.)?image_newline")
# The input embeddings beside the projector of a model with marks around an image (scripts/extract_mm_projector.py).
EMBEDDINGS = re.compile(r"(?:.*\.)?(?:embed_tokens|embed_in|wte)\.weight")
PARTS = ("projector.", "image_newline")


def read_projector(path: Path) -> tuple[dict[str, StoredTensor], str]:
    """Return a projector's tensors under our names and in our orientation, image_newline if it exists, and its type.

    Token embeddings beside it, of a model with marks around an image, are returned under their name of ours.

    path: *.bin or *.safetensors with torch's [out, in], *.pdparams with [in, out]. Raises CheckpointError.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise CheckpointError(f"projector {path}: expected a file that ends in one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise CheckpointError(f"projector {path} does not exist{did_you_mean(path)}")
    found, unknown, is_numbered = {}, [], set()
    for name, tensor in FORMATS[path.suffix].open(path).items():
        match = next((match for pattern in NAMES if (match := pattern.fullmatch(name))), None)
        if match:
            is_numbered.add(match["layer"] is not None)
            is_matrix = len(tensor.shape) == 2 and path.suffix != PDPARAMS.suffix
            found[f"projector.{match['layer'] or 0}.{match['kind']}"] = transposed(tensor) if is_matrix else tensor
        elif NEWLINE.fullmatch(name):
            found["image_newline"] = tensor
        elif EMBEDDINGS.fullmatch(name):
            found[EMBEDDING] = tensor
        else:
            unknown.append(name)
    odd = [problem for name, tensor in found.items() if (problem := wrong_dtype(name, tensor))]
    if odd:
        raise CheckpointError(f"{path}: {wrong_dtypes(odd)}")
    if unknown:
        raise CheckpointError(f"{path} holds tensors that do not belong to a projector: {preview(sorted(unknown))}")
    names = {name.rpartition(".")[0] for name in found if name.startswith(PARTS[0])}
    projector_type = _type_of(names) if is_numbered == {True} else "linear"
    wanted = {f"projector.{name}.{kind}" for name, _ in projector_layers(projector_type) for kind in ("weight", "bias")}
    if len(is_numbered) != 1 or wanted != set(found) - {"image_newline", EMBEDDING}:
        raise CheckpointError(f"{path} does not hold a whole projector: {preview(sorted(found)) or 'nothing'}")
    return found, projector_type


def _type_of(names: set[str]) -> str:
    """Return the type with as many linear layers and residual blocks as there are names (`projector.3.proj.0`)."""
    num_residual = sum(name.endswith(f".{RESIDUAL_BLOCK[0][0]}") for name in names)
    num_linear = max(len(names) - len(RESIDUAL_BLOCK) * num_residual, 1)
    return f"mlp{num_linear}x_res{num_residual}x_gelu" if num_residual else f"mlp{num_linear}x_gelu"


def fresh_projector(projector_type: str, num_in: int, num_out: int, seed: int) -> dict[str, StoredTensor]:
    """Return a new projector in float32, as torch initializes its layers.

    Linear layers are uniform within 1 / sqrt(inputs), norms have weight 1 and bias 0.
    """
    tensors = {}
    for place, (name, layer) in enumerate(projector_layers(projector_type)):
        width = num_out if place else num_in
        shapes = {"weight": (width, num_out) if layer == LINEAR else (num_out,), "bias": (num_out,)}
        for kind, shape in shapes.items():
            draw = partial(_uniform, [seed, place, kind == "bias"], 1 / math.sqrt(width), shape)
            fill = partial(np.full, shape, float(kind == "weight"), np.float32)
            tensors[f"projector.{name}.{kind}"] = StoredTensor("float32", shape, draw if layer == LINEAR else fill)
    return tensors


def fresh_newline(width: int, seed: int) -> StoredTensor:
    """Return a new image_newline in float32, as LLaVA initializes it: normal with deviation 1 / sqrt(width)."""
    return StoredTensor("float32", (width,), partial(_normal, [seed, 1 << 20], 1 / math.sqrt(width), (width,)))


def _uniform(seed: list[int], bound: float, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-bound, bound, shape).astype(np.float32)


def _normal(seed: list[int], deviation: float, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, deviation, shape).astype(np.float32)


def extract_projector(model, output, *, base=None) -> list[str]:
    """Write a model's projector, and image_newline where it has one, to a file; return the names in it.

    output: *.bin or *.safetensors in LLaVA's names (`model.mm_projector.0.weight`, [out, in] as torch has it), or
    *.pdparams in PaddleMIX's (`llama.mm_projector.0.weight`, [in, out]). Of a model with marks around an image, the
    marks' embeddings are written too. base: see `open_source`. Raises CheckpointError.
    """
    model, output = Path(model), named_file(str(output))
    if output.suffix not in FORMATS:
        raise CheckpointError(f"{output} has to end in one of {', '.join(FORMATS)}, which chooses the file format")
    is_torch = output.suffix != PDPARAMS.suffix
    prefix, source = "model" if is_torch else "llama", open_source(model, base)
    for folder in source.folders:
        if output.parent.resolve() == folder.resolve():
            raise CheckpointError(f"{output} is in {folder}, which is read: name a file in another folder")
    tensors = source.translation.checked(model)
    ours = {name: tensor for name, tensor in tensors.items() if name.startswith(PARTS)}
    if not any(name.startswith(PARTS[0]) for name in ours):
        raise CheckpointError(f"{model} has no projector with weights (its type is {source.config.projector_type})")
    rules = mm_projector_rules(f"{prefix}.mm_projector", source.config.projector_type, is_torch=is_torch)
    theirs = renamed(KeyTable([*rules, Rule("image_newline", f"{prefix}.image_newline")]), ours, str(output))
    if source.config.has_image_marks:
        theirs[f"{prefix}.embed_tokens.weight"] = _mark_rows(source, tensors[EMBEDDING])
    with replacing(output) as file:
        FORMATS[output.suffix].write(file, theirs)
    return list(theirs)


def _mark_rows(source: Source, embeddings: StoredTensor) -> StoredTensor:
    """Return the embeddings [2, width] of the marks around an image, in their order."""
    if source.tokenizer is None:
        raise CheckpointError(f"{source.path} has marks around an image and no tokenizer that says which ids they have")
    ids = [source.tokenizer.special_id(mark) for mark in IMAGE_MARKS]
    return gathered_rows([embeddings], [(0, number, number + 1) for number in ids], "cut")

"""The projector of a model as a file of its own, as stage 1 of LLaVA writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..output import named_file, replacing
from .files import CheckpointError, StoredTensor, write_safetensors
from .layouts.components import mm_projector_rules
from .layouts.part import renamed
from .pdparams import write_pdparams
from .rules import KeyTable, Rule
from .source import folders_of, our_tensors, read_source
from .torch_bin import write_torch_bin
from .transforms import transposed

PARTS = ("projector.", "image_newline")


def extract_projector(model, output, *, base=None) -> list[str]:
    """Write a model's projector, and image_newline where it has one, to a file; return the names in it.

    output: *.bin or *.safetensors in LLaVA's names (`model.mm_projector.0.weight`, [out, in] as torch has it), or
    *.pdparams in PaddleMIX's (`llama.mm_projector.0.weight`, [in, out]). base: of side files, as for
    `source.read_source`. Raises CheckpointError.
    """
    model, output = Path(model), named_file(str(output))
    write, prefix, is_torch = _writer(output)
    layout, config = read_source(model, base)
    for folder in folders_of(model, layout):
        if output.parent.resolve() == folder.resolve():
            raise CheckpointError(f"{output} lies in {folder}, which is read: name a file in another folder")
    found = our_tensors(model, layout, config)
    ours = {name: transposed(tensor) if is_turned else tensor for name, (tensor, is_turned) in found.items()}
    ours = {name: tensor for name, tensor in ours.items() if name.startswith(PARTS)}
    if not any(name.startswith(PARTS[0]) for name in ours):
        raise CheckpointError(f"{model} has no projector with weights (its type is {config.projector_type})")
    rules = mm_projector_rules(f"{prefix}.mm_projector", config.projector_type, is_torch=is_torch)
    theirs = renamed(KeyTable([*rules, Rule("image_newline", f"{prefix}.image_newline")]), ours, str(output))
    with replacing(output) as file:
        write(file, theirs)
    return list(theirs)


def _writer(output: Path) -> tuple[Callable, str, bool]:
    """Return what writes a file of this name, what its tensors' names begin with, and if matrices are torch's."""
    writers = {
        ".bin": (write_torch_bin, "model", True),
        ".safetensors": (_write_safetensors, "model", True),
        ".pdparams": (write_pdparams, "llama", False),
    }
    if output.suffix not in writers:
        raise CheckpointError(f"{output} has to end in one of {', '.join(writers)}, which says what is written")
    return writers[output.suffix]


def _write_safetensors(file, tensors: dict[str, StoredTensor]) -> None:
    write_safetensors(file, tensors, {"format": "pt"})

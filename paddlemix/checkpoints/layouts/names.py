"""The spellings of tensor names that tools use, and the one that the tables of the layouts have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ...models.language.families import FAMILIES
from ...models.vision.families import TOWER_FAMILIES
from ...tensor_files.stored import CheckpointError, StoredTensor
from .folder import Folder

# First word of a name in a decoder's own folder -> the module around the layers. The heads have none.
BODIES = {
    family.weights.of(part): family.weights.body
    for family in FAMILIES.values()
    for part in ("embed_tokens", "layers", "norm")
}
HEADS = tuple(sorted({family.weights.of("lm_head") for family in FAMILIES.values()}))
IN_DECODER = re.compile(rf"(?:model\.|language_model\.|transformer\.)*(({'|'.join([*BODIES, *HEADS])})\..+)")
# First words of names in a tower's folder, heads that no LLaVA reads included.
TOWER_PARTS = sorted(
    {
        name.partition(".")[0]
        for family in TOWER_FAMILIES.values()
        for name in (*(part[1] for part in family.parts), family.layers[0], *family.unused)
    }
)
IN_TOWER = re.compile(rf"(?:model\.|vision_tower\.|visual_encoder\.|vision_model\.)*((?:{'|'.join(TOWER_PARTS)})\..+)")


def decoder_name(name: str, body: str | None = None, outer: str = "") -> str:
    """Return a decoder's tensor name with `body` before the layers and `outer` before the head.

    body None: as in a folder that transformers' class for the decoder writes (`model.layers. ...`). Tools write the
    same tensor with more or fewer modules around it (`language_model.model.layers`, `layers`). Other names are returned
    unchanged.
    """
    match = IN_DECODER.fullmatch(name)
    if match is None:
        return name
    rest, first = match.groups()
    return f"{outer}{rest}" if first in HEADS else f"{BODIES[first]}.{rest}" if body is None else f"{body}{rest}"


def tower_name(name: str, prefix: str = "vision_model.") -> str:
    """Return a tower's tensor name with `prefix` before its parts, of which transformers 5 leaves out `vision_model.`.

    Other names are returned unchanged.
    """
    match = IN_TOWER.fullmatch(name)
    return name if match is None else f"{prefix}{match[1]}"


def renamed_once(folder: Folder, tensors: Mapping[str, StoredTensor], rename: Callable[[str], str]) -> dict:
    """Return tensors under other names. Raises CheckpointError if two get the same name."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if rename(name) in found:
            raise CheckpointError(f"{folder} holds two tensors for {rename(name)}, one of them under the name {name}")
        found[rename(name)] = tensor
    return found

"""Layers that a family stores as one matrix, cut into ours and put together again, lazily.

Between the two a piece bears the name of its whole with its number: `...attn.Wqkv.weight[0]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..models.config import LanguageConfig
from ..models.language.families import get_family
from .adapters import Adapter, Factors
from .files import CheckpointError, StoredTensor
from .transforms import concatenated, sliced_rows

PIECE = re.compile(r"(?P<whole>.+)\[(?P<number>\d+)\]")


def piece_name(whole: str, number: int) -> str:
    return f"{whole}[{number}]"


def split(tensors: Mapping[str, StoredTensor], language: LanguageConfig) -> dict[str, StoredTensor]:
    """Return stored tensors with pieces in place of wholes. Raises CheckpointError for one of another height."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        ends = _ends(name, language)
        if ends is None:
            found[name] = tensor
        else:
            _check(name, tensor, ends)
            found |= {piece: sliced_rows(tensor, *rows) for piece, rows in _pieces(name, ends)}
    return found


def split_adapter(adapter: Adapter, language: LanguageConfig) -> Adapter:
    """Return an adapter that changes pieces in place of wholes: the rows of a product are those of its left factor."""
    factors: dict[str, Factors] = {}
    for name, pair in adapter.factors.items():
        ends = _ends(name, language)
        if ends is None:
            factors[name] = pair
        else:
            _check(name, pair.left, ends)
            factors |= {
                piece: Factors(sliced_rows(pair.left, *rows), pair.right, pair.scaling)
                for piece, rows in _pieces(name, ends)
            }
    return Adapter(adapter.source, factors, split(adapter.whole, language))


def join(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return tensors with wholes in place of pieces, all of which must be there."""
    found: dict[str, StoredTensor] = {}
    pieces: dict[str, dict[int, StoredTensor]] = {}
    for name, tensor in tensors.items():
        match = PIECE.fullmatch(name)
        if match is None:
            found[name] = tensor
        else:
            pieces.setdefault(match["whole"], {})[int(match["number"])] = tensor
    return found | {whole: concatenated([parts[number] for number in sorted(parts)]) for whole, parts in pieces.items()}


def _ends(name: str, language: LanguageConfig) -> list[int] | None:
    """Return where the rows of each of our layers end in a stored one, None for a tensor that is no whole."""
    layer = name.rpartition(".")[0]
    fused = get_family(language.family).fused
    ours = next((ours for theirs, ours in fused.items() if layer.endswith(f".{theirs}")), None)
    if ours is None:
        return None
    ends = [0]
    for one in ours:
        ends.append(ends[-1] + _num_out(one, language))
    return ends[1:]


def _num_out(layer: str, language: LanguageConfig) -> int:
    """Return how many outputs a linear layer has that may be stored with others: q, k, v, gate or up."""
    if layer.startswith("mlp."):
        return language.intermediate_size
    is_query = layer == "self_attn.q_proj"
    return language.head_dim * (language.num_attention_heads if is_query else language.num_key_value_heads)


def _check(name: str, tensor: StoredTensor, ends: list[int]) -> None:
    if tensor.shape[0] != ends[-1]:
        raise CheckpointError(f"{name} has {tensor.shape[0]} rows, but config.json makes it {ends[-1]}")


def _pieces(name: str, ends: list[int]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the name and the rows of each piece."""
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        yield piece_name(name, number), (start, end)

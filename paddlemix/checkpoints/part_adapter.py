"""An adapter of one part of a LLaVA, a language model or a vision tower in a folder of its own, laid over that part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ..models.config import LanguageConfig
from ..models.language.families import get_family
from ..tensor_files.stored import CheckpointError, StoredTensor, preview
from . import peft_adapter
from .adapters import lay_over


def with_adapter(
    tensors: Mapping[str, StoredTensor],
    folder: Path,
    merge_dtype: str | None,
    *,
    rename: Callable[[str], str],
    tied: tuple[str, ...] = (),
) -> dict[str, StoredTensor]:
    """Return a part's tensors with peft's adapter in `folder` in them, if there is one; by the part's names.

    rename: from the adapter's name of a tensor to that in `tensors`. tied: names of tensors that the part shares, of
    which an adapter may change none. Raises CheckpointError for an adapter that does not fit.
    """
    if not folder.is_dir():
        return dict(tensors)
    adapter = peft_adapter.read_adapter(folder)
    shared = sorted(set(tied) & {rename(name) for name in adapter.names()})
    if shared:
        raise CheckpointError(
            f"{adapter.source} changes {preview(shared)} of a model that ties its output layer to its embeddings: "
            "merge it into the language model with peft, which parts them"
        )
    oriented = {name: (tensor, False) for name, tensor in tensors.items()}
    merged = lay_over(oriented, adapter, lambda name: (rename(name), False), merge_dtype)
    return {name: tensor for name, (tensor, _) in merged.items()}


def tied_names(language: LanguageConfig) -> tuple[str, ...]:
    """Return a decoder's own names of what is one matrix in it, none where nothing is shared."""
    names = get_family(language.family).weights
    ties = (f"{names.body}.{names.of('embed_tokens')}.weight", f"{names.of('lm_head')}.weight")
    return ties if language.tie_word_embeddings else ()

"""The kinds of decoders, one file each. To add one, add a file and list it in FAMILIES."""

from __future__ import annotations

from collections.abc import Iterable

from .ernie4_5 import ERNIE4_5
from .family import Family as Family
from .gemma import GEMMA
from .internlm import INTERNLM
from .internlm2 import INTERNLM2
from .llama import LLAMA
from .mistral import MISTRAL
from .mpt import MPT
from .phi3 import PHI3
from .qwen2 import QWEN2

FAMILIES = {family.name: family for family in (LLAMA, MISTRAL, QWEN2, PHI3, INTERNLM, INTERNLM2, MPT, GEMMA, ERNIE4_5)}


def get_family(name: str) -> Family:
    """Return the family of a model_type. Raises ValueError with the known names."""
    if name not in FAMILIES:
        raise ValueError(f"language model of type {name!r}, expected one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def by_architecture(names: Iterable[str]) -> Family | None:
    """Return the family whose class in transformers has one of these names, or None."""
    names = set(names)
    return next((one for one in FAMILIES.values() if names & {one.architecture, *one.other_architectures}), None)


def by_llava_architecture(names: Iterable[str]) -> Family | None:
    """Return the family whose class in LLaVA's own code has one of these names, or None."""
    names = set(names)
    return next((family for family in FAMILIES.values() if family.llava_architecture in names), None)

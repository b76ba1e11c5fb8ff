"""Pairs of models with the same weights: transformers' and ours, which was loaded from the other's folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import reference_models as tiny

from paddlemix.models.llava import LlavaForConditionalGeneration


@dataclass(frozen=True)
class Pair:
    """theirs: torch; ours: paddle; is_next: LLaVA 1.6."""

    theirs: Any
    ours: LlavaForConditionalGeneration
    is_next: bool

    @property
    def spec(self):
        return self.ours.config.image


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory):
    """Return a function that makes a pair; its arguments are those of `reference_models.hf_model`."""

    def make(is_next: bool, **options) -> Pair:
        model = tiny.hf_model(is_next, **options)
        folder = tiny.save_hf(model, tmp_path_factory.mktemp("hf"), is_next)
        return Pair(model, LlavaForConditionalGeneration.from_pretrained(folder, device="cpu"), is_next)

    return make


@pytest.fixture(scope="module", params=[False, True], ids=["v1.5", "v1.6"])
def pair(request, make_pair) -> Pair:
    return make_pair(request.param)

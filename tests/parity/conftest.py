"""Pairs of models with the same weights: transformers' and ours, which was loaded from the other's folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import reference_models as tiny

from paddlemix import LlavaForConditionalGeneration


def pytest_collection_modifyitems(config, items):
    """Skip a LLaVA over MPT, which transformers 5 cannot build because it does not find the embeddings."""
    if not tiny.IS_VERSION_5:
        return
    gone = [item for item in items if "pair" in item.fixturenames and _is_over_mpt(item)]
    gone += [item for item in items if item.originalname.startswith("test_llava_1_6_over") and _is_over_mpt(item)]
    config.hook.pytest_deselected(items=gone)
    items[:] = [item for item in items if item not in gone]


def _is_over_mpt(item) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return str(params.get("variant", params.get("family", ""))).startswith("mpt")


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

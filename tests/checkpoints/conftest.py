"""One small LLaVA 1.6 of transformers as a folder, a batch, and the logits that any copy of the model must give."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import reference_models as tiny

from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.save import save_model
from paddlemix.checkpoints.source import read_config
from paddlemix.data.sample import Batch


@dataclass(frozen=True)
class Reference:
    """model: torch; folder: as transformers saved it; logits: transformers' for the batch."""

    model: Any
    folder: Path
    batch: Batch
    logits: np.ndarray

    def check(self, model) -> None:
        """Compare another copy of the model, ours."""
        with paddle.no_grad():
            np.testing.assert_allclose(model(self.batch).numpy(), self.logits, atol=1e-4)

    def check_folder(self, folder: Path) -> None:
        self.check(load_model(folder, device="cpu"))


def make_reference(folder: Path, is_next: bool, **options) -> Reference:
    """A tower with one head of 32, as PaddleMIX's config.json names no number of heads."""
    model = tiny.hf_model(is_next, vision={"num_attention_heads": 1}, **options)
    tiny.save_hf(model, folder, is_next)
    batch = tiny.make_batch(np.random.default_rng(0), [[3, (60, 40), 5]], read_config(folder).image)
    return Reference(model, folder, batch, tiny.hf_logits(model, batch, is_next))


@pytest.fixture(scope="session", name="make_reference")
def reference_maker():
    """Return the function that makes a reference; its further arguments are those of `reference_models.hf_model`."""
    return make_reference


@pytest.fixture(scope="session")
def v1_6(tmp_path_factory) -> Reference:
    return make_reference(tmp_path_factory.mktemp("v1_6"), True)


@pytest.fixture(scope="session")
def v1_5(tmp_path_factory) -> Reference:
    return make_reference(tmp_path_factory.mktemp("v1_5"), False)


@pytest.fixture(scope="session")
def phi(tmp_path_factory) -> Reference:
    """A LLaVA 1.5 over a Phi-3 with a window of 8 positions."""
    return make_reference(tmp_path_factory.mktemp("phi"), False, family="phi3", sliding_window=8)


@pytest.fixture
def hf_copy(v1_6, tmp_path) -> Path:
    """A folder of transformers that a test may damage."""
    return Path(shutil.copytree(v1_6.folder, tmp_path / "hf"))


@pytest.fixture
def own_copy(v1_6, tmp_path) -> Path:
    """A folder of ours that a test may damage."""
    save_model(load_model(v1_6.folder, device="cpu"), tmp_path / "own")
    return tmp_path / "own"

"""On a device that compiles for shapes an epoch has few of them, and trains as it does without that."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_folder
from tiny_training import settings, train

import paddlemix.models.loss as loss
from paddlemix.models.language.decoder_layer import DecoderLayer
from paddlemix.models.vision.vit import VisionTower

NUM_ROWS = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows of many lengths, with none to three images."""
    folder = tmp_path_factory.mktemp("data")
    path = tiny_folder.write_rows(folder, NUM_ROWS)
    rows = json.loads(path.read_text())
    for number, row in enumerate(rows):
        row["conversations"][0]["value"] += " What is this?" * (number * 7 % 23)
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def shapes(monkeypatch):
    """Return the shapes that a decoder layer, the vision tower and the head see, filled as they are called."""
    seen: dict[str, set] = {"decoder": set(), "tower": set(), "head": set()}
    decoder, tower, part = DecoderLayer.forward, VisionTower.forward, loss._sum_in_parts

    def see_decoder(self, x, *others):
        seen["decoder"].add(tuple(x.shape))
        return decoder(self, x, *others)

    def see_tower(self, pixels):
        seen["tower"].add(tuple(pixels.shape))
        return tower(self, pixels)

    def see_head(hidden, *others):
        seen["head"].add(tuple(hidden.shape))
        return part(hidden, *others)

    monkeypatch.setattr(DecoderLayer, "forward", see_decoder)
    monkeypatch.setattr(VisionTower, "forward", see_tower)
    monkeypatch.setattr(loss, "_sum_in_parts", see_head)
    return seen


def test_an_epoch_has_few_shapes_and_the_same_losses(tmp_path, data, shapes, monkeypatch):
    values = {"max_steps": NUM_ROWS // 2, "learning_rate": 1e-4}
    expected = train(settings(tmp_path / "free", data, "anyres", **values)).recorder.losses
    free = {name: len(found) for name, found in shapes.items()}
    for found in shapes.values():
        found.clear()
    for module in ("paddlemix.device", "paddlemix.models.kv_cache", "paddlemix.train.trainer"):
        monkeypatch.setattr(f"{module}.wants_equal_shapes", lambda: True)
    losses = train(settings(tmp_path / "equal", data, "anyres", **values)).recorder.losses
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    equal = {name: len(found) for name, found in shapes.items()}
    print(f"shapes of an epoch of {NUM_ROWS // 2} batches: {free} before, {equal} after")
    assert free["decoder"] >= 10 and equal["decoder"] <= 4, shapes["decoder"]
    assert equal["tower"] <= 8 and equal["head"] <= 3, shapes

"""Each process of a server computes on a card of its own, as long as there are enough."""

from __future__ import annotations

import pytest

from paddlemix.serve.model import load
from paddlemix.serve.model.load import own_device


@pytest.fixture
def machine(monkeypatch):
    """A machine with two GPUs."""
    monkeypatch.setattr(load, "available_kinds", lambda: ["gpu", "cpu"])
    monkeypatch.setattr(load, "num_devices", {"gpu": 2, "cpu": 1}.get)


@pytest.mark.parametrize(
    ("device", "worker", "num_workers", "expected"),
    [
        (None, 0, 1, None),
        (None, 1, 2, "gpu:1"),
        ("gpu", 2, 3, "gpu:0"),
        ("gpu:1", 0, 2, "gpu:1"),
        ("cpu", 1, 2, "cpu"),
        ("npu", 1, 2, "npu"),  # which is not there
    ],
)
def test_processes_take_cards_in_turn(machine, device, worker, num_workers, expected):
    assert own_device(device, worker, num_workers) == expected

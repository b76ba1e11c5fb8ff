"""Which cards a process and its followers take; that they compute is tested in npu_sim and in commands."""

from __future__ import annotations

import os

import pytest

from paddlemix import device as devices
from paddlemix.checkpoints import card_processes
from paddlemix.checkpoints.card_processes import CARD, Loading, join_cards, started
from paddlemix.checkpoints.source import open_source
from paddlemix.constants import BUNDLED_MODEL


class Started:
    """A follower that was started."""

    def __init__(self, options: str, variables: dict[str, str]):
        self.variables, self.pid = variables, 0

    def poll(self) -> int | None:
        return None

    def wait(self, seconds: float) -> int:
        return 0


@pytest.fixture
def followers(monkeypatch):
    """A machine with four NPUs; yields the followers that are started."""
    found: list[Started] = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(devices, "num_devices", {"npu": 4, "xpu": 3, "gpu": 0}.get)
    monkeypatch.setattr(card_processes, "_start", lambda *arguments: found.append(Started(*arguments)) or found[-1])
    return found


def start(number: int, *place: int, device: str = "npu"):
    return started(number, open_source(BUNDLED_MODEL), Loading(device=device), *place)


def test_second_worker_takes_the_cards_after_those_of_the_first(followers):
    with start(2, 1, 2):
        own = os.environ
        assert [own[CARD], *(each.variables[CARD] for each in followers)] == ["2", "3"]
        assert own["FLAGS_selected_npus"] == "2" and followers[0].variables["FLAGS_selected_npus"] == "3"
        assert [own["PADDLE_TRAINER_ID"], followers[0].variables["PADDLE_TRAINER_ID"]] == ["0", "1"]
        assert own["PADDLE_TRAINER_ENDPOINTS"] == followers[0].variables["PADDLE_TRAINER_ENDPOINTS"]


def test_one_card_starts_nothing(followers):
    with start(1):
        assert followers == [] and join_cards("npu") is None


@pytest.mark.parametrize(
    ("number", "place", "device", "text"),
    [
        (2, (0, 3), "npu", "2 for each of 3 workers, 6 in all, and this machine has 4 of kind npu: take fewer cards"),
        (
            2,
            (),
            "gpu",
            "machine has 0 of kind gpu: leave it out, or give --device cpu for processes without cards",
        ),
        (4, (), "xpu", "--tensor-parallel is 4, and this machine has 3 of kind xpu: take fewer cards"),
        (2, (), "npu:1", "--device is 'npu:1', and --tensor-parallel takes the first cards: name the kind only"),
        (3, (), "npu", "num_attention_heads is 4, which cannot be cut in 3 equal parts: expected 2 or 4"),
    ],
)
def test_cards_that_cannot_be_taken_are_refused(followers, number, place, device, text):
    with pytest.raises(ValueError, match=text), start(number, *place, device=device):
        pass
    assert followers == []

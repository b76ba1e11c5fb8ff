"""Two launchers of two processes each train on the CPU as one process does with the same global batch.

The command is that of the documentation. A machine is a launcher, its processes and a folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny_folder
from documentation import ROOT
from gloo import check_connected, connected
from several_nodes import Machine, last_error, machines, wait_for_losses
from several_nodes import losses as losses_of
from tiny_training import settings, train, weights

from paddlemix import LlavaForConditionalGeneration

PAGE = ROOT / "docs/en/cards.md"
NUM_STEPS = 3
STEPS = {"adam_epsilon": 0.01, "max_steps": NUM_STEPS}
CARDS = ["--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def one(tmp_path_factory, data):
    """Return the trainer of one process with the batch of four, which has trained."""
    values = settings(tmp_path_factory.mktemp("one"), data, "anyres", **STEPS, per_device_train_batch_size=4)
    trainer = train(values)
    trainer.save_model()
    return trainer


def values_of(data, folder: str, **changes) -> dict:
    return {
        **settings(ROOT, data, "anyres", **STEPS),
        "output_dir": folder,
        "per_device_train_batch_size": 1,
        **changes,
    }


def environment() -> dict[str, str]:
    variables = {**os.environ, "PADDLEMIX_NUM_THREADS": "1"}
    variables.pop("CUDA_VISIBLE_DEVICES", None)
    return variables


def test_two_machines_with_own_folders_train_as_one_process_and_the_first_one_writes(tmp_path, data, one):
    values = values_of(data, "out", save_strategy="steps", save_steps=2)

    def trained(number: int) -> list[Machine]:
        with machines(tmp_path / str(number), [values, values], PAGE, CARDS, environment()) as started:
            codes = [machine.ended() for machine in started]
            check_connected(*(text for machine in started for text in machine.logs))
            assert codes == [0, 0], "".join(text[-3000:] for machine in started for text in machine.logs)
        return started

    started = connected(trained)
    first, second = started if (started[0].folder / "out").exists() else reversed(started)
    assert losses_of(first) == pytest.approx(one.recorder.losses, abs=1e-5)
    assert not (second.folder / "out").exists()
    assert "all files are written on this one, that of rank 0" in first.printed
    assert (first.folder / "out/checkpoint-2/complete").is_file()
    ours = weights(LlavaForConditionalGeneration.from_pretrained(first.folder / "out"))
    theirs = weights(one.llava)
    assert max(np.abs(ours[name] - theirs[name]).max() for name in theirs) < 1e-5
    state = json.loads((first.folder / "out/trainer_state.json").read_text())
    assert state["global_step"] == NUM_STEPS


def test_a_machine_that_is_switched_off_ends_the_other_with_its_name(tmp_path, data, one):
    connected(lambda number: switch_off(tmp_path / str(number), data, one.recorder.losses))


def switch_off(folder: Path, data: Path, losses: list[float]) -> None:
    """Train on two machines until some losses are logged, then kill the second one."""
    values = values_of(data, str(folder / "shared"), max_steps=100_000)
    with machines(folder, [values, values], PAGE, CARDS, environment()) as started:
        assert wait_for_losses(started, NUM_STEPS) == pytest.approx(losses, abs=1e-5)
        ranks = sorted(started[1].processes())
        started[1].kill()
        assert started[0].ended() == 1
        number = ranks[0] // 2
        expected = f"node {number} (127.0.0.1) with ranks {ranks[0]} and {ranks[1]} is gone: its launcher has ended; "
        assert last_error(started[0]).startswith(expected)
        assert "the same commands on all machines resume from the newest checkpoint" in last_error(started[0])
        assert started[0].processes() == {}
        assert all("Traceback" not in text for text in (started[0].printed, *started[0].logs))

"""Two launchers of two simulated cards each train as one process on the CPU does with the same global batch.

Then one of their processes is killed. Its collective would wait for ever on a card.
"""

from __future__ import annotations

import os
import signal

import pytest
import tiny_folder
from documentation import ASCEND, block_with
from several_nodes import last_error, machines, wait_for_losses
from tiny_training import LORA, settings, train

NUM_STEPS = 3
STEPS = {"adam_epsilon": 0.01, "max_steps": NUM_STEPS, **LORA}


def test_command_for_several_machines_is_the_same_in_both_languages():
    assert block_with("--nnodes 2", ASCEND[1]) == block_with("--nnodes 2", ASCEND[0])


def test_four_cards_of_two_machines_train_as_one_process_and_end_when_one_is_killed(npu_sim, tmp_path):
    data = tiny_folder.write_rows(tmp_path / "data")
    one = train(settings(tmp_path, data, "anyres", **STEPS, per_device_train_batch_size=4))
    values = settings(tmp_path / "four", data, "anyres", **STEPS, per_device_train_batch_size=1)
    values |= {"device": "npu", "max_steps": 100_000, "sharding": "stage2", "sharding_parallel_degree": 2}
    variables = {**npu_sim.card_environment(2), "OMP_NUM_THREADS": "1", "PADDLE_XCCL_BACKEND": "npu"}
    del variables["CUDA_VISIBLE_DEVICES"]  # the launcher would use an empty one as the list of cards
    with machines(tmp_path, [values, values], ASCEND[0], ["--npus", "0,1"], variables) as started:
        assert wait_for_losses(started, NUM_STEPS) == pytest.approx(one.recorder.losses, abs=1e-5)
        processes = started[1].processes()
        rank = max(processes)
        os.kill(processes[rank], signal.SIGKILL)
        assert [machine.ended() for machine in started] == [1, 1]
        for machine in started:
            assert last_error(machine).startswith(f"rank {rank} on node {rank // 2} (127.0.0.1) is gone: its process")
            assert machine.processes() == {}
            assert all("Traceback" not in text for text in machine.logs)

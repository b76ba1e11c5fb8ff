"""The second process of a server takes the second card, and answers there as on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("answer_as_server.py")


def test_second_process_answers_on_the_second_card_as_on_a_cpu(npu_sim):
    done = subprocess.run(
        [sys.executable, SCRIPT, "cpu", "0", "1"],
        capture_output=True,
        text=True,
        env=npu_sim.plain_environment(),
        check=True,
    )
    expected = json.loads(done.stdout.splitlines()[-1])
    found = npu_sim.run([SCRIPT, "npu", "1", "2"], num_cards=2)
    assert found.returncode == 0, found.text
    assert json.loads(found.output.splitlines()[-1]) == {"device": "npu:1", "texts": expected["texts"]}

"""Train several configurations one after another in the same processes: `cards.py pretrain:FILE sft:FILE`.

The losses of each configuration are written to losses.RANK.json beside it, and its exit code is printed. Sharding stage
3 divides weights of a million or more elements; for these tiny models the threshold is 64. Runs with sharding must come
before runs without it, because the process groups are created once.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

from paddlemix.device import prepare_environment

prepare_environment("npu")

from paddle.distributed import sharding  # noqa: E402

from paddlemix.commands.train import main as run_command  # noqa: E402
from paddlemix.train import run  # noqa: E402

SLICED_FROM = 64  # elements
TEMPLATES = {"pretrain": "plain", "sft": None}


def main(items: list[str]) -> int:
    """Train all configurations; return the first exit code that is not 0."""
    sharding.group_sharded_parallel = functools.partial(sharding.group_sharded_parallel, segment_size=SLICED_FROM)
    codes = [train(*item.split(":")) for item in items]
    print("codes", codes, flush=True)
    return next((code for code in codes if code), 0)


def train(script: str, config: str) -> int:
    """Train one configuration and write its losses."""
    execute = run.execute

    def recording(trainer, args, settings=None, begin=None):
        execute(trainer, args, settings, begin)
        logged = [pair for name in ("loss", "eval_loss") for pair in trainer.history.values.get(name, ())]
        values = [value for step, value in logged if step > trainer.num_done_steps]
        rank = os.environ.get("PADDLE_TRAINER_ID", "0")
        Path(config).with_name(f"losses.{rank}.json").write_text(json.dumps(values))

    run.execute = recording
    try:
        return run_command([config], script=f"{script}.py", template=TEMPLATES[script])
    finally:
        run.execute = execute


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

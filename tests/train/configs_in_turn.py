"""Train configurations one after another in the same processes: `configs_in_turn.py CONFIG.json ...`.

Runs with sharding must come before runs without it, because the process groups are created once.
"""

from __future__ import annotations

import sys

from paddlemix.device import prepare_environment

prepare_environment("cpu")

from paddlemix.commands.train import main  # noqa: E402

if __name__ == "__main__":
    codes = [main([config], script="sft", template=None) for config in sys.argv[1:]]
    sys.exit(next((code for code in codes if code), 0))

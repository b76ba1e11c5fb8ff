"""Serve a model and register it. `model_worker.py --model-path DIR --controller-address URL`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("llava-model-worker", sys.argv[1:]))

"""Stage 1: train the projector on images and captions. `pretrain.py config.json [--key value ...]`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("pretrain", sys.argv[1:]))

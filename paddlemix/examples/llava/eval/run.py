"""Score a model on benchmarks, with one process or several. `run.py TASK --model-path M --data-dir D --output OUT`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("eval", ["run", *sys.argv[1:]]))

"""Print the answer to one question. `run_llava.py --model-path DIR --image-file IMAGE --query TEXT`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("llava-run", sys.argv[1:]))

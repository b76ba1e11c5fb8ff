"""Keep a list of workers. `controller.py --host localhost --port 21001`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("llava-controller", sys.argv[1:]))

"""Talk with a model about images. `cli.py --model-path DIR --image-file IMAGE`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("chat", sys.argv[1:]))

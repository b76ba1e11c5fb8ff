"""Give the page of a worker an address. `gradio_web_server.py --controller-url URL`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("llava-gradio-web-server", sys.argv[1:]))

"""Answer the questions of a file in at most 128 tokens; else the same as model_vqa.py."""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("llava-vqa", ["--max_new_tokens", "128", *sys.argv[1:]]))

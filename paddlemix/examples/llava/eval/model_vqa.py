"""Answer the questions of a file. `model_vqa.py --model-path M --question-file Q --image-folder I --answers-file A`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("llava-vqa", sys.argv[1:]))

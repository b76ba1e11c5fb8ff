"""Answer the questions of ScienceQA. `model_vqa_science.py --model-path M --question-file Q --answers-file A`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("llava-vqa-science", sys.argv[1:]))

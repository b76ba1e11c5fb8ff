"""Have a judge compare two answers to each question. `eval_gpt_review_visual.py -q FILE -c FILE -a REF OURS -o OUT`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("review-answers", sys.argv[1:]))

"""Review LLaVA-Bench with a judge. `eval_gpt_review_bench.py -q FILE -c context.jsonl -a REF OURS -o OUT`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("review-answers", sys.argv[1:]))

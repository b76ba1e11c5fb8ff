"""Score answers to ScienceQA. `eval_science_qa.py --base-dir D --result-file A --output-file O --output-result R`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("llava-score-science", sys.argv[1:]))

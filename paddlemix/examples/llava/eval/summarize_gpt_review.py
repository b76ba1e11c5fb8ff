"""Print the figures of review files. `summarize_gpt_review.py -d DIR` or `-f FILE ...`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("summarize-reviews", sys.argv[1:]))

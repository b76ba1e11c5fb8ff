"""Convert a public data set to LLaVA's rows.

`preprocess_dataset.py ai2d --question_dir DIR --output_jsonl_dir DIR`; -h lists the data sets
"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("prepare", sys.argv[1:]))

"""Merge a LoRA folder into its base.

`merge_lora_params.py --model_name_or_path BASE --lora_path LORA --merge_model_path OUT`
"""

import sys

from paddlemix.cli import Parser, add_merge, run

if __name__ == "__main__":
    sys.exit(run(add_merge(Parser(description=__doc__)), sys.argv[1:]))

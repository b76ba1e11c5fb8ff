"""Merge a LoRA adapter into its base model.

`merge_lora_params.py --model_name_or_path BASE --lora_path LORA --merge_model_path OUT`
"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("merge", sys.argv[1:]))

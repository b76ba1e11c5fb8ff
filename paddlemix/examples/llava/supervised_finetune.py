"""Stage 2: fine-tune on conversations, whole or with LoRA. `supervised_finetune.py config.json [--key value ...]`"""

import sys

from paddlemix.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("sft", sys.argv[1:]))

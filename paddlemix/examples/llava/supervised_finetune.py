"""Stage 2: fine-tune on conversations, whole or with LoRA. `supervised_finetune.py config.json [--key value ...]`"""

import sys

from paddlemix.train.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], script="supervised_finetune.py", template=None))

"""Stage 1: align the projector on image-caption pairs. `pretrain.py config.json [--key value ...]`"""

import sys

from paddlemix.train.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], script="pretrain.py", template="plain"))

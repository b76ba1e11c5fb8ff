"""Talk with a model about pictures. `run_predict_multiround.py --model-path DIR --image-file PICTURE`"""

import sys

from paddlemix.cli import Parser, add_chat, run

if __name__ == "__main__":
    sys.exit(run(add_chat(Parser(description=__doc__)), sys.argv[1:]))

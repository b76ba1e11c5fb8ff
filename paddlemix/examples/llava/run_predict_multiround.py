"""Talk with a model about pictures. `run_predict_multiround.py --model-path DIR --image-file PICTURE`"""

import argparse
import sys

from paddlemix.cli import add_chat, run

if __name__ == "__main__":
    sys.exit(run(add_chat(argparse.ArgumentParser(description=__doc__)), sys.argv[1:]))

"""Numbers, marks and places that every room agrees on."""

from pathlib import Path

IMAGE_MARK = "<image>"  # in text: a picture stands here
IMAGE_TOKEN_ID = -200  # in token ids: one image feature goes here (already repeated)
IGNORE_INDEX = -100  # in labels: not trained
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BUNDLED_MODEL = str(Path(__file__).parent / "examples" / "llava" / "tiny" / "model")

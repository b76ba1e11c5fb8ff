"""Numbers, marks and paths that all rooms share."""

from pathlib import Path

IMAGE_MARK = "<image>"  # in text: the place of an image
IMAGE_TOKEN_ID = -200  # in token ids: the place of one image feature (already repeated)
IGNORE_INDEX = -100  # in labels: not trained
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BUNDLED_MODEL = str(Path(__file__).parent / "examples" / "llava" / "tiny" / "model")

"""Numbers and marks that every room agrees on."""

IMAGE_MARK = "<image>"  # in text: a picture stands here
IMAGE_TOKEN_ID = -200  # in token ids: one image feature goes here (already repeated)
IGNORE_INDEX = -100  # in labels: not trained

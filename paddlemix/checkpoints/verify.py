"""Proves that a converted folder holds what its source holds: tensor by tensor, or by what the model answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..tensor_files.stored import CheckpointError, preview
from ..tensor_files.transforms import is_same
from .checkpoint import Checkpoint, open_written

PROMPT = "What is in this picture?"
PICTURE_SIZE = (96, 64)  # (width, height)
NUM_IDS = 8  # of a prompt without a tokenizer
TOLERANCE = 1e-4


def compare_tensors(source: Checkpoint, folder: Path) -> list[str]:
    """Compare every tensor, bit by bit, with the source's in the same dtype. Raises CheckpointError."""
    result = open_written(folder, source)
    names = sorted(set(source.tensors) ^ set(result.tensors))
    if names:
        raise CheckpointError(f"verification failed: {len(names)} tensors are on one side only: {preview(names)}")
    different = [name for name, tensor in source.tensors.items() if not is_same(tensor, result.tensors[name])]
    if different:
        raise CheckpointError(f"verification failed: {len(different)} tensors differ: {preview(different)}")
    if source.cut and not source.is_cut_padding:
        kept = f"what was kept of all {len(source.tensors)} tensors is the source's bit by bit"
        return [f"verified: {kept}; left out were rows of the vocabulary: {source.cut}"]
    rest = f" without its padding of the vocabulary: {source.cut}" if source.cut else ""
    return [f"verified: all {len(source.tensors)} tensors are bit-equal to the source's{rest}"]


def compare_logits(source: Checkpoint, folder: Path) -> list[str]:
    """Compare the logits for a fixed prompt with a picture, in float32. Raises CheckpointError for a difference.

    One model at a time is in memory, so this needs as much of it as the model in float32.
    """
    result = open_written(folder, source)
    expected, found = (_logits(one, source) for one in (source, result))
    if expected.shape != found.shape:
        raise CheckpointError(f"verification failed: logits of shape {found.shape}, expected {expected.shape}")
    difference = float(np.abs(expected - found).max())
    if not difference <= TOLERANCE:  # a NaN is a failure too
        raise CheckpointError(
            f"verification failed: the logits differ by up to {difference:g}, expected {TOLERANCE} at most"
        )
    return [f"verified: the logits of a prompt with a picture differ by {difference:.1e} at most"]


def _logits(checkpoint: Checkpoint, prompt_source: Checkpoint) -> np.ndarray:
    """Return the logits of the fixed prompt, of which both checkpoints get the same ids."""
    import paddle

    from .load import build_model, fill

    model = build_model(checkpoint.config, "float32", is_empty=True)
    fill(model, {name: (tensor, False) for name, tensor in checkpoint.tensors.items()}, checkpoint.path)
    model.eval()
    with paddle.no_grad():
        return model(_batch(prompt_source)).numpy()


def _batch(source: Checkpoint):
    """Return the fixed prompt as a batch: in the template's words, or as a few ids where there is no tokenizer."""
    from ..constants import IMAGE_TOKEN_ID
    from ..conversation.messages import Conversation, Message
    from ..conversation.templates import get_template
    from ..data.collate import collate
    from ..data.sample import Batch
    from ..image.preprocess import preprocess
    from .processor import LlavaProcessor

    if source.tokenizer is not None:
        processor = LlavaProcessor(source.tokenizer, get_template(source.config.template), source.config.image)
        message = Message("user", f"<image>\n{PROMPT}")
        sample = processor.encode(Conversation(messages=(message,), images=(_picture(),)))
        return collate([sample], pad_id=source.tokenizer.pad_id)
    tiles = preprocess(_picture(), source.config.image)
    text = np.random.default_rng(0).integers(1, source.config.language.vocab_size, NUM_IDS).tolist()
    ids = np.array([[*text, *[IMAGE_TOKEN_ID] * tiles.num_tokens, *text]])
    positions, ones = np.arange(ids.shape[1])[None], np.ones_like(ids)
    return Batch(ids, None, positions, ones, tiles.pixels, np.array([len(tiles.pixels)]), np.array([tiles.size]))


def _picture():
    """Return a picture of coloured stripes."""
    from PIL import Image

    width, height = PICTURE_SIZE
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([columns * 2, rows * 3, (columns * rows) % 256], axis=-1).astype(np.uint8))

"""Verification that a converted folder has the content of its source: by its tensors, or by the logits of the model."""

from __future__ import annotations

import numpy as np

from ..tensor_files.stored import CheckpointError, counted, preview
from ..tensor_files.transforms import is_same
from .source import Source

PROMPT = "What is in this image?"
IMAGE_SIZE = (96, 64)  # (width, height)
NUM_IDS = 8  # of a prompt without a tokenizer
TOLERANCE = 1e-4


def compare_tensors(source: Source, result: Source) -> list[str]:
    """Compare every tensor bit by bit with the source's in the same dtype. Raises CheckpointError."""
    names = sorted(set(source.tensors) ^ set(result.tensors))
    if names:
        raise CheckpointError(f"verification failed: {counted(names)} on one side only: {preview(names)}")
    different = [name for name, tensor in source.tensors.items() if not is_same(tensor, result.tensors[name])]
    if different:
        raise CheckpointError(f"verification failed: {counted(different)} differ: {preview(different)}")
    removed = source.describe_removed_rows()
    if removed and not source.removed_rows_are_untrained:
        kept = f"all {len(source.tensors)} tensors are the source's bit by bit, but for dropped rows of the vocabulary"
        return [f"verified: {kept}: {removed}"]
    rest = f" without its padding of the vocabulary: {removed}" if removed else ""
    merged = f", merged in {source.config.dtype}" if source.layout.kind == "adapter" else ""
    return [f"verified: all {len(source.tensors)} tensors are bit-equal to the source's{merged}{rest}"]


def compare_logits(source: Source, result: Source) -> list[str]:
    """Compare the logits of a fixed prompt with an image, in float32. Raises CheckpointError for a difference.

    Only one model at a time is in memory, in float32.
    """
    expected, found = (_logits(one, source) for one in (source, result))
    if expected.shape != found.shape:
        raise CheckpointError(f"verification failed: logits of shape {found.shape}, expected {expected.shape}")
    difference = float(np.abs(expected - found).max())
    if not difference <= TOLERANCE:  # a NaN is a failure too
        raise CheckpointError(
            f"verification failed: the logits differ by up to {difference:g}, expected {TOLERANCE} at most"
        )
    return [f"verified: the logits of a prompt with an image differ by {difference:.1e} at most"]


def _logits(source: Source, prompt_source: Source) -> np.ndarray:
    """Return the logits of the fixed prompt, whose ids are the same for both sources."""
    import paddle

    from .load import build_model, fill

    model = build_model(source.config, "float32", is_empty=True)
    fill(model, source.tensors, source.path)
    model.eval()
    with paddle.no_grad():
        return model(_batch(prompt_source)).numpy()


def _batch(source: Source):
    """Return the fixed prompt as a batch: in the chat format, or as a few ids if there is no tokenizer."""
    from ..constants import IMAGE_TOKEN_ID
    from ..conversation.messages import Conversation, Message
    from ..conversation.templates import get_template
    from ..data.collate import collate
    from ..data.sample import Batch
    from ..image.preprocess import preprocess
    from .processor import LlavaProcessor

    if source.tokenizer is not None:
        template = get_template(source.config.template, has_image_marks=source.config.has_image_marks)
        processor = LlavaProcessor(source.tokenizer, template, source.config.image)
        message = Message("user", f"<image>\n{PROMPT}")
        sample = processor.encode(Conversation(messages=(message,), images=(_image(),)))
        return collate([sample], pad_id=source.tokenizer.pad_id)
    tiles = preprocess(_image(), source.config.image)
    text = np.random.default_rng(0).integers(1, source.config.language.vocab_size, NUM_IDS).tolist()
    ids = np.array([[*text, *[IMAGE_TOKEN_ID] * tiles.num_tokens, *text]])
    positions, ones = np.arange(ids.shape[1])[None], np.ones_like(ids)
    return Batch(ids, None, positions, ones, tiles.pixels, np.array([len(tiles.pixels)]), np.array([tiles.size]))


def _image():
    """Return a PIL image of colored stripes."""
    from PIL import Image

    width, height = IMAGE_SIZE
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([columns * 2, rows * 3, (columns * rows) % 256], axis=-1).astype(np.uint8))

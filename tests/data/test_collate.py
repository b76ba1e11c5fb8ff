"""Samples to a batch."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from paddlemix.data.collate import collate, collate_packs
from paddlemix.data.sample import Sample
from paddlemix.image.preprocess import ImageTiles


def tiles(num_tiles, num_tokens, fill, size=(30, 20)):
    return ImageTiles(np.full([num_tiles, 3, 4, 4], fill, dtype=np.float32), size, num_tokens)


def sample(length, *images, has_labels=True):
    """Return a sample: the placeholders of its images, then ids from 10, the second half with labels."""
    num_image_tokens = sum(image.num_tokens for image in images)
    ids = np.concatenate([np.full(num_image_tokens, -200), np.arange(10, 10 + length)]).astype(np.int64)
    labels = np.where(np.arange(len(ids)) >= len(ids) // 2, ids, -100)
    return Sample(ids, labels if has_labels else None, images)


TEXT = sample(5)
ONE = sample(3, tiles(1, 4, 1.0, (10, 20)))
MANY = sample(2, tiles(3, 5, 2.0, (30, 40)), tiles(5, 6, 3.0, (50, 60)))


def test_text_only_one_image_and_many_images_mix_in_a_batch():
    batch = collate([ONE, TEXT, MANY])
    assert batch.token_ids.shape == (3, 13)
    assert batch.pixels.shape == (9, 3, 4, 4) and batch.pixels.dtype == np.float32
    assert batch.pixels[:, 0, 0, 0].tolist() == [1, 2, 2, 2, 3, 3, 3, 3, 3]
    assert batch.tiles_per_image.tolist() == [1, 3, 5]
    assert batch.image_sizes.tolist() == [[10, 20], [30, 40], [50, 60]]


def test_padding_is_on_the_right_with_segment_0_position_0_and_no_label():
    batch = collate([TEXT, ONE], pad_id=9)
    assert batch.token_ids.tolist() == [[10, 11, 12, 13, 14, 9, 9], [-200, -200, -200, -200, 10, 11, 12]]
    assert batch.labels.tolist() == [[-100, -100, 12, 13, 14, -100, -100], [-100, -100, -100, -200, 10, 11, 12]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 1, 0, 0], [1] * 7]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 0], [0, 1, 2, 3, 4, 5, 6]]


def test_integer_fields_are_int64():
    batch = collate([TEXT, MANY])
    for name in ("token_ids", "labels", "position_ids", "segment_ids", "tiles_per_image", "image_sizes"):
        assert getattr(batch, name).dtype == np.int64, name


def test_rows_of_a_batch_equal_batches_of_one():
    together = collate([ONE, TEXT, MANY])
    first_tile = 0
    for row, each in enumerate((ONE, TEXT, MANY)):
        alone, length = collate([each]), len(each.token_ids)
        for name in ("token_ids", "labels", "position_ids", "segment_ids"):
            np.testing.assert_array_equal(getattr(together, name)[row, :length], getattr(alone, name)[0])
        if alone.pixels is not None:
            end = first_tile + len(alone.pixels)
            np.testing.assert_array_equal(together.pixels[first_tile:end], alone.pixels)
            first_tile = end
    assert first_tile == len(together.pixels)


def test_batch_without_images_has_no_image_fields():
    batch = collate([TEXT, TEXT])
    assert batch.pixels is None and batch.tiles_per_image is None and batch.image_sizes is None


def test_labels_are_none_when_no_sample_has_any():
    assert collate([sample(3, has_labels=False), sample(5, has_labels=False)]).labels is None


@pytest.mark.parametrize(
    ("multiple", "max_length", "width"), [(None, None, 13), (8, None, 16), (8, 14, 14), (32, 32, 32), (13, 13, 13)]
)
def test_width_is_rounded_up_but_not_over_max_length(multiple, max_length, width):
    batch = collate_packs([[TEXT], [MANY]], pad_to_multiple=multiple, max_length=max_length)
    assert batch.token_ids.shape == batch.position_ids.shape == (2, width)


def test_inputs_are_neither_changed_nor_shared():
    samples = [copy.deepcopy(ONE)]
    batch = collate(samples)
    for array in (batch.token_ids, batch.labels, batch.pixels):
        array[...] = 77
    np.testing.assert_array_equal(samples[0].token_ids, ONE.token_ids)
    np.testing.assert_array_equal(samples[0].labels, ONE.labels)
    np.testing.assert_array_equal(samples[0].images[0].pixels, ONE.images[0].pixels)


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        ([], {}, "no samples"),
        ([TEXT, MANY], {"max_length": 12}, "row 1 has 13 tokens, but max_length is 12"),
        ([TEXT, sample(3, has_labels=False)], {}, "1 of 2 samples have labels"),
        ([Sample(TEXT.token_ids, TEXT.labels, ONE.images)], {}, "sample 0 has 0 image placeholders.*1 images have 4"),
        ([TEXT], {"pad_to_multiple": 0}, "at least 1, found 0"),
    ],
)
def test_samples_that_do_not_fit_together_are_refused_with_both_numbers(samples, options, words):
    with pytest.raises(ValueError, match=words):
        collate_packs([[sample] for sample in samples], **options)

"""The data set of rows."""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest
from data_rows import read_mixture

from paddlemix.data.dataset import ConversationDataset, RowError
from paddlemix.data.encode import SampleTooLongError, encode_turns
from paddlemix.data.sample import Sample
from paddlemix.image.errors import ImageError

PICTURE_ROW = {"image": "a.png", "conversations": [["<image>\nWhat?", "A square."], ["So?", "Blue."]]}
TEXT_ROW = {"conversations": [["Hi", "Hello."]]}


@pytest.fixture
def make(write, tokenizer, template, spec, images):
    """Return a function that writes rows to data.json and returns their data set."""

    def make_dataset(rows, max_length=None):
        path = write("data.json", rows)
        bound = functools.partial(
            encode_turns, tokenizer=tokenizer, template=template, spec=spec, max_length=max_length
        )
        return ConversationDataset(read_mixture({"data_files": str(path), "image_folder": str(images)}, "train"), bound)

    return make_dataset


def test_items_are_the_samples_of_the_rows(make):
    dataset = make([PICTURE_ROW, TEXT_ROW])
    assert len(dataset) == 2
    assert [len(dataset[index].images) for index in (0, 1)] == [1, 0]


def test_pickled_dataset_has_equal_samples(make):
    dataset = make([PICTURE_ROW])
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy[0].token_ids, dataset[0].token_ids)
    np.testing.assert_array_equal(copy[0].images[0].pixels, dataset[0].images[0].pixels)


def test_images_are_opened_only_when_their_row_is_read(make):
    dataset = make([TEXT_ROW, PICTURE_ROW | {"image": "gone.png"}])
    assert dataset[0].images == ()
    with pytest.raises(RowError, match=r"data\.json, row 2: .*gone\.png"):
        dataset[1]


def test_error_names_file_and_row_and_keeps_its_cause(make, images):
    (images / "broken.png").write_bytes(b"not an image")
    for row, max_length, cause in (
        (PICTURE_ROW | {"image": "broken.png"}, None, ImageError),
        (PICTURE_ROW, 20, SampleTooLongError),
    ):
        with pytest.raises(RowError, match=r"data\.json, row 2: ") as caught:
            make([TEXT_ROW, row], max_length)[1]
        assert isinstance(caught.value.__cause__, cause)
        # A loader worker raises errors again as type(error)(text).
        assert str(RowError(str(caught.value))) == str(caught.value)


def test_cut_sample_has_a_note_and_a_whole_one_none(make):
    dataset = make([PICTURE_ROW | {"id": "x7"}, TEXT_ROW], max_length=len(make([PICTURE_ROW])[0].token_ids) - 1)
    (note,) = pickle.loads(pickle.dumps(dataset[0])).notes
    assert (note.number, note.id, note.kind, note.num_dropped_turns) == (1, "x7", "cut", 1)
    assert dataset[1].notes == ()


def test_sample_without_a_trained_token_is_refused(make):
    dataset = make([TEXT_ROW])
    ids = np.arange(3)
    for labels in (np.full(3, -100), None):
        untrained = ConversationDataset(dataset.rows, lambda *_, labels=labels, **__: (Sample(ids, labels), 0))
        with pytest.raises(RowError, match="row 1: no token of the row is trained"):
            untrained[0]

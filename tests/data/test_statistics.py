"""Statistics of data: measured rows, lengths, images and duplicates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from data_rows import read_mixture

from paddlemix.data.encode import SampleTooLongError, encode_turns
from paddlemix.data.measure import Measure, measure_rows
from paddlemix.data.statistics import distinct_rows, image_facts, length_facts, summarize
from paddlemix.image.errors import ImageError

TURNS = [["<image>\nWhat is in the picture?", "A red square."], ["And <image>?", "Two."], ["So?", "Blue."]]
ROWS = [
    {"image": ["a.png", "b.png"], "conversations": TURNS},
    {"image": "c.png", "conversations": TURNS[:1]},
    {"conversations": [["Hi", "Hello."]]},
    {"image": "gone.png", "conversations": TURNS[:1]},
    {"image": ["broken.png", "a.png"], "conversations": TURNS},
    {"conversations": [["Hi " * 300, "Hello."]]},
]


@pytest.fixture
def rows(write, images):
    (images / "broken.png").write_bytes(b"x")
    return read_mixture({"data_files": str(write("a.json", ROWS)), "image_folder": str(images)}, "train")


@pytest.mark.parametrize("max_length", [None, 400, 120])
def test_rows_are_measured_as_they_would_be_encoded(rows, tokenizer, template, spec, max_length):
    options = {"tokenizer": tokenizer, "template": template, "spec": spec}
    measured = list(measure_rows(rows, Measure(max_length=max_length, **options)))
    for row, fact in zip(rows, measured, strict=True):
        try:
            sample, num_dropped = encode_turns(row.conversation, folders=row.folders, max_length=max_length, **options)
        except (ImageError, SampleTooLongError) as error:
            assert fact.kind is not None and fact.reason == str(error) and fact.num_kept == fact.num_trained == 0
            continue
        whole, _ = encode_turns(row.conversation, folders=row.folders, **options)
        assert (fact.kind, fact.num_kept, fact.length) == (None, len(sample.token_ids), len(whole.token_ids))
        assert (fact.num_trained, fact.num_dropped_turns) == ((sample.labels != -100).sum(), num_dropped)
        assert fact.sizes == tuple(image.size for image in whole.images)
    assert [fact.kind for fact in measured[3:5]] == ["missing_image", "unreadable_image"]
    assert (measured[4].num_missing, measured[4].num_unreadable, len(measured[4].sizes)) == (0, 1, 1)


def test_several_processes_measure_the_same(rows, tokenizer, template, spec, monkeypatch):
    measure = Measure(tokenizer, template, spec, 200)
    alone = list(measure_rows(rows, measure))
    monkeypatch.setattr("paddlemix.data.measure.MIN_ROWS_TO_SHARE", 1)
    monkeypatch.setattr("paddlemix.data.measure.CHUNK", 4)
    assert list(measure_rows(rows, measure, num_workers=2)) == alone


def test_files_are_counted_separately_and_duplicates_found(write, images, tokenizer, template, spec):
    files = [str(write("a.json", [ROWS[1], ROWS[2], ROWS[1]])), str(write("b.json", [ROWS[2], ROWS[3]]))]
    entry = {"data_files": files, "image_folder": str(images), "weight": 2}
    mixture = read_mixture(entry, "train")
    distinct = distinct_rows(mixture)
    facts = list(measure_rows(distinct, Measure(tokenizer, template, spec, 500)))
    data = summarize(distinct, facts, [], num_in_mixture=len(mixture), max_length=500)
    assert (len(mixture), len(distinct), data.num_repeated, data.num_duplicates) == (10, 5, 5, 2)
    assert [(file.num_rows, file.num_used, file.num_images) for file in data.files] == [(3, 3, 2), (2, 1, 1)]
    assert data.totals("skipped") == {"missing_image": 1} and data.totals("formats") == {"pairs": 5}
    assert data.total("num_trained") == sum(fact.num_trained for fact in facts)
    for file in data.files:
        assert file.trained_share == file.num_trained / file.num_tokens


def test_same_text_about_another_image_is_not_a_duplicate(write, images, tokenizer, template, spec):
    rows = [ROWS[1], ROWS[1] | {"image": "a.png"}]
    rows = read_mixture({"data_files": str(write("a.json", rows)), "image_folder": str(images)}, "train")
    one, two = measure_rows(rows, Measure(tokenizer, template, spec, None))
    assert one.digest != two.digest


def test_length_statistics_equal_numpys_and_every_row_is_in_a_bin():
    values = np.random.default_rng(0).integers(1, 5000, 1000).tolist()
    facts = length_facts(values, 2048)
    assert (facts.min, facts.max, facts.median) == (min(values), max(values), np.median(values))
    assert facts.share_over == sum(value > 2048 for value in values) / 1000
    assert facts.p95 == np.percentile(values, 95)
    assert sum(facts.counts) == 1000 and len(facts.edges) == len(facts.counts) + 1 and facts.edges[-1] > max(values)
    for left, right, count in zip(facts.edges, facts.edges[1:], facts.counts, strict=False):
        assert count == sum(left <= value < right for value in values)


@pytest.mark.parametrize("values", [[7], [5, 5], [1, 2, 3]])
def test_few_short_lengths_have_a_histogram(values):
    assert sum(length_facts(values, 10).counts) == len(values)


def test_no_rows_have_no_lengths_and_no_sizes():
    assert length_facts([], 10) is None
    assert image_facts([]).min_size is None


def test_numbers_can_be_written_as_json(rows, tokenizer, template, spec):
    import json

    facts = list(measure_rows(rows, Measure(tokenizer, template, spec, 300)))
    data = summarize(rows, facts, [], num_in_mixture=len(rows), max_length=300)
    assert json.loads(json.dumps(dataclasses.asdict(data)))["files"][0]["num_rows"] == len(ROWS)

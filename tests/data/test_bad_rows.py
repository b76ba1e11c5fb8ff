"""Bad rows: which of them raise, how the others are replaced, and how many may be skipped."""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from data_rows import read_mixture
from documentation import page

from paddlemix.conversation.messages import Conversation
from paddlemix.data import dataset as dataset_module
from paddlemix.data.bad_rows import BadRowPolicy, TooManyBadRowsError, refuse
from paddlemix.data.collate import collate
from paddlemix.data.dataset import ConversationDataset, RowError
from paddlemix.data.encode import encode_turns, find_image
from paddlemix.data.mixture import scan_mixture
from paddlemix.data.readers.files import scan_rows
from paddlemix.data.row import Row
from paddlemix.data.row_note import SKIPPED, RowNote, count_kinds
from paddlemix.image.errors import MissingImageError

GOOD = [{"conversations": [["Hi", f"Answer {number}."]]} for number in range(6)]
MISSING = {"id": "m1", "image": "gone.png", "conversations": [["<image>\nWhat?", "A square."]]}
UNREADABLE = {"image": "broken.png", "conversations": [["<image>\nWhat?", "A square."]]}
LONG = {"conversations": [["Hi " * 200, "Hello."]]}
SKIP = BadRowPolicy("skip")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(dataset_module, "RETRY_SECONDS", (0.0, 0.0))


@pytest.fixture
def make(write, tokenizer, template, spec, images):
    """Return a function that writes rows to data.json and returns their data set."""
    (images / "broken.png").write_bytes(b"not an image")

    def make_dataset(rows, policy=None, max_length=150, seed=0):
        bound = functools.partial(
            encode_turns, tokenizer=tokenizer, template=template, spec=spec, max_length=max_length
        )
        mixture = read_mixture({"data_files": str(write("data.json", rows)), "image_folder": str(images)}, "train")
        return ConversationDataset(mixture, bound, policy=policy or BadRowPolicy(), seed=seed)

    return make_dataset


def answer_of(sample, tokenizer):
    return tokenizer.decode([int(label) for label in sample.labels if label != -100]).strip()


@pytest.mark.parametrize(
    ("row", "kind"), [(MISSING, "missing_image"), (UNREADABLE, "unreadable_image"), (LONG, "too_long")]
)
def test_bad_row_is_replaced_by_a_good_one_and_noted_with_its_reason(make, tokenizer, row, kind):
    sample = make([*GOOD, row])[6]
    (note,) = sample.notes
    assert (note.kind, note.number, note.id) == (kind, 7, row.get("id"))
    assert note.reason and answer_of(sample, tokenizer) in {f"Answer {number}." for number in range(6)}


def test_replacement_depends_on_seed_and_row_alone(make, tokenizer):
    rows = [*GOOD, *[MISSING] * 8]

    def drawn(seed, order):
        dataset = make(rows, BadRowPolicy("skip", 20), seed=seed)
        return {index: answer_of(dataset[index], tokenizer) for index in order}

    forward = drawn(3, range(6, 14))
    assert drawn(3, range(13, 5, -1)) == forward  # the order of reading does not matter
    assert len(set(forward.values())) > 2  # not one row for all
    assert drawn(4, range(6, 14)) != forward


def test_copies_in_loader_workers_draw_the_same(make):
    dataset = make([*GOOD, MISSING, UNREADABLE])
    copy = pickle.loads(pickle.dumps(dataset))
    for index in (7, 6, 0):
        np.testing.assert_array_equal(copy[index].token_ids, dataset[index].token_ids)
        assert copy[index].notes == dataset[index].notes


def test_batch_has_as_many_rows_and_the_notes_of_its_samples(make):
    dataset = make([*GOOD, MISSING, LONG])
    batch = collate([dataset[index] for index in (6, 0, 7)])
    assert len(batch.token_ids) == 3
    # The second replacement may have drawn the first bad row as well.
    assert {note.kind for note in batch.notes} == {"missing_image", "too_long"}


def test_replaced_row_that_was_cut_is_noted_too(make):
    long_turns = {"conversations": [["Hi", "Yes."], ["Hi " * 200, "No."]]}
    sample = make([MISSING, long_turns], BadRowPolicy("skip"))[0]
    assert [note.kind for note in sample.notes] == ["missing_image", "cut"]


@pytest.mark.parametrize("row", [MISSING, UNREADABLE, LONG])
def test_raise_stops_at_every_bad_row(make, row):
    with pytest.raises(RowError, match=r"data\.json, row 7: "):
        make([*GOOD, row], BadRowPolicy("raise"))[6]


def test_error_that_is_not_the_rows_fault_is_never_skipped(make):
    dataset = make(GOOD, SKIP)

    def broken_settings(*_, **__):
        raise ValueError("the vocabulary has no <|im_end|>")

    with pytest.raises(RowError, match="row 1: the vocabulary has no"):
        ConversationDataset(dataset.rows, broken_settings, policy=SKIP)[0]


def test_reading_an_image_is_retried(make):
    dataset = make([{"image": "a.png", "conversations": [["<image>\nWhat?", "A square."]]}])
    encode, failures = dataset.encode_function, iter([True, True, False])

    def hiccup(conversation, **options):
        bad = dataclasses.replace(conversation, images=("data:,cut",)) if next(failures) else conversation
        return encode(bad, **options)

    dataset.encode_function = hiccup
    sample = dataset[0]
    assert sample.notes == () and len(sample.images) == 1


def test_missing_image_is_not_retried(make, monkeypatch):
    monkeypatch.setattr(dataset_module, "time", None)
    assert make([GOOD[0], MISSING], SKIP)[1].notes[0].kind == "missing_image"


def test_retries_end_after_several_bad_files(make, monkeypatch):
    pauses = []
    monkeypatch.setattr(dataset_module, "time", SimpleNamespace(sleep=pauses.append))
    dataset = make([UNREADABLE] * 60, BadRowPolicy("skip", 60))
    with pytest.raises(RowError):
        dataset[0]
    assert len(pauses) == dataset_module.MAX_FAILED_RETRIES * len(dataset_module.RETRY_SECONDS)


def test_exceeding_the_limit_raises_with_the_counts_and_the_notes(make):
    dataset = make([*GOOD, *[MISSING] * 3, UNREADABLE, LONG], BadRowPolicy("skip", 3))
    for index in (10, 6, 7, 8):
        dataset[index]
    with pytest.raises(
        TooManyBadRowsError, match=r"4 of 11 rows.*3 missing.*1 unreadable.*allows 3.*row 10: "
    ) as caught:
        dataset[9]
    assert [note.number for note in caught.value.notes] == [10]


def test_data_set_without_a_good_row_is_an_error(make):
    dataset = make([LONG] * 3)
    with pytest.raises(RowError, match=r"row 1: .*max_length is 150.*none of 100 rows drawn to replace it"):
        dataset[0]


@pytest.mark.parametrize(
    ("number", "num_rows", "limit"),
    [(None, 200, 10), (None, 665_298, 6652), (0, 500, 0), (7, 500, 7), (0.05, 500, 25), (1, 500, 1)],
)
def test_limit_is_a_number_or_a_share_and_by_default_one_percent_or_ten(number, num_rows, limit):
    assert BadRowPolicy(max_bad_samples=number).limit(num_rows) == limit


@pytest.mark.parametrize("values", [("ignore", None), ("skip", -1), ("skip", 1.5), (None, float("nan"))])
def test_invalid_policy_is_refused(values):
    with pytest.raises(ValueError, match=r"on_bad_sample is 'ignore'|max_bad_samples is"):
        BadRowPolicy(*values)


WRONG = {
    "wrong_role": {"conversations": [{"from": "robot", "value": "Hi"}]},
    "empty_answer": {"id": 9, "conversations": [["Hi", " "]]},
    "unknown_format": {"text": "Hi"},
    "wrong_row": {"conversations": [["<image>", "An image."]]},
}


def test_every_bad_row_of_a_file_is_noted_with_its_kind(write):
    rows, bad = scan_rows(write("a.json", [GOOD[0], *WRONG.values(), GOOD[1]]))
    assert [row.number for row in rows] == [1, 6]
    assert [(note.number, note.kind) for note in bad] == list(enumerate(WRONG, start=2))
    assert bad[1].id == 9 and set(WRONG) < set(SKIPPED)
    assert count_kinds(bad) == dict.fromkeys(WRONG, 1)


def test_turns_that_do_not_alternate_are_a_wrong_role(write):
    turns = [{"from": "human", "value": "Hi"}, {"from": "human", "value": "Hi"}]
    assert scan_rows(write("a.json", [{"conversations": turns}]))[1][0].kind == "wrong_role"


def test_only_the_line_that_is_not_json_is_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(GOOD[0])}\n{{broken\n{json.dumps(GOOD[1])}\n")
    rows, bad = scan_rows(tmp_path / "a.jsonl")
    assert [(row.number, row.line) for row in rows] == [(1, 1), (3, 3)]
    assert [(note.number, note.line, note.kind) for note in bad] == [(2, 2, "not_json")]


def test_error_names_the_first_bad_row_and_the_number_of_others(write):
    files = [str(write("a.json", [GOOD[0], *WRONG.values()])), str(write("b.json", [GOOD[0], WRONG["wrong_role"]]))]
    with pytest.raises(ValueError, match=r"a\.json, row 2: .*'robot'.*; 4 more rows are wrong \(row 3, row 4, row 5, "):
        read_mixture({"data_files": files}, "train")
    rows, bad = scan_mixture({"data_files": files}, "train")
    assert (len(rows), len(bad)) == (2, 5)
    with pytest.raises(ValueError, match="on_bad_sample: skip leaves bad rows out"):
        refuse(bad[:1])


def test_entry_with_bad_rows_only_is_refused(write):
    with pytest.raises(ValueError, match=r"entry 1: none of its 4 rows can be used; .*row 1: "):
        scan_mixture(str(write("a.json", list(WRONG.values()))), "train")


@pytest.mark.parametrize("path", page("data"), ids=lambda path: path.parent.name)
def test_the_example_on_the_data_page_is_the_line_of_a_skipped_row(path):
    (line,) = (one for one in path.read_text(encoding="utf-8").splitlines() if one.startswith('{"split"'))
    with pytest.raises(MissingImageError) as caught:
        find_image("a.jpg", ["/data"])
    row = Row(Conversation((), ("a.jpg",)), "train.json", 17, id="000017")
    assert json.loads(line) == RowNote.of(row, "train", "missing_image", str(caught.value)).as_dict()


def test_formats_are_named_once_a_line_each_if_a_row_has_none(write):
    _, bad = scan_rows(write("data.json", [*GOOD, {"text": "Hi"}, {"text": "Ho"}]))
    with pytest.raises(ValueError, match=r"row 7: not a known row format: found the keys 'text'; expected") as caught:
        refuse(bad)
    first, *formats = str(caught.value).splitlines()
    assert first.endswith("leaves bad rows out") and formats[0] == "known formats of a row:"
    assert len(formats) == 6 and all(len(one) < 80 for one in formats)

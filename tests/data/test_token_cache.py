"""A token cache has the samples of its rows, to the last bit, in any order of its files and with its bad rows."""

from __future__ import annotations

import base64
import http.server
import json
import pickle
import shutil
import threading
from functools import partial

import numpy as np
import pytest
from cache_folder import digests, make
from PIL import Image

from paddlemix.data.bad_rows import BadRowPolicy, TooManyBadRowsError
from paddlemix.data.dataset import ConversationDataset
from paddlemix.data.encode import encode_turns
from paddlemix.data.encoding import Encoding
from paddlemix.data.measure import Measure
from paddlemix.data.mixture import scan_mixture
from paddlemix.data.row_sequence import RowSequence, known_lengths, stored_order
from paddlemix.data.token_cache.build import Work
from paddlemix.data.token_cache.records import BATCH_ROWS
from paddlemix.data.token_cache.shards import CacheError, Shard
from paddlemix.data.trial_rows import check_images

MAX_LENGTH = 160


@pytest.fixture
def encoding(tokenizer, template, spec):
    return Encoding(tokenizer, template, spec, MAX_LENGTH)


@pytest.fixture
def data(images, write):
    """Rows without, with one and with two images, long ones that are cut, and rows that are skipped."""
    names = ("a.png", "b.png", "c.png")
    rows = []
    for number in range(30):
        used = [names[(number + index) % 3] for index in range(number % 3)]
        turns = [("<image>" * len(used) + f"What is {number}?", f"It is {number}.")]
        turns += [(f"And {number}?", "Two shapes. " * 8)] * (2 * (number % 7 == 3))
        row = {"id": f"row {number}", "conversations": [list(turn) for turn in turns]}
        rows.append({**row, "image": used} if used else row)
    rows[4] = {"image": "gone.png", "conversations": [["<image>What?", "A."]]}
    rows[11] = {"conversations": [["What? " * 90, "A."]]}
    rows[17] = {"conversations": "wrong"}
    (images / "cut.png").write_bytes(b"\x89PNG\r\n")
    rows[20] = {"image": "cut.png", "conversations": [["<image>What?", "A."]]}
    return {"data_files": str(write("rows.json", rows)), "image_folder": str(images)}


def dataset_of(value, encoding: Encoding, is_compared: bool = True) -> tuple[ConversationDataset, list]:
    rows, bad = scan_mixture(value, "train", encoding=encoding if is_compared else None)
    parts = {"tokenizer": encoding.tokenizer, "template": encoding.template, "spec": encoding.spec}

    def encode(conversation, folders):
        return encode_turns(conversation, folders=folders, max_length=encoding.max_length, **parts)

    return ConversationDataset(rows, encode, policy=BadRowPolicy("skip", 0.9), num_left_out=len(bad)), bad


def assert_same_samples(first, second):
    assert len(first) == len(second)
    for one, other in ((first[index], second[index]) for index in range(len(first))):
        assert one.token_ids.dtype == other.token_ids.dtype and one.token_ids.tobytes() == other.token_ids.tobytes()
        assert one.labels.dtype == other.labels.dtype and one.labels.tobytes() == other.labels.tobytes()
        assert one.where == other.where
        assert [note.as_dict() | {"reason": ""} for note in one.notes] == [
            note.as_dict() | {"reason": ""} for note in other.notes
        ]
        assert len(one.images) == len(other.images)
        for image, same in zip(one.images, other.images, strict=True):
            assert image.pixels.tobytes() == same.pixels.tobytes() and image.size == same.size


@pytest.mark.parametrize("shuffle", [None, 5])
@pytest.mark.parametrize("has_images", [False, True])
def test_samples_and_notes_equal_those_of_the_raw_rows(data, encoding, tmp_path, has_images, shuffle):
    make(tmp_path / "cache", data, encoding, has_images=has_images, shuffle=shuffle)
    raw, left_out = dataset_of(data, encoding)
    cached, cached_left_out = dataset_of({"name": "token_cache", "data_files": str(tmp_path / "cache")}, encoding)
    assert cached_left_out == left_out and len(left_out) == 1
    assert_same_samples(raw, cached)


def test_images_in_the_cache_need_no_files(data, images, encoding, tmp_path):
    make(tmp_path / "cache", data, encoding, has_images=True)
    raw = dataset_of(data, encoding)[0]
    samples = [raw[index] for index in range(len(raw))]
    shutil.rmtree(images)
    cached = dataset_of({"name": "token_cache", "data_files": str(tmp_path / "cache")}, encoding)[0]
    assert_same_samples(samples, cached)


def test_images_may_move_to_another_folder(data, images, encoding, tmp_path):
    make(tmp_path / "cache", data, encoding)
    raw = dataset_of(data, encoding)[0]
    samples = [raw[index] for index in range(len(raw))]
    images.rename(tmp_path / "moved")
    entry = {"name": "token_cache", "data_files": str(tmp_path / "cache")}
    row = dataset_of(entry, encoding)[0].rows[1]
    with pytest.raises(ValueError, match=r"'b.png' not found; tried"):
        row.encoded.sample(row.folders)
    moved = dataset_of({**entry, "image_folder": str(tmp_path / "moved")}, encoding)[0]
    assert_same_samples(samples, moved)


def test_image_of_another_size_is_refused_with_both_sizes(data, images, encoding, tmp_path):
    make(tmp_path / "cache", data, encoding)
    Image.new("RGB", (41, 40)).save(images / "a.png")
    Image.new("RGB", (41, 40)).save(images / "b.png")
    rows = dataset_of({"name": "token_cache", "data_files": str(tmp_path / "cache")}, encoding)[0]
    with pytest.raises(ValueError, match=r"rows.json, row 2: image 'b.png' is 41x40, and was 100x30 when"):
        rows[1]


def test_lengths_are_known_without_reading_and_equal_the_measured_ones(data, encoding, tmp_path, monkeypatch):
    make(tmp_path / "cache", data, encoding, shuffle=1)
    measure = Measure(encoding.tokenizer, encoding.template, encoding.spec, MAX_LENGTH, is_thorough=False)
    raw = [measure.row(row, {}) for row in scan_mixture(data, "train")[0]]
    rows, _ = scan_mixture({"name": "token_cache", "data_files": str(tmp_path / "cache")}, "train")
    monkeypatch.setattr(Shard, "batch", None)
    assert known_lengths(rows).tolist() == [fact.num_kept for fact in raw]


def test_measurements_equal_those_of_the_raw_rows(data, encoding, tmp_path):
    make(tmp_path / "cache", data, encoding)
    measure = Measure(encoding.tokenizer, encoding.template, encoding.spec, MAX_LENGTH)
    entry = {"name": "token_cache", "data_files": str(tmp_path / "cache")}
    pairs = zip(scan_mixture(data, "train")[0], scan_mixture(entry, "train")[0], strict=True)
    for raw, cached in pairs:
        assert measure.row(cached, {}) == measure.row(raw, {})
        assert (cached.where, cached.id, cached.format) == (raw.where, raw.id, raw.format)


def test_repeated_rows_are_stored_once_and_read_as_often_as_the_mixture_has_them(data, encoding, tmp_path):
    value = [{**data, "weight": 2.5}, {**data, "num_samples": 7, "chat_template": None}]
    manifest = make(tmp_path / "cache", value, encoding)
    assert manifest.plan.num_rows == 29 and manifest.plan.num_in_mixture == round(2.5 * 29) + 7
    raw = dataset_of(value, encoding)[0]
    assert [row.where for row in raw.rows] == [row.where for row in scan_mixture(value, "train", seed=0)[0]]
    rows = scan_mixture(value, "train", seed=42)[0]
    cached = dataset_of({"name": "token_cache", "data_files": str(tmp_path / "cache")}, encoding)[0]
    assert [row.where for row in cached.rows] == [row.where for row in rows]


def test_cache_may_be_one_entry_of_a_mixture(data, encoding, tmp_path, write):
    make(tmp_path / "cache", data, encoding)
    other = str(write("other.json", [{"conversations": [["Who?", f"{n}"]]} for n in range(3)]))
    entry = {"name": "token_cache", "data_files": str(tmp_path / "cache"), "num_samples": 5}
    rows, bad = scan_mixture([{"data_files": other}, entry], "train", seed=3)
    assert isinstance(rows, RowSequence) and len(rows) == 8 and len(bad) == 1
    raw = scan_mixture([{"data_files": other}, {**data, "num_samples": 5}], "train", seed=3)[0]
    assert [row.where for row in rows] == [row.where for row in raw]
    assert [rows[index].where for index in (-1, 0, 7)] == [raw[index].where for index in (-1, 0, 7)]
    assert [row.where for row in rows[2:5]] == [row.where for row in raw[2:5]]
    with pytest.raises(IndexError):
        rows[8]


def test_rows_can_be_pickled_for_other_processes(data, encoding, tmp_path):
    make(tmp_path / "cache", data, encoding)
    rows, _ = scan_mixture({"name": "token_cache", "data_files": str(tmp_path / "cache")}, "train", encoding=encoding)
    part = pickle.loads(pickle.dumps(rows[:3]))
    assert [row.where for row in part] == [row.where for row in rows[:3]]
    sample = part[2].encoded.sample(part[2].folders)[0]
    assert sample.token_ids.tobytes() == rows[2].encoded.sample(rows[2].folders)[0].token_ids.tobytes()


def test_stored_order_is_that_of_the_files(data, encoding, tmp_path):
    owner = make(tmp_path / "cache", data, encoding, shuffle=9).plan.owner
    entry = {"name": "token_cache", "data_files": str(tmp_path / "cache")}
    rows, _ = scan_mixture({**entry, "order": "stored"}, "train")
    shards = sorted((tmp_path / "cache").glob("shard-*.arrow"))
    stored = [(record.number, record.row) for shard in shards for record, _ in Shard(shard, owner).records()]
    assert stored_order(rows).tolist() == [number for number, _ in stored] != list(range(29))
    assert [rows[number].number for number, _ in stored] == [row for _, row in stored]
    assert stored_order(scan_mixture(entry, "train")[0]) is None


def test_stored_order_is_refused_for_a_part_of_the_rows(data, encoding, tmp_path):
    make(tmp_path / "cache", data, encoding)
    entry = {"name": "token_cache", "data_files": str(tmp_path / "cache"), "order": "stored"}
    with pytest.raises(ValueError, match="has 'order': 'stored', and another one has not"):
        stored_order(scan_mixture([entry, data], "train")[0])
    with pytest.raises(ValueError, match="expected mixture or stored, 'stored' only for token_cache"):
        scan_mixture({**data, "order": "stored"}, "train")


def test_wrong_image_folder_is_found_with_a_few_rows(data, images, encoding, tmp_path):
    make(tmp_path / "cache", data, encoding)
    images.rename(tmp_path / "moved")
    rows, _ = scan_mixture({"name": "token_cache", "data_files": str(tmp_path / "cache")}, "train")
    measure = Measure(encoding.tokenizer, encoding.template, encoding.spec, MAX_LENGTH, is_thorough=False)
    with pytest.raises(TooManyBadRowsError, match=r"missing image.* for example .*rows.json, row 2"):
        check_images(rows, measure, BadRowPolicy(), "train")


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (BadRowPolicy("raise"), "row 5: image 'gone.png' not found.*on_bad_sample is raise"),
        (BadRowPolicy("skip", 2), "3 of 30 rows are bad"),
    ],
)
def test_bad_rows_stop_the_cache_as_they_stop_a_run(data, encoding, tmp_path, policy, text):
    with pytest.raises(ValueError, match=text):
        make(tmp_path / "cache", data, encoding, policy=policy)
    with pytest.raises(CacheError, match="is not finished"):
        scan_mixture({"name": "token_cache", "data_files": str(tmp_path / "cache")}, "train")
    with pytest.raises(ValueError, match=text):  # also if all parts are there already
        make(tmp_path / "cache", data, encoding, policy=policy)


@pytest.mark.parametrize("shuffle", [None, 5])
def test_number_of_workers_and_of_ranks_changes_no_byte(data, encoding, tmp_path, shuffle):
    one = make(tmp_path / "one", data, encoding, shuffle=shuffle, has_images=True)
    four = make(tmp_path / "four", data, encoding, shuffle=shuffle, has_images=True, work=Work(num_workers=4))
    for rank in (2, 1, 0):
        work = Work(1, rank, 3)
        made = make(tmp_path / "ranks", data, encoding, shuffle=shuffle, has_images=True, work=work)
        assert (made is None) == (rank > 0)
    assert one == four == made
    assert digests(tmp_path / "one") == digests(tmp_path / "four") == digests(tmp_path / "ranks")


def test_policy_counts_the_bad_rows_of_all_ranks(data, encoding, tmp_path):
    policy = BadRowPolicy("skip", 2)
    for rank in (1, 2):
        assert make(tmp_path / "cache", data, encoding, policy=policy, work=Work(1, rank, 3)) is None
    with pytest.raises(TooManyBadRowsError, match="3 of 30 rows are bad"):
        make(tmp_path / "cache", data, encoding, policy=policy, work=Work(1, 0, 3))


def test_images_of_urls_and_data_uris_go_along(images, write, encoding, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_CACHE", str(tmp_path / "downloads"))
    uri = "data:;base64," + base64.b64encode((images / "b.png").read_bytes()).decode()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(images))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/a.png"
        rows = [{"image": source, "conversations": [["<image>What?", "A."]]} for source in (url, uri)]
        value = str(write("rows.json", rows))
        make(tmp_path / "cache", value, encoding, has_images=True)
        raw = dataset_of(value, encoding)[0]
        samples = [raw[0], raw[1]]
        server.shutdown()
    shutil.rmtree(tmp_path / "downloads")
    entry = {"name": "token_cache", "data_files": str(tmp_path / "cache")}
    assert_same_samples(samples, dataset_of(entry, encoding)[0])


def test_first_rank_names_the_ranks_whose_parts_are_missing(data, encoding, tmp_path):
    assert make(tmp_path / "cache", data, encoding, work=Work(1, 1, 3, patience=0.0)) is None
    with pytest.raises(CacheError, match="missing parts: 1, of the ranks 2, and none was written for 0 s"):
        make(tmp_path / "cache", data, encoding, work=Work(1, 0, 3, patience=0.0))


def test_batches_hold_few_rows(encoding, write, tmp_path):
    rows = [{"conversations": [["Who?", f"{number}"]]} for number in range(3 * BATCH_ROWS)]
    owner = make(tmp_path / "cache", str(write("rows.json", rows)), encoding, part_rows=1000).plan.owner
    (shard,) = (tmp_path / "cache").glob("shard-*.arrow")
    assert [len(batch) for batch in Shard(shard, owner).batches()] == [BATCH_ROWS] * 3


def test_two_images_side_by_side_keep_their_places(images, write, encoding, tmp_path):
    row = {"image": ["a.png", "b.png"], "conversations": [["<image><image>What?", "A."]]}
    value = {"data_files": str(write("rows.json", [row])), "image_folder": str(images)}
    make(tmp_path / "cache", value, encoding)
    raw, cached = (
        dataset_of(one, encoding)[0] for one in (value, {"name": "token_cache", "data_files": str(tmp_path / "cache")})
    )
    assert_same_samples(raw, cached)
    assert np.count_nonzero(cached[0].token_ids == -200) == sum(image.num_tokens for image in cached[0].images)


def test_manifest_names_counts_and_equal_checksums(data, encoding, tmp_path):
    make(tmp_path / "cache", data, encoding, shuffle=2)
    values = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert values["checksum_before"] == values["checksum_after"] != "0" * 16
    assert values["totals"]["skipped"] == {"missing_image": 1, "unreadable_image": 1, "too_long": 1}
    assert values["num_rows"] == sum(shard["rows"] for shard in values["shards"]) == 29
    plain = make(tmp_path / "plain", data, encoding)
    assert plain.checksum_after == values["checksum_after"]  # of a set, whatever its order

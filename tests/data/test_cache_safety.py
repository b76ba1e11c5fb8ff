"""A cache of other data or settings, an unfinished one and a damaged one are one clear error."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cache_folder import digests, make
from kills import kill_at

from paddlemix.conversation.templates import get_template
from paddlemix.data.encoding import Encoding
from paddlemix.data.mixture import scan_mixture
from paddlemix.data.token_cache import shuffle
from paddlemix.data.token_cache.build import Work
from paddlemix.data.token_cache.manifest import FILE, INDEX, PLAN, read_manifest
from paddlemix.data.token_cache.shards import CacheError, Shard, write_records
from paddlemix.data.token_cache.shuffle import bucket_edges, buckets, keys_of, num_buckets
from paddlemix.output import OutputError

NUM_ROWS = 40


@pytest.fixture
def encoding(tokenizer, template, spec):
    return Encoding(tokenizer, template, spec, 200)


@pytest.fixture
def data(write):
    return str(write("rows.json", [{"conversations": [["Who?", f"It is {number}."]]} for number in range(NUM_ROWS)]))


@pytest.fixture
def cache(data, encoding, tmp_path):
    make(tmp_path / "cache", data, encoding, shuffle=4)
    return tmp_path / "cache"


def read(cache: Path, encoding: Encoding | None = None) -> list[bytes]:
    """Return the tokens of all rows."""
    rows, _ = scan_mixture({"name": "token_cache", "data_files": str(cache)}, "train", encoding=encoding)
    return [row.encoded.sample(row.folders)[0].token_ids.tobytes() for row in rows]


def test_run_with_other_settings_is_refused_by_what_differs(cache, encoding, spec):
    others = {
        "max_length was 200, and is 100": dataclasses.replace(encoding, max_length=100),
        'template name was "vicuna_v1", and is "plain"': dataclasses.replace(encoding, template=get_template("plain")),
        "template has other content": dataclasses.replace(
            encoding, template=dataclasses.replace(encoding.template, system="Be brief.")
        ),
        "image patch_size was 14, and is 7": dataclasses.replace(
            encoding, spec=dataclasses.replace(spec, patch_size=7)
        ),
    }
    for text, other in others.items():
        with pytest.raises(CacheError, match=r"was made for another run: .*Make one for it with") as caught:
            read(cache, other)
        assert text in str(caught.value)
    assert len(read(cache, encoding)) == NUM_ROWS


def test_other_vocabulary_is_refused(cache, encoding, tokenizer_folder, tmp_path):
    from paddlemix.conversation.load_tokenizer import load_tokenizer

    folder = shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": False}))
    with pytest.raises(CacheError, match="tokenizer has other content"):
        read(cache, dataclasses.replace(encoding, tokenizer=load_tokenizer(folder)))


def test_data_file_that_has_changed_is_refused_and_one_that_was_touched_or_is_gone_is_not(cache, data, encoding):
    os.utime(data, (1, 1))
    assert len(read(cache, encoding)) == NUM_ROWS
    text = Path(data).read_text()
    Path(data).write_text(text.replace("It is 3.", "It is 4."))
    with pytest.raises(CacheError, match=r"rows.json has changed since the token cache .* was made of it"):
        read(cache, encoding)
    Path(data).unlink()
    assert len(read(cache, encoding)) == NUM_ROWS


def test_another_plan_in_the_same_folder_is_refused_and_the_same_one_changes_nothing(cache, data, encoding):
    before = digests(cache)
    make(cache, data, encoding, shuffle=4)
    assert digests(cache) == before
    with pytest.raises(CacheError, match=r"has a cache of other data .*: shuffle was 4, and is 5\. Name another"):
        make(cache, data, encoding, shuffle=5)
    text = Path(data).read_text()
    Path(data).write_text(text.replace("It is 3.", "It is 4."))
    with pytest.raises(CacheError, match=r"files .*rows.json sha256 was"):
        make(cache, data, encoding, shuffle=4)
    assert digests(cache) == before


def test_folder_with_other_content_is_refused_and_stays(data, encoding, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(CacheError, match="has other content than a token cache: name a new folder"):
        make(tmp_path / "mine", data, encoding)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match="is not a folder"):
        make(tmp_path / "link", data, encoding)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("order", [None, 4])
def test_cache_that_was_killed_at_any_change_to_its_folder_is_finished_to_the_same_bytes(
    data, encoding, tmp_path, monkeypatch, order
):
    make(tmp_path / "whole", data, encoding, shuffle=order)
    for number in range(1, 200):
        folder = tmp_path / f"killed-{number}"
        if not kill_at(number, monkeypatch, lambda folder=folder: make(folder, data, encoding, shuffle=order)):
            break
        make(folder, data, encoding, shuffle=order)
        assert digests(folder) == digests(tmp_path / "whole")
    assert number > 10


SCRIPT = """
import pickle, sys
from paddlemix.data.token_cache.build import Work, build
if __name__ == "__main__":
    folder, plan, data, encoder, policy = pickle.load(open(sys.argv[1], "rb"))
    print("ready", flush=True)
    build(folder, plan, data, encoder, policy, Work(num_workers=int(sys.argv[2])))
"""


def test_cache_that_is_killed_20_times_is_finished_to_the_same_bytes(encoding, write, tmp_path, monkeypatch):
    """Kill the process group at random moments, with one and with two workers, and let the last one finish."""
    import pickle

    from cache_folder import BadRowPolicy

    rows = [{"conversations": [["Who? " * 30, f"It is {number}."]]} for number in range(600)]
    data, script, calls = str(write("many.json", rows)), tmp_path / "build.py", []
    make(tmp_path / "whole", data, encoding, shuffle=7, part_rows=16)
    monkeypatch.setattr("cache_folder.build", lambda *values: calls.append(values))
    make(tmp_path / "killed", data, encoding, shuffle=7, part_rows=16, policy=BadRowPolicy())
    (tmp_path / "call").write_bytes(pickle.dumps(calls[0][:5]))
    script.write_text(SCRIPT)
    generator, num_killed = random.Random(3), 0
    for attempt in range(21):
        command = [sys.executable, str(script), str(tmp_path / "call"), str(1 + attempt % 2)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, text=True)
        assert process.stdout.readline() == "ready\n"
        if attempt < 20:
            time.sleep(generator.random() * (0.1 if attempt % 2 == 0 else 1.0))
            os.killpg(process.pid, 9)
        num_killed += process.wait() == -9
    assert process.returncode == 0 and num_killed >= 5
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_two_processes_do_not_work_on_one_folder(data, encoding, tmp_path, monkeypatch):
    monkeypatch.setattr("paddlemix.data.token_cache.build._shuffle", lambda *values: again())

    def again():
        code = "import sys; from paddlemix.output import lock_file; from pathlib import Path\n"
        code += "with lock_file(Path(sys.argv[1]), 'busy'): pass"
        lock = str(tmp_path / "cache" / ".lock")
        done = subprocess.run([sys.executable, "-c", code, lock], capture_output=True, text=True)
        raise ValueError(done.stderr)

    with pytest.raises(ValueError, match="OutputError: busy"):
        make(tmp_path / "cache", data, encoding)


def test_lost_and_doubled_rows_are_found_before_the_manifest_is_written(data, encoding, tmp_path, monkeypatch):
    def losing(*values):
        return [dataclasses.replace(bucket, runs=bucket.runs[1:] or bucket.runs) for bucket in buckets(*values)]

    monkeypatch.setattr("paddlemix.data.token_cache.build.buckets", losing)
    with pytest.raises(CacheError, match=r"its shards have .* rows, expected 40, each once and as it was encoded"):
        make(tmp_path / "cache", data, encoding, shuffle=1)
    assert not (tmp_path / "cache" / FILE).exists()


def test_buckets_share_the_rows_and_none_is_much_larger_than_a_shard():
    numbers = [np.arange(start, start + 4096) for start in range(0, 1 << 19, 4096)]
    shards = [Path(str(index)) for index in range(num_buckets(1 << 19, 0, 4096))]
    found = buckets([Path(str(index)) for index in range(len(numbers))], numbers, shards, 3, "a plan")
    counts = [bucket.num_rows for bucket in found]
    assert len(shards) == 128 and sum(counts) == 1 << 19
    assert max(counts) < 1.1 * 4096


def test_shards_with_images_have_a_limited_number_of_bytes():
    assert num_buckets(1000, 40 * shuffle.BUCKET_BYTES, 4096) == 40
    assert num_buckets(0, 0, 4096) == 1


def test_bucket_is_the_only_thing_in_memory_while_rows_are_shuffled(data, encoding, tmp_path, monkeypatch):
    """Count the rows that are read for each shard: no more than its own, from all parts."""
    seen, rows = [], Shard.rows
    monkeypatch.setattr(Shard, "rows", lambda self, start, stop: seen.append(stop - start) or rows(self, start, stop))
    written, write = [], shuffle.write_shard

    def counted(path, batches, owner):
        written.append(sum(seen))
        seen.clear()
        write(path, batches, owner)

    monkeypatch.setattr(shuffle, "write_shard", counted)
    manifest = make(tmp_path / "cache", data, encoding, shuffle=1, part_rows=5)
    assert written == [shard["rows"] for shard in manifest.shards] and max(written) < 15


def test_keys_are_those_of_their_numbers_alone():
    numbers = np.arange(10_000)
    assert np.array_equal(keys_of(numbers[5000:], 3), keys_of(numbers, 3)[5000:])
    assert not np.array_equal(keys_of(numbers, 3), keys_of(numbers, 4))
    assert len(np.unique(keys_of(numbers, 3))) == 10_000
    assert np.abs(bucket_edges(numbers, 3, 10) - np.arange(0, 10_001, 1000)).max() < 200


def unfinished(cache: Path) -> str:
    values = json.loads((cache / FILE).read_text())
    (cache / PLAN).write_text(json.dumps(values))
    (cache / FILE).unlink()
    return "is not finished: repeat"


def no_cache(cache: Path) -> str:
    (cache / FILE).unlink()
    return "is not a token cache"


def changed(**changes):
    def change(cache: Path) -> str:
        values = json.loads((cache / FILE).read_text())
        (cache / FILE).write_text(json.dumps({**values, **changes}))
        return r"manifest.json"

    return change


def cut_shard(cache: Path) -> str:
    path = next(cache.glob("shard-*"))
    path.write_bytes(path.read_bytes()[:-100])
    return "is missing or cut off: expected"


def flipped_bytes(cache: Path) -> str:
    for path in cache.glob("shard-*"):
        content = bytearray(path.read_bytes())
        for place in range(1000, len(content) - 2000, 97):
            content[place] ^= 0x55
        path.write_bytes(bytes(content))
    return "is damaged|cannot be read|has other columns"


def missing_shard(cache: Path) -> str:
    next(cache.glob("shard-*")).unlink()
    return "is missing or cut off"


def swapped_shards(cache: Path) -> str:
    values = json.loads((cache / FILE).read_text())
    first, second, *rest = values["shards"]
    (cache / FILE).write_text(json.dumps({**values, "shards": [second, first, *rest]}))
    return "is damaged"


def other_index(cache: Path) -> str:
    (cache / INDEX).write_bytes(b"ARROW1" * 20)
    return "index.arrow is missing or is not as it was written"


def other_columns(cache: Path) -> str:
    path = next(cache.glob("shard-*"))
    batch = pa.record_batch({"number": [1]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    values = json.loads((cache / FILE).read_text())
    for shard in values["shards"]:
        shard["bytes"] = (cache / shard["file"]).stat().st_size
    (cache / FILE).write_text(json.dumps(values))
    return "has other columns than this version writes"


DAMAGES = {
    "unfinished": unfinished,
    "no cache": no_cache,
    "cut": cut_shard,
    "missing": missing_shard,
    "flipped": flipped_bytes,
    "swapped": swapped_shards,
    "index": other_index,
    "columns": other_columns,
    "not json": lambda cache: (cache / FILE).write_text("{") and "manifest.json is not valid JSON",
    "a list": lambda cache: (cache / FILE).write_text("[]") and "holds a JSON list",
    "kind": changed(kind="other"),
    "version": changed(version=2),
    "unknown key": changed(more=1),
    "count": changed(num_rows=41),
    "negative": changed(num_rows=-1),
    "checksum": changed(checksum_after="0"),
    "path": changed(shards=[{"file": "../shard-00000.arrow", "rows": 40, "bytes": 1}]),
    "no shards": changed(shards=[]),
    "files": changed(files=[{"file": 3}]),
    "files null": changed(files=None),
    "notes": changed(left_out=[{"a": 1}]),
    "mixture": changed(mixture_digest="12"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_cache_is_one_clear_error(cache, encoding, damage):
    text = DAMAGES[damage](cache)
    if damage == "mixture":
        text = "mixture.arrow is missing"
    with pytest.raises(CacheError, match=text) as caught:
        read(cache, encoding)
    assert "\n" not in str(caught.value)


def test_shard_of_another_cache_is_not_taken_for_one_of_this(cache, write, encoding, tmp_path):
    """Its rows have the same numbers and its file the same size; only their answers differ."""
    rows = [{"conversations": [["Who?", f"It is {number}."]]} for number in reversed(range(NUM_ROWS))]
    make(tmp_path / "other", str(write("other.json", rows)), encoding, shuffle=4)
    swapped = 0
    for path in cache.glob("shard-*"):
        other = tmp_path / "other" / path.name
        swapped += other.stat().st_size == path.stat().st_size and other.read_bytes() != path.read_bytes()
        shutil.copy(other, path)
    assert swapped
    with pytest.raises(CacheError, match=r"is a file of another cache|is missing or cut off"):
        read(cache, encoding)


def test_command_checks_a_finished_cache_and_says_what_mends_it(data, encoding, tmp_path):
    """Training refuses a damaged cache, so the command must not call it finished: it would never be mended."""
    folder = tmp_path / "cache"
    make(folder, data, encoding)
    whole = digests(folder)
    flipped_bytes(folder)
    for num_workers in (1, 2):
        with pytest.raises(CacheError, match=r"remove the folder and make the cache again"):
            make(folder, data, encoding, work=Work(num_workers))
    shutil.rmtree(folder)
    make(folder, data, encoding)
    make(folder, data, encoding)
    assert digests(folder) == whole


@pytest.mark.parametrize("image", [None, [], {}, {"side": 336, "depth": 3}])
def test_manifest_whose_plan_was_edited_has_no_shards(cache, image):
    values = json.loads((cache / FILE).read_text())
    changed(encoding={**values["encoding"], "image": image})(cache)
    with pytest.raises(CacheError, match="is a file of another cache"):
        read(cache)


def test_any_flipped_byte_of_a_shard_is_found_or_changes_nothing(cache, encoding):
    expected, path = read(cache, encoding), next(cache.glob("shard-*"))
    content = path.read_bytes()
    for place in random.Random(0).sample(range(len(content)), 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            assert read(cache, encoding) == expected
        except CacheError as error:
            assert "make the cache again" in str(error)


FORGED = {
    "ids above the vocabulary": ({"token_ids": [3, 99_999]}, "token ids from 3 to 99999, expected 0 to 399"),
    "ids below 0": ({"token_ids": [3, -7]}, "token ids from -7 to 3, expected 0 to 399"),
    "an image without end": (
        {"token_ids": [3, -200], "image_tokens": [2**31 - 1], "num_kept": 2**31},
        "2147483648 tokens, expected 2147483648, at most 200",
    ),
    "more tokens than stated": ({"num_kept": 3}, "expected 3, at most 200"),
    "a place without an image": ({"token_ids": [3, -200], "num_kept": 1}, "1 placeholders for 0 of 0 images"),
    "another number": ({"number": 12}, "is not where its index says"),
    "an unknown file": ({"file": 5}, "is not where its index says"),
    "half a run": ({"trained": [1]}, "with other counts"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_row_with_a_right_checksum_is_one_clear_error(cache, encoding, name):
    """A cache may come from somebody else: no row of it may reach the model with wrong ids or take all memory."""
    changes, text = FORGED[name]
    changes = {key: np.array(value, np.int32) if isinstance(value, list) else value for key, value in changes.items()}
    path = next(cache.glob("shard-*"))
    owner = read_manifest(cache).plan.owner
    first, *rest = (record for record, _ in Shard(path, owner).records())
    write_records(path, iter([dataclasses.replace(first, **changes), *rest]), owner)
    values = json.loads((cache / FILE).read_text())
    for shard in values["shards"]:
        shard["bytes"] = (cache / shard["file"]).stat().st_size
    (cache / FILE).write_text(json.dumps(values))
    with pytest.raises(CacheError, match=text):
        read(cache, encoding)


def test_manifest_that_names_a_device_as_its_data_file_is_refused_and_the_device_is_not_read(cache, encoding):
    values = json.loads((cache / FILE).read_text())
    values["files"][0] |= {"path": "/dev/zero", "bytes": 0}
    (cache / FILE).write_text(json.dumps(values))
    with pytest.raises(CacheError, match="has changed since"):
        read(cache, encoding)


def test_finished_parts_of_a_damaged_cache_are_found_when_it_goes_on(data, encoding, tmp_path):
    make(tmp_path / "cache", data, encoding)
    (tmp_path / "cache" / FILE).rename(tmp_path / "manifest")
    values = json.loads((tmp_path / "manifest").read_text())
    (tmp_path / "cache" / PLAN).write_text(json.dumps(values))
    flipped_bytes(tmp_path / "cache")
    with pytest.raises(CacheError, match=r"is damaged|cannot be read|has other columns"):
        make(tmp_path / "cache", data, encoding, work=Work())

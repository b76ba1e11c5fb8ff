"""HDF5 files have the fields of the Model Zoo's layout, and give back the samples that were written."""

from __future__ import annotations

import functools
import json
import pickle
import re

import numpy as np
import pytest
from cache_folder import digests
from kills import kill_at

from paddlemix.constants import IGNORE_INDEX, IMAGE_TOKEN_ID
from paddlemix.conversation.templates import get_template
from paddlemix.data.bad_rows import BadRowPolicy, TooManyBadRowsError
from paddlemix.data.encode import encode_turns
from paddlemix.data.encoding import Encoding
from paddlemix.data.hdf5.layout import Layout, LayoutError
from paddlemix.data.hdf5.write import HdfEncoder, find_layout, write_hdf5
from paddlemix.data.measure import Measure
from paddlemix.data.mixture import scan_mixture
from paddlemix.image.spec import ImageSpec
from paddlemix.output import OutputError

h5py = pytest.importorskip("h5py")
MAX_LENGTH = 120
SPEC = ImageSpec(side=28, patch_size=7, mode="pad")  # 16 tokens an image


@pytest.fixture
def encoding(tokenizer, template):
    return Encoding(tokenizer, template, SPEC, MAX_LENGTH)


@pytest.fixture
def data(images, write):
    """Rows with one image and without; one has it at another place, one has two, one is too long."""
    rows = []
    for number in range(12):
        row = {"conversations": [[f"What is {number}?", f"It is {number}."], ["And?", "Two shapes."]]}
        if number % 3:
            row = {"image": "abc"[number % 3] + ".png", "conversations": [["<image>\nWhat?", f"{number}."]]}
        rows.append(row)
    rows[4] = {"image": "a.png", "conversations": [["What?\n<image>", "A."]]}
    rows[5] = {"image": ["a.png", "b.png"], "conversations": [["<image>\n<image>\nWhat?", "A."]]}
    rows[8] = {"conversations": [["What? " * 90, "A."]]}
    return {"data_files": str(write("rows.json", rows)), "image_folder": str(images)}


def write_files(folder, value, encoding, *, policy=None, **options):
    rows, _ = scan_mixture(value, "train")
    measure = Measure(encoding.tokenizer, encoding.template, encoding.spec, encoding.max_length, is_thorough=False)
    layout = find_layout(rows, measure, encoding.spec, encoding.tokenizer)
    policy = policy or BadRowPolicy("skip", 0.5)
    return write_hdf5(folder, rows, HdfEncoder(measure, layout), encoding.tokenizer, policy, **options)


def read(folder, encoding, **keys):
    return scan_mixture({"name": "llava_hdf5", "data_files": str(folder), **keys}, "train", encoding=encoding)[0]


def raw_samples(value, encoding, left_out):
    parts = {"tokenizer": encoding.tokenizer, "template": encoding.template, "spec": encoding.spec}
    rows = [row for row in scan_mixture(value, "train")[0] if row.number - 1 not in left_out]
    return [encode_turns(row.conversation, folders=row.folders, max_length=MAX_LENGTH, **parts)[0] for row in rows]


def test_fields_are_those_of_the_layout(data, encoding, tmp_path):
    write_files(tmp_path / "h5", data, encoding, file_rows=4)
    pad_id, start = encoding.tokenizer.pad_id, None
    assert sorted(path.name for path in (tmp_path / "h5").glob("*")) == [
        "bad_samples.jsonl",
        "data_params.json",
        "examples-0.h5",
        "examples-1.h5",
        "examples-2.h5",
    ]
    params = json.loads((tmp_path / "h5" / "data_params.json").read_text())
    start = params["image_patch_start_idx"]
    count, non_pad, loss = 0, 0, 0
    for path in sorted((tmp_path / "h5").glob("*.h5")):
        with h5py.File(path) as file:
            assert set(file) == {"data", "img_path"}
            rows, names = file["data"], file["img_path"]
            assert rows.dtype == np.int32 and rows.shape[1:] == (4, MAX_LENGTH) and rows.chunks == (1, 4, MAX_LENGTH)
            assert rows.compression == "gzip" and file.attrs["n_examples"] == len(rows) == len(names)
            assert names.dtype.kind == "S" and names.shape == (len(rows), 1)
            for (ids, mask, labels, hidden), (name,) in zip(rows[()], names[()], strict=True):
                assert set(mask) | set(hidden) <= {0, 1}
                patches = slice(start, start + 16)
                assert (ids[patches] == pad_id).all() and (hidden[patches] == (name == b"None")).all()
                length = np.flatnonzero(hidden == 0)[-1] + 1
                assert np.array_equal(labels[: length - 1], ids[1:length])  # shifted by one
                assert labels[length - 1] == encoding.tokenizer.eos_id and mask[length - 1] == 1
                assert (ids[length:] == pad_id).all() and (hidden[length:] == 1).all() and not mask[length:].any()
                count, non_pad, loss = count + 1, non_pad + (hidden == 0).sum(), loss + mask.sum()
    stats, post = params["h5_dataset_stats"], params["post-process"]
    assert set(stats) == set(
        "num_sequences num_tokens detokenized_bytes detokenized_chars non_pad_tokens loss_valid_tokens".split()
    )
    assert set(post) - {"skipped"} == set(
        "discarded_files processed_files successful_files n_examples raw_chars_count raw_bytes_count eos_id pad_id "
        "vocab_size".split()
    )
    assert (stats["num_sequences"], stats["non_pad_tokens"], stats["loss_valid_tokens"]) == (count, non_pad, loss)
    notes = [json.loads(line) for line in (tmp_path / "h5" / "bad_samples.jsonl").read_text().splitlines()]
    assert [(note["row"], note["kind"]) for note in notes] == [(5, "wrong_row"), (6, "wrong_row"), (9, "too_long")]
    assert stats["num_tokens"] == count * MAX_LENGTH and post["n_examples"] == count == 9
    assert (post["discarded_files"], post["processed_files"], post["successful_files"]) == (3, 12, 9)
    assert post["skipped"] == {"wrong_row": 2, "too_long": 1} and params["processing"]["num_patches"] == 16


def test_samples_are_those_of_the_raw_rows(data, encoding, images, tmp_path):
    write_files(tmp_path / "h5", data, encoding, file_rows=4)
    rows = read(tmp_path / "h5", encoding, image_folder=str(images))
    expected = raw_samples(data, encoding, left_out={4, 5, 8})
    assert len(rows) == len(expected) == 9
    for row, raw in zip(pickle.loads(pickle.dumps(rows[:])), expected, strict=True):
        sample, num_dropped = row.encoded.sample(row.folders)
        assert num_dropped == 0 and row.encoded.failure() is None
        assert sample.token_ids.tobytes() == raw.token_ids.tobytes() and sample.labels.tobytes() == raw.labels.tobytes()
        assert [image.pixels.tobytes() for image in sample.images] == [image.pixels.tobytes() for image in raw.images]
    assert rows[4].where == f"{tmp_path / 'h5' / 'examples-1.h5'}, row 1"


def test_measurements_are_those_of_the_raw_rows(data, encoding, images, tmp_path):
    write_files(tmp_path / "h5", data, encoding)
    measure = Measure(encoding.tokenizer, encoding.template, SPEC, MAX_LENGTH)
    raw = [measure.row(row, {}) for row in scan_mixture(data, "train")[0] if row.number - 1 not in {4, 5, 8}]
    found = [measure.row(row, {}) for row in read(tmp_path / "h5", encoding, image_folder=str(images))]
    for one, other in zip(found, raw, strict=True):
        assert (one.length, one.num_kept, one.num_trained, one.sizes) == (
            other.length,
            other.num_kept,
            other.num_trained,
            other.sizes,
        )


def test_stage_one_rows_start_their_loss_at_the_last_patch(images, write, encoding, tmp_path):
    rows = [{"image": "a.png", "conversations": [["<image>\nDescribe.", "A red square."]]}]
    value = {"data_files": str(write("rows.json", rows)), "image_folder": str(images)}
    plain = Encoding(encoding.tokenizer, get_template("plain"), SPEC, MAX_LENGTH)
    write_files(tmp_path / "h5", value, plain)
    with h5py.File(tmp_path / "h5" / "examples-0.h5") as file:
        ids, mask, labels, _ = file["data"][0]
    assert json.loads((tmp_path / "h5" / "data_params.json").read_text())["image_patch_start_idx"] == 1
    assert ids[0] == encoding.tokenizer.bos_id and not mask[:16].any() and mask[16] == 1
    assert labels[16] == ids[17]


def test_number_of_workers_and_a_repetition_change_no_byte(data, encoding, tmp_path, monkeypatch):
    monkeypatch.setattr("paddlemix.data.hdf5.write.CHUNK", 2)
    for name, workers in (("one", 1), ("three", 3), ("one", 1)):
        write_files(tmp_path / name, data, encoding, file_rows=4, num_workers=workers)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "three" / path.name).read_bytes()


def test_files_that_were_killed_at_any_change_are_repeated_to_the_same_bytes(data, encoding, tmp_path, monkeypatch):
    write_files(tmp_path / "whole", data, encoding, file_rows=4)
    for number in range(1, 50):
        folder = tmp_path / f"killed-{number}"
        action = functools.partial(write_files, folder, data, encoding, file_rows=4)
        if not kill_at(number, monkeypatch, action):
            break
        action()
        assert digests(folder) == digests(tmp_path / "whole")
    assert number > 5


def test_files_without_their_data_params_are_not_finished(data, encoding, tmp_path):
    write_files(tmp_path / "h5", data, encoding)
    (tmp_path / "h5" / "data_params.json").unlink()
    with pytest.raises(LayoutError, match=r"has no data_params.json: it is not finished"):
        read(tmp_path / "h5", encoding)


def test_other_content_of_the_folder_stays(data, encoding, tmp_path):
    (tmp_path / "h5").mkdir()
    (tmp_path / "h5" / "mine.h5").write_text("mine")
    with pytest.raises(OutputError, match=r"has other content than HDF5 files of this command \(mine.h5\)"):
        write_files(tmp_path / "h5", data, encoding)


def test_rows_that_the_layout_cannot_hold_count_as_bad(data, encoding, tmp_path):
    with pytest.raises(TooManyBadRowsError, match=r"1 of 12 rows are bad .*one image of 16 tokens from"):
        write_files(tmp_path / "h5", data, encoding, policy=BadRowPolicy("skip", 0))


def test_images_of_several_lengths_are_refused(data, encoding, spec, tmp_path):
    anyres = Encoding(encoding.tokenizer, encoding.template, spec, 300)
    with pytest.raises(LayoutError, match="use --format arrow"):
        write_files(tmp_path / "h5", data, anyres)


def test_files_whose_last_token_is_an_input_too_are_read_as_well():
    """Some tools keep the last token among the input ids, with a label that does not count."""
    layout = Layout(max_length=10, num_patches=2, start=1, pad_id=0)
    ids = np.array([1, IMAGE_TOKEN_ID, IMAGE_TOKEN_ID, 5, 6, 2])
    labels = np.array([IGNORE_INDEX] * 3 + [5, 6, 2])
    row = layout.row_of(ids, labels)
    longer = row.copy()
    longer[:, 5] = (2, 0, 0, 0)
    for one in (row, longer):
        found = layout.tokens_of(one, has_image=True)
        assert found[0].tolist() == ids.tolist() and found[1].tolist() == labels.tolist()


def changed(name, change):
    def damage(folder):
        with h5py.File(folder / "examples-0.h5", "r+") as file:
            values = file[name][()]
            del file[name]
            change(file, values)

    return damage


def set_params(**changes):
    def damage(folder):
        path = folder / "data_params.json"
        values = json.loads(path.read_text())
        for key in changes:
            group = next(one for one in (values, *values.values()) if isinstance(one, dict) and key in one)
            group[key] = changes[key]
        path.write_text(json.dumps(values))

    return damage


def no_hdf5(folder):
    (folder / "examples-0.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))


def cut(folder):
    content = (folder / "examples-0.h5").read_bytes()
    (folder / "examples-0.h5").write_bytes(content[: len(content) // 2])


def external(file, values):
    file["data"] = h5py.ExternalLink("/etc/passwd", "data")


def external_bytes(file, values):
    file.create_dataset("data", values.shape, "i4", external=[("/etc/passwd", 0, values.nbytes)])


def without_names(file, values):
    file.create_dataset("img_path", data=np.arange(len(values)))


def data_of(change):
    """Replace the rows by what a function makes of them."""
    return changed("data", lambda file, values: file.create_dataset("data", data=change(values)))


def added(*numbers):
    """Add a number to each of the four lines of all rows."""
    return data_of(lambda values: values + np.array(numbers)[:, None])


DAMAGES = {
    "no hdf5": (no_hdf5, "cannot be read as HDF5"),
    "cut": (cut, "cannot be read as HDF5"),
    "external link": (changed("data", external), "expected a dataset 'data' with its values in the file"),
    "external bytes": (changed("data", external_bytes), "expected a dataset 'data' with its values in the file"),
    "three lines": (data_of(lambda values: values[:, :3]), r"expected int32 \[n, 4, L\]"),
    "floats": (data_of(lambda values: values * 1.0), r"expected int32 \[n, 4, L\]"),
    "fewer": (data_of(lambda values: values[1:]), "8 rows, 9 paths of images"),
    "masks": (added(0, 2, 0, 2), "its masks are not 0 and 1"),
    "labels": (added(0, 0, 1, 0), "not the next"),
    "hidden": (data_of(lambda values: values | np.array([0, 0, 0, 1])[:, None]), "are hidden"),
    "ids": (added(999, 0, 999, 0), "not in the model's vocabulary"),
    "names": (changed("img_path", without_names), "img_path is not bytes"),
    "start": (set_params(image_patch_start_idx="x"), "image_patch_start_idx is 'x': expected a whole number"),
    "patches": (set_params(num_patches=20), "are not one repeated token: num_patches"),
    "other start": (set_params(image_patch_start_idx=0), "are not one repeated token"),
    "eos": (set_params(eos_id=77), "eos_id is 77, and the model's is"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_other_files_are_one_clear_error(name, data, encoding, images, tmp_path):
    write_files(tmp_path / "h5", data, encoding)
    damage, text = DAMAGES[name]
    damage(tmp_path / "h5")
    with pytest.raises(LayoutError) as caught:
        for row in read(tmp_path / "h5", encoding, image_folder=str(images)):
            row.encoded.sample(row.folders)
    assert re.search(text, str(caught.value)) and "\n" not in str(caught.value)


def test_files_without_rows_are_one_clear_error(data, encoding, tmp_path):
    write_files(tmp_path / "h5", data, encoding)
    with h5py.File(tmp_path / "h5" / "examples-0.h5", "r+") as file:
        for name in ("data", "img_path"):
            values = file[name][:0]
            del file[name]
            file.create_dataset(name, data=values)
        file.attrs["n_examples"] = 0
    with pytest.raises(ValueError, match="h5 has no rows"):
        read(tmp_path / "h5", encoding)


def test_row_that_is_longer_than_max_length_is_skipped(data, encoding, tmp_path):
    write_files(tmp_path / "h5", data, encoding)
    short = Encoding(encoding.tokenizer, encoding.template, SPEC, 20)
    kind, reason = read(tmp_path / "h5", short)[0].encoded.failure()
    assert kind == "too_long" and "but max_length is 20" in reason

"""The `dataset` value of a configuration."""

from __future__ import annotations

import pytest
from data_rows import read_mixture

from paddlemix.data.mixture import parse_entries


@pytest.fixture
def files(write):
    """Two files with rows a0..a9 and b0..b4."""
    return {
        name: str(write(f"data/{name}.json", [{"conversations": [["Hi", f"{name}{n}"]]} for n in range(count)]))
        for name, count in {"a": 10, "b": 5}.items()
    }


def answers(rows):
    return [row.conversation.messages[1].text for row in rows]


ALL_A, ALL_B = [f"a{n}" for n in range(10)], [f"b{n}" for n in range(5)]


def test_paddlemix_value_is_read_entry_by_entry(files):
    value = {
        "train": [{"name": "chatml_dataset", "data_files": files["a"]}, {"name": "messages", "data_files": files["b"]}],
        "eval": [{"name": "llava_dataset", "data_files": [files["b"], files["a"]]}],
    }
    assert answers(read_mixture(value, "train")) == ALL_A + ALL_B
    assert answers(read_mixture(value, "eval")) == ALL_B + ALL_A


def test_path_entry_and_list_are_the_train_split(files):
    for value in (files["a"], {"data_files": files["a"]}, [files["a"]], {"train": files["a"]}):
        assert answers(read_mixture(value, "train")) == ALL_A
        assert read_mixture(value, "eval") == []


def test_null_split_has_no_rows(files):
    assert read_mixture({"train": files["a"], "eval": None}, "eval") == []


def test_num_samples_and_weight_take_that_many_rows_once_each(files):
    for amount in ({"num_samples": 4}, {"weight": 0.4}):
        taken = answers(read_mixture([{"data_files": files["a"]} | amount], "train"))
        assert len(taken) == 4 and taken == sorted(set(taken)) and set(taken) < set(ALL_A)


def test_more_than_all_rows_repeats_them_evenly(files):
    taken = answers(read_mixture({"data_files": files["b"], "weight": 2.4}, "train"))
    assert len(taken) == 12
    assert {taken.count(answer) for answer in ALL_B} == {2, 3}


def test_same_seed_takes_the_same_rows_and_another_seed_others(files):
    value = {"data_files": files["a"], "num_samples": 5}
    taken = [answers(read_mixture(value, "train", seed=seed)) for seed in (0, 0, 1, 2, 3)]
    assert taken[0] == taken[1]
    assert any(other != taken[0] for other in taken[2:])


def test_a_larger_number_keeps_the_rows_of_a_smaller_one(files):
    small, large = (
        set(answers(read_mixture({"data_files": files["a"], "num_samples": count}, "train"))) for count in (3, 7)
    )
    assert small < large


def test_entries_with_the_same_file_take_different_rows(files):
    entry = {"data_files": files["a"], "num_samples": 5}
    taken = answers(read_mixture([entry, entry], "train"))
    assert taken[:5] != taken[5:]


BAD_VALUES = {
    "unknown key": ({"data_file": "a.json", "name": "messages"}, ["'data_file'", "mean 'data_files'"]),
    "unknown split": ({"trian": []}, ["'trian'", "mean 'train'"]),
    "unknown name": ({"name": "coco", "data_files": "a.json"}, ["'coco'", "chatml_dataset, llava_dataset, messages"]),
    "no file": ({"name": "chatml_dataset"}, ["entry 1", "'data_files'", "None"]),
    "files not paths": ([{"data_files": ["a.json", 3]}], ["entry 1", "'data_files'", "3"]),
    "entry not an object": (["a.json", 3], ["entry 2", "3 (int)"]),
    "folder not a path": ({"data_files": "a.json", "image_folder": 3}, ["'image_folder'", "3 (int)"]),
    "weight and number": ({"data_files": "a.json", "weight": 1, "num_samples": 1}, ["'weight'", "'num_samples'"]),
    "weight zero": ({"data_files": "a.json", "weight": 0}, ["'weight'", "above 0", "0 (int)"]),
    "weight a word": ({"data_files": "a.json", "weight": "half"}, ["'weight'", "'half' (str)"]),
    "weight of a million million": (
        {"data_files": "a.json", "weight": 1e12},
        ["'weight'", "at most 10,000", "1000000000000"],
    ),
    "weight not a number": ({"data_files": "a.json", "weight": float("nan")}, ["'weight'", "at most 10,000", "nan"]),
    "number of ten million million": (
        {"data_files": "a.json", "num_samples": 10**13},
        ["'num_samples'", "at most 100,000,000", "10000000000000"],
    ),
    "part of a sample": ({"data_files": "a.json", "num_samples": 1.5}, ["'num_samples'", "1.5"]),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_value_is_refused_with_what_was_found_and_expected(name):
    value, words = BAD_VALUES[name]
    with pytest.raises(ValueError) as caught:
        parse_entries(value, "train")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_share_of_less_than_one_row_is_refused(files):
    with pytest.raises(ValueError, match="less than one row"):
        read_mixture({"data_files": files["b"], "weight": 0.01}, "train")


def test_unknown_split_is_refused(files):
    with pytest.raises(ValueError, match=r"'test'.*train, eval"):
        read_mixture(files["a"], "test")


def test_folders_are_image_folder_then_data_file_then_current_directory(tmp_path, monkeypatch, files):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (row, *_) = read_mixture({"data_files": "data/a.json", "image_folder": "images"}, "train")
    assert row.folders == (str(tmp_path / "images"), str(tmp_path / "data"), str(tmp_path))
    (row, *_) = read_mixture("data/a.json", "train")
    assert row.folders == (str(tmp_path / "data"), str(tmp_path))

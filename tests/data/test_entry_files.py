"""The files of a `dataset` value are checked all at once, before a row is read."""

from __future__ import annotations

import json
import logging

import pytest

from paddlemix.conversation.templates import get_template
from paddlemix.data.entry_files import find_mistakes, refuse_mistakes

TEMPLATE = get_template("vicuna_v1")


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "data" / "a.json"
    path.parent.mkdir()
    path.write_text(json.dumps([{"conversations": [["Hi", "Hello"]]}]))
    return path


def texts(dataset, splits=("train",), **options) -> list[str]:
    return [mistake.text for mistake in find_mistakes(dataset, splits, template=TEMPLATE, **options)]


def test_all_mistakes_of_all_splits_are_found_and_refused_in_one_error(tmp_path, rows):
    dataset = {
        "train": [{"data_files": str(rows), "chat_template": "none.json"}, {"data_files": ["b.json", "c.json"]}],
        "eval": [{"data_files": "val.json", "image_folder": "pictures", "chat_template": "none.json"}],
    }
    found = find_mistakes(dataset, ("train", "eval"), template=TEMPLATE)
    expected = ["chat_template", "b.json", "c.json", "val.json", "image_folder", "chat_template"]
    assert all(word in mistake.text for word, mistake in zip(expected, found, strict=True))
    assert [mistake.hides_rows for mistake in found] == [False, True, True, True, True, False]
    with pytest.raises(ValueError) as caught:
        refuse_mistakes(found)
    title, *lines = str(caught.value).split("\n  ")
    assert "6 mistakes" in title and lines == [mistake.text for mistake in found]
    with pytest.raises(ValueError) as caught:
        refuse_mistakes(found[:1])
    assert str(caught.value) == found[0].text


def test_splits_that_are_not_read_are_not_checked(rows):
    assert texts({"train": str(rows), "eval": "none.json"}) == []


def test_wrong_keys_are_one_mistake_beside_the_others(rows):
    assert len(texts({"train": str(rows), "evil": []}, ("train", "eval"))) == 1
    wrong = {"train": {"data_files": str(rows), "weigth": 2}, "eval": "none.json"}
    assert ["'weigth'" in text or "none.json" in text for text in texts(wrong, ("train", "eval"))] == [True, True]


@pytest.mark.parametrize("key", ["data_files", "image_folder", "chat_template"])
def test_a_missing_path_has_a_hint_if_it_is_beside_the_configuration(tmp_path, monkeypatch, rows, key):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    name = {"data_files": "data/a.json", "image_folder": "data", "chat_template": "data/a.json"}[key]
    entry = {"data_files": str(rows)} | {key: name}
    (message,) = texts(entry, config_folder=tmp_path)
    assert "entry 1" in message and key.split("_")[0] in message
    assert str(tmp_path / "here" / name) in message and f"it exists as {tmp_path / name}" in message
    (message,) = texts(entry, config_folder=tmp_path / "here")
    assert "it exists" not in message


def test_number_of_rows_of_ms_swift_and_mistyped_names_are_answered(rows):
    (message,) = texts(f"{rows}#4")
    assert f'for 4 rows of {rows}, as in ms-swift, write "num_samples": 4 into its entry' in message
    (message,) = texts(str(rows.with_name("other.csv")))
    assert "did you mean" not in message
    (message,) = texts(str(rows.parent.with_name("dat") / "a.json"))
    assert message.endswith(f"; did you mean {rows}?")


def test_chat_template_is_compared_with_the_models_template(tmp_path, rows, caplog):
    turns, file = ["USER{{user}}", "ASSISTANT{{bot}}"], tmp_path / "chat_template.json"
    entry = {"data_files": str(rows), "chat_template": str(file)}
    (message,) = texts(entry)
    assert "template.json; remove 'chat_template'" in message and "vicuna_v1, which is used" in message
    file.write_text(json.dumps({"conversation": turns}))
    with caplog.at_level(logging.WARNING):
        assert texts(entry) == [] and not caplog.records
        file.write_text(json.dumps({"conversation": turns, "system": "Be brief."}))
        assert texts(entry) == []
    assert [str(file) in record.getMessage() for record in caplog.records] == [True]
    file.write_text(json.dumps({"conversation": ["Q{{user}}", "A{{bot}}"]}))
    (message,) = texts(entry)
    assert "dataset 'train', entry 1: " in message and "chat_template.json" in message and "vicuna_v1" in message

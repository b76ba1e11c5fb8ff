"""A path that does not exist brings up the one that was meant."""

from __future__ import annotations

import pytest

from paddlemix.terminal.near_paths import did_you_mean


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("confg.json", "config.json"),
        ("Config.JSON", "config.json"),
        ("data/trian.json", "data/train.json"),
        ("dta/train.json", "data/train.json"),
        ("data/imagess", "data/images"),
        ("./data/trian.json", "data/train.json"),
        ("dta/trian.json", None),  # two mistakes
        ("data/other.json", None),
        ("config.json/more", None),  # below a file
        ("a\0b", None),
        ("", None),
    ],
)
def test_the_nearest_existing_path_is_named(tmp_path, monkeypatch, written, meant):
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "train.json").touch()
    (tmp_path / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    assert did_you_mean(written) == ("" if meant is None else f"; did you mean {meant}?")


def test_an_absolute_path_stays_absolute(tmp_path):
    (tmp_path / "model").mkdir()
    assert did_you_mean(tmp_path / "modle") == f"; did you mean {tmp_path / 'model'}?"

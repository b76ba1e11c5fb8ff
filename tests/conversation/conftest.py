"""Tokenizers, and those of transformers for the same folders."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from small_vocabulary import CHAT_MARKS, load_reference, train_model, write_folder

from paddlemix.conversation.load_tokenizer import load_tokenizer

RELEASED = importlib.util.find_spec("mistral_common")


@pytest.fixture(scope="session")
def model() -> bytes:
    return train_model()


@pytest.fixture(scope="session", params=["trained"] + ["mistral"] * (RELEASED is not None))
def any_model(request, model) -> bytes:
    """The small vocabulary; also a released one of 32,000 pieces after `pip install --no-deps mistral-common`."""
    if request.param == "trained":
        return model
    return Path(RELEASED.submodule_search_locations[0], "data", "tokenizer.model.v1").read_bytes()


@pytest.fixture(scope="session", params=[True, False], ids=["legacy", "not-legacy"])
def pair(request, any_model, tmp_path_factory):
    """The package's tokenizer and that of transformers for one folder."""
    folder = write_folder(tmp_path_factory.mktemp("pair"), any_model, legacy=request.param)
    return load_tokenizer(folder), load_reference(folder, request.param)


@pytest.fixture(scope="session")
def legacy_pair(any_model, tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("pair"), any_model, legacy=True)
    return load_tokenizer(folder), load_reference(folder, True)


@pytest.fixture(scope="session", params=["named", "symbol"])
def marks(request, model) -> dict:
    """Other declarations of ChatML marks: with a role, or <|im_start|> as a symbol of the model, as in Yi."""
    if request.param == "named":
        return {"model": model, "named": CHAT_MARKS}
    return {"model": train_model(CHAT_MARKS[:1]), "marks": CHAT_MARKS[1:]}


@pytest.fixture(scope="session", params=[True, False], ids=["legacy", "not-legacy"])
def marks_pair(request, marks, tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("marks"), legacy=request.param, **marks)
    return load_tokenizer(folder), load_reference(folder, request.param)


@pytest.fixture(scope="session")
def legacy_folder(model, tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("legacy"), model, legacy=True)


@pytest.fixture(scope="session")
def tokenizer(legacy_folder):
    return load_tokenizer(legacy_folder)


@pytest.fixture
def write_tokenizer(model):
    """Return a function that writes a tokenizer folder."""
    return lambda folder, **options: write_folder(folder, model, **options)

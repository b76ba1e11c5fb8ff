"""Opening a checkpoint: every file is opened once, and the tokenizer is made once, in every layout."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import peft_folders
import pytest
import tiny_folder

from paddlemix import ChatSession
from paddlemix.checkpoints import load, source
from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.layouts import layout as layouts
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.checkpoints.verify import compare_tensors
from paddlemix.tensor_files.shards import FORMATS

LAYOUTS = ("paddle", "paddlemix", "hf", "official", "xtuner", "peft")
WATCHERS: list = []
sys.addaudithook(lambda event, values: [watch(values) for watch in WATCHERS] if event == "open" else None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return one model as a folder of every layout, sharded, and an adapter of peft over the one of transformers."""
    place = tmp_path_factory.mktemp("layouts")
    for name in LAYOUTS[:-1]:
        convert(tiny_folder.folder(), place / name, name, max_shard_size="100KB")
    peft_folders.train(place / "peft", place / "hf", target_modules=["q_proj"])
    return place


@contextmanager
def opened(folder: Path):
    """Count how often each file below a folder is opened for reading."""
    counts: Counter = Counter()

    def watch(values) -> None:
        path, _, flags = values
        if isinstance(path, (str, bytes, os.PathLike)) and not flags & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY):
            counts[os.fsdecode(path)] += 1

    WATCHERS.append(watch)
    try:
        yield counts
    finally:
        WATCHERS.remove(watch)
    for path in [path for path in counts if not Path(path).is_relative_to(folder)]:
        del counts[path]


@pytest.fixture
def made(monkeypatch):
    """Return the list of the folders whose tokenizer was made."""
    folders = []

    def make(files, make_tokenizer=layouts.make_tokenizer):
        folders.append(files.folder)
        return make_tokenizer(files)

    monkeypatch.setattr(layouts, "make_tokenizer", make)
    return folders


def twice(counts: Counter, *, but_weights: bool = False) -> dict[str, int]:
    """Return the files that were opened more than once. Reading the values of a tensor maps its weight file again."""
    found = {path: count for path, count in counts.items() if count > 1}
    return {path: count for path, count in found.items() if not (but_weights and Path(path).suffix in FORMATS)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_look_and_a_processor_open_no_file_twice(folders, layout, made):
    for look in (inspect, LlavaProcessor.from_pretrained):
        made.clear()
        with opened(folders) as counts:
            look(folders / layout)
        assert len(counts) > 1 and twice(counts) == {}
        assert len(made) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loading_and_converting_open_no_file_twice_but_to_map_a_tensor(folders, layout, made, tmp_path):
    with opened(folders) as counts:
        load.load_model(folders / layout, device="cpu")
    assert twice(counts, but_weights=True) == {} and made == []
    with opened(folders) as counts:
        convert(folders / layout, tmp_path / "out", "hf", checks=[compare_tensors])
    assert twice(counts, but_weights=True) == {}
    assert Counter(made).most_common(1)[0][1] == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_chat_opens_its_checkpoint_once_for_model_and_processor(folders, layout, made):
    with opened(folders) as counts:
        found = source.open_source(folders / layout)
        session = ChatSession(load.load_model(found, device="cpu"), LlavaProcessor.from_source(found))
    assert session.processor.tokenizer is found.tokenizer
    assert twice(counts, but_weights=True) == {} and len(made) == 1

"""Training from a token cache gives the losses and the weights of training from the raw files, to the last bit."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import tiny_folder
from cache_folder import prepare
from tiny_training import build, differing, settings, train, weights

from paddlemix.data.token_cache.shards import CacheError
from paddlemix.train import data_sets
from paddlemix.train.loader import StoredOrder
from paddlemix.train.split import measure_of

WAYS = {
    "plain": (),
    "with images": ("--with-images",),
    "shuffled": ("--shuffle", "3", "--with-images", "--workers", "2"),
}
ARRANGEMENTS = {
    "alone": {},
    "packed": {"packing": True, "max_length": 400},
    "grouped": {"group_by_length": True},
    "by modality": {"group_by_modality_length": True},
    "accumulated": {"gradient_accumulation_steps": 2, "dataloader_num_workers": 2, "loss_reduction": "sample"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sixteen rows with none to three images; one has lost its image, and one has a broken one, with a good header."""
    folder = tmp_path_factory.mktemp("data")
    file = tiny_folder.write_rows(folder, 16)
    (folder / "images" / "5-0.png").unlink()
    jpeg = io.BytesIO()
    tiny_folder.random_image(3, (90, 80)).save(jpeg, "JPEG")
    (folder / "images" / "9-0.png").write_bytes(jpeg.getvalue()[:-200])
    return file


def entry(folder, **keys):
    return {"name": "token_cache", "data_files": str(folder), **keys}


@pytest.fixture(scope="module")
def cache_of(data, tmp_path_factory):
    """Return a function that makes a cache with options, once."""
    made = {}

    def cache(way: str, mode: str = "anyres", max_length: int = 400):
        key = way, mode, max_length
        if key not in made:
            made[key] = tmp_path_factory.mktemp("cache") / "cache"
            prepare(made[key].parent, str(data), made[key], *WAYS[way], mode=mode, max_length=max_length)
        return made[key]

    return cache


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("way", WAYS)
def test_losses_and_weights_equal_those_of_the_raw_rows(tmp_path, data, cache_of, way, arrangement):
    changes = {"max_length": 400, "max_steps": 6, **ARRANGEMENTS[arrangement]}
    raw = train(settings(tmp_path, data, "anyres", **changes))
    cached = train(settings(tmp_path, data, "anyres", **changes, dataset=entry(cache_of(way))))
    assert cached.recorder.losses == raw.recorder.losses and len(raw.recorder.losses) == 6
    assert differing(weights(cached.llava), weights(raw.llava)) == set()
    assert cached.tally.metrics("train") == raw.tally.metrics("train")


def test_lengths_need_no_measuring_pass(tmp_path, data, cache_of, monkeypatch):
    """Only the rows that are skipped are asked for, to name the reasons."""
    asked = []
    monkeypatch.setattr(
        "paddlemix.train.data_sets.measure_rows",
        lambda rows, measure, num_workers: asked.extend(rows) or (measure.row(row, {}) for row in rows),
    )
    build(settings(tmp_path, data, "anyres", packing=True, max_length=400, dataset=entry(cache_of("plain"))))
    assert [row.number for row in asked] == [6]


def test_stored_order_trains_the_rows_as_they_are_in_the_files(tmp_path, data, cache_of):
    changes = {"max_length": 400, "dataset": entry(cache_of("shuffled"), order="stored")}
    trainer = build(settings(tmp_path, data, "anyres", **changes))
    order = trainer.data.grouping
    assert isinstance(order, StoredOrder) and sorted(order.numbers) == list(range(16)) != order.numbers.tolist()
    batches = list(trainer._sampler())
    assert [row for batch in batches for row in batch] == order.numbers.tolist()
    packed = build(settings(tmp_path, data, "anyres", packing=True, **changes))
    firsts = [order.numbers.tolist().index(pack[0]) for pack in packed.data.train.packs]
    assert firsts == sorted(firsts) and packed.data.grouping.numbers.tolist() == list(range(len(firsts)))
    with pytest.raises(ValueError, match="group_by_length and group_by_modality_length order the rows"):
        build(settings(tmp_path, data, "anyres", group_by_length=True, **changes))


def test_run_with_other_settings_is_refused(tmp_path, data, cache_of):
    with pytest.raises(CacheError, match="max_length was 400, and is 300"):
        build(settings(tmp_path, data, "anyres", max_length=300, dataset=entry(cache_of("plain"))))
    with pytest.raises(CacheError, match='template name was "vicuna_v1", and is "plain"'):
        build(settings(tmp_path, data, "anyres", max_length=400, dataset=entry(cache_of("plain"))), template="plain")
    with pytest.raises(CacheError, match='image mode was "anyres", and is "pad"; image grids was'):
        build(settings(tmp_path, data, "pad", max_length=400, dataset=entry(cache_of("plain"))))


def test_stage_one_has_its_own_template(tmp_path):
    file = tiny_folder.write_captions(tmp_path)
    prepare(tmp_path, str(file), tmp_path / "cache", "--stage", "pretrain")
    raw = train(settings(tmp_path, file), template="plain").recorder.losses
    assert train(settings(tmp_path, file, dataset=entry(tmp_path / "cache")), template="plain").recorder.losses == raw


def test_run_on_the_raw_files_resumes_from_their_cache(tmp_path, data, cache_of):
    whole = train(settings(tmp_path, data, "anyres", max_length=400)).recorder.losses
    changes = {"max_length": 400, "save_strategy": "steps", "save_steps": 2, "overwrite_output_dir": False}
    train(settings(tmp_path / "two", data, "anyres", **changes, max_steps=2))
    rest = train(settings(tmp_path / "two", data, "anyres", **changes, dataset=entry(cache_of("shuffled"))))
    assert rest.recorder.losses == whole[2:]


def test_evaluation_and_its_answers_work_on_a_cache(tmp_path, data, cache_of):
    evaluated = {"evaluation_strategy": "steps", "eval_steps": 2, "max_steps": 2, "num_eval_answers": 3}
    values = {"max_length": 400, "do_eval": True, "on_bad_sample": "skip", "max_bad_samples": 5, **evaluated}
    found = []
    for value in (str(data), entry(cache_of("with images"))):
        dataset = {"train": value, "eval": value}
        trainer = train(settings(tmp_path, data, "anyres", **values, dataset=dataset))
        answers = [json.loads(line) for line in (tmp_path / "out" / "eval_answers.jsonl").read_text().splitlines()]
        found.append((trainer.recorder.eval_losses, [(line["row"], line["answer"]) for line in answers]))
        assert all(line["question"] and line["expected"] for line in answers)
    assert found[0] == found[1] and len(found[0][1]) >= 2


def test_losses_are_finite_when_the_raw_files_and_images_are_gone(tmp_path):
    file = tiny_folder.write_rows(tmp_path / "rows", 8)
    prepare(tmp_path, str(file), tmp_path / "cache", "--with-images")
    raw = train(settings(tmp_path, file)).recorder.losses
    (tmp_path / "rows").rename(tmp_path / "gone")
    cached = train(settings(tmp_path, file, dataset=entry(tmp_path / "cache"))).recorder.losses
    assert cached == raw and np.isfinite(cached).all()


@pytest.mark.parametrize("way", ["raw", "plain"])
def test_ranks_count_their_shares_and_join_the_lengths(tmp_path, data, cache_of, monkeypatch, way):
    trainer = build(
        settings(tmp_path, data, "anyres", max_length=400, dataset=str(data) if way == "raw" else entry(cache_of(way)))
    )
    rows, measure = trainer.data.train_rows, measure_of(trainer.data.train_processor, 400, is_thorough=False)
    parts = {}
    for rank in (0, 1, 2):
        monkeypatch.setattr(
            data_sets, "gather", lambda part, num, rank=rank: [parts.setdefault(rank, part)] and num * [part]
        )
        with contextlib.suppress(ValueError):
            data_sets.row_lengths(rows, measure, rank=rank, num_processes=3)
    monkeypatch.setattr(data_sets, "gather", lambda part, num: [parts[rank] for rank in range(num)])
    joined = data_sets.row_lengths(rows, measure, rank=0, num_processes=3)
    monkeypatch.undo()
    assert joined.tolist() == data_sets.row_lengths(rows, measure).tolist()
    assert joined[5] == 0 and (np.delete(joined, 5) > 0).all()

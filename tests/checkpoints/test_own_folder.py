"""Our own folder: there and back, sharded or not, and the files after a failed save."""

from __future__ import annotations

import dataclasses
import errno
import json

import numpy as np
import paddle
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from paddlemix.checkpoints.load import build_model, load_model
from paddlemix.checkpoints.save import save_model
from paddlemix.checkpoints.source import read_config
from paddlemix.tensor_files import stored
from paddlemix.tensor_files.shards import parse_size

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def bits(model) -> dict[str, np.ndarray]:
    return {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}


def assert_bit_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert set(first) == set(second)
    for name, values in first.items():
        assert values.dtype == second[name].dtype and values.tobytes() == second[name].tobytes(), name


def random_model(config, dtype: str):
    """Return a model with random parameters of a dtype (also one in which the CPU cannot compute)."""
    model = build_model(config, dtype)
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.set_value(paddle.to_tensor(rng.standard_normal(parameter.shape).astype("float32")).astype(dtype))
    return model


@pytest.mark.parametrize("max_shard_size", ["5GB", "40KB"])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_saved_files_hold_the_bits_of_the_model(v1_6, tmp_path, dtype, max_shard_size):
    model = random_model(read_config(v1_6.folder), dtype)
    save_model(model, tmp_path, max_shard_size=max_shard_size)
    stored = {name: tensor for path in tmp_path.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert {tensor.dtype for tensor in stored.values()} == {TORCH_DTYPES[dtype]}
    raw = {name: tensor.view(torch.uint16 if dtype == "bfloat16" else tensor.dtype) for name, tensor in stored.items()}
    assert_bit_equal({name: tensor.numpy() for name, tensor in raw.items()}, bits(model))


@pytest.mark.parametrize("max_shard_size", ["5GB", "40KB"])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_loaded_model_holds_the_values_that_were_saved(v1_6, tmp_path, dtype, max_shard_size):
    model = random_model(read_config(v1_6.folder), dtype)
    save_model(model, tmp_path, max_shard_size=max_shard_size)
    loaded = load_model(tmp_path, dtype="float32", device="cpu")
    assert read_config(tmp_path).dtype == dtype
    assert loaded.config == dataclasses.replace(model.config, dtype=dtype)
    widened = {name: parameter.astype("float32").numpy() for name, parameter in model.named_parameters()}
    assert_bit_equal(bits(loaded), widened)


def test_there_and_back_again_is_bit_equal_and_gives_the_reference_logits(v1_6, tmp_path):
    first = load_model(v1_6.folder, device="cpu")
    save_model(first, tmp_path / "one")
    second = load_model(tmp_path / "one", device="cpu")
    save_model(second, tmp_path / "two", max_shard_size="40KB")
    third = load_model(tmp_path / "two", device="cpu")
    assert_bit_equal(bits(first), bits(third))
    assert first.config == second.config == third.config
    v1_6.check(third)


def test_index_names_every_tensor_in_the_shard_that_holds_it(own_copy, tmp_path):
    save_model(load_model(own_copy, device="cpu"), tmp_path / "cut", max_shard_size="40KB")
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    found, total = {}, 0
    for path in sorted((tmp_path / "cut").glob("*.safetensors")):
        with safe_open(path, "np") as shard:
            found |= dict.fromkeys(shard.keys(), path.name)
            sizes = [shard.get_tensor(name).nbytes for name in shard.keys()]  # noqa: SIM118
        assert sum(sizes) <= 40_000 or len(sizes) == 1
        total += sum(sizes)
    assert len(set(found.values())) > 3
    assert index["weight_map"] == found
    assert index["metadata"]["total_size"] == total


def test_saving_over_a_folder_leaves_no_file_of_the_earlier_save(own_copy):
    model = load_model(own_copy, device="cpu")
    save_model(model, own_copy, max_shard_size="40KB")
    assert not (own_copy / "model.safetensors").exists()
    assert_bit_equal(bits(load_model(own_copy, device="cpu")), bits(model))
    save_model(model, own_copy)
    assert sorted(path.name for path in own_copy.iterdir()) == ["config.json", "model.safetensors"]
    assert_bit_equal(bits(load_model(own_copy, device="cpu")), bits(model))


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class FullDisk:
    """A file on a disk that takes so many bytes more; what does not fit fails in write, or only when closed."""

    def __init__(self, file, room: int, fails_late: bool):
        self.file, self.room, self.fails_late = file, room, fails_late

    def write(self, data) -> None:
        self.room -= len(bytes(data))
        if self.room < 0 and not self.fails_late:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        self.file.close()
        if self.room < 0 and self.fails_late:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fails_late", [False, True], ids=["in-write", "in-close"])
@pytest.mark.parametrize("room", [0, 5, 20_000])
def test_full_disk_leaves_the_old_files_and_no_temporary_one(own_copy, monkeypatch, room, fails_late):
    before = contents(own_copy)
    model = load_model(own_copy, device="cpu")
    for parameter in model.parameters():
        parameter.set_value(parameter + 1)
    fdopen = stored.os.fdopen
    monkeypatch.setattr(stored.os, "fdopen", lambda *values: FullDisk(fdopen(*values), room, fails_late))
    with pytest.raises(OSError, match="No space left"):
        save_model(model, own_copy)
    assert contents(own_copy) == before


@pytest.mark.parametrize("fails_late", [False, True], ids=["in-write", "in-close"])
def test_full_disk_in_a_later_shard_leaves_no_mixture_of_old_and_new(own_copy, monkeypatch, fails_late):
    model = load_model(own_copy, device="cpu")
    save_model(model, own_copy, max_shard_size="40KB")
    before = contents(own_copy)
    for parameter in model.parameters():
        parameter.set_value(parameter + 1)
    fdopen, opened = stored.os.fdopen, []

    def third_is_full(*values):
        opened.append(values)
        return FullDisk(fdopen(*values), 100 if len(opened) == 3 else 10**9, fails_late)

    monkeypatch.setattr(stored.os, "fdopen", third_is_full)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, own_copy, max_shard_size="40KB")
    assert contents(own_copy) == before


def test_failed_first_save_leaves_an_empty_folder(v1_6, tmp_path, monkeypatch):
    model = load_model(v1_6.folder, device="cpu")
    fdopen = stored.os.fdopen
    monkeypatch.setattr(stored.os, "fdopen", lambda *values: FullDisk(fdopen(*values), 1000, False))
    with pytest.raises(OSError, match="No space left"):
        save_model(model, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("200 mb", 200 * 10**6), ("1.5KB", 1500), (123, 123)], ids=str
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["5", "5 TB", "GB", "-1GB", ""])
def test_sizes_that_are_not_understood_raise(text):
    with pytest.raises(ValueError, match="is not understood"):
        parse_size(text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"projecter_type": "linear"}, "unknown key 'projecter_type' in config .did you mean 'projector_type'"),
        ({"language": {"hiden_size": 48}}, "unknown key 'hiden_size' in language .did you mean 'hidden_size'"),
        ({"image": {"mode": "panorama"}}, "image spec: mode is 'panorama', expected 'square' or"),
        ({"paddlemix_format": 99}, "paddlemix_format 99, this version reads 1"),
        ({"projector_type": "resampler"}, "unknown projector type 'resampler'"),
        ({"dtype": "float8"}, "dtype is 'float8', expected 'float32'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_config_is_refused_with_the_name(own_copy, change, text):
    path = own_copy / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=text):
        load_model(own_copy, device="cpu")


@pytest.mark.parametrize("room", ["own_copy", "hf_copy"])
def test_config_is_read_without_weights(request, room):
    folder = request.getfixturevalue(room)
    expected = read_config(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert read_config(folder) == expected
    with pytest.raises(ValueError, match="weights are missing"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_rounded_to_a_smaller_dtype_as_torch_does(own_copy, tmp_path, dtype):
    model = load_model(own_copy, device="cpu")
    save_model(model, tmp_path / "half", dtype=dtype)
    whole, half = load_file(own_copy / "model.safetensors"), load_file(tmp_path / "half" / "model.safetensors")
    assert read_config(tmp_path / "half").dtype == dtype
    for name, tensor in whole.items():
        assert torch.equal(half[name], tensor.to(TORCH_DTYPES[dtype])), name

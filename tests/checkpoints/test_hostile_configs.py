"""Configurations with values that no tool writes: an error at once in every layout, never "nothing is missing"."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import tiny_folder

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.layouts import tower
from paddlemix.checkpoints.layouts.folder import Folder
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.checkpoints.source import read_config
from paddlemix.checkpoints.write import check_space
from paddlemix.tensor_files.safetensors import open_safetensors
from paddlemix.tensor_files.stored import CheckpointError, preview

NO_NUMBERS = [float("nan"), float("inf"), -1, 0, "128", True, [], [1], {"a": 1}, 10**400]
SHAPES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
# Layout -> where the numbers of the decoder and of the tower stand, and the key of the projector.
PLACES = {
    "paddle": (("config.json", "language"), ("config.json", "vision"), ("config.json", "projector_type")),
    "hf": (("config.json", "text_config"), ("config.json", "vision_config"), ("config.json", "projector_hidden_act")),
    "official": (("config.json",), ("vision_tower/config.json",), ("config.json", "mm_projector_type")),
    "paddlemix": (("config.json",), ("config.json", "vision_config"), ("config.json", "mm_projector_type")),
    "xtuner": (("config.json",), ("visual_encoder/config.json",), ("projector/config.json", "hidden_act")),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function that returns a folder in a layout, each made once."""
    layouts = tmp_path_factory.mktemp("layouts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_folder.VISION, "num_attention_heads", 1)  # PaddleMIX's config.json has no number of heads
        tiny_folder.make_folder(layouts / "paddle", "pad")

    def folder(layout: str) -> Path:
        if not (layouts / layout).is_dir():
            convert(layouts / "paddle", layouts / layout, layout)
        return layouts / layout

    return folder


@pytest.fixture
def change(folders, tmp_path):
    """Return a function that copies a folder with one value changed and returns its path."""
    numbers = iter(range(10_000))

    def changed(layout: str, place: tuple[str, ...], value) -> Path:
        copy = tmp_path / str(next(numbers))
        shutil.copytree(folders(layout), copy, copy_function=_link)
        file, *keys = place
        text = json.loads((copy / file).read_text())
        at = text
        for key in keys[:-1]:
            at = at[key]
        assert isinstance(at, dict)
        at[keys[-1]] = value
        (copy / file).unlink()
        (copy / file).write_text(json.dumps(text))
        return copy

    return changed


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(source)


def check_refused(folder: Path) -> None:
    """Check that a folder is refused with one line when it is loaded, and that inspecting it reports a problem."""
    found = inspect(folder)
    assert found.problems and all("\n" not in problem for problem in found.problems), found
    for read in (read_config, LlavaProcessor.from_pretrained):
        with pytest.raises(CheckpointError) as error:
            read(folder)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("layout", PLACES)
@pytest.mark.parametrize("part", [0, 1], ids=["decoder", "tower"])
def test_shapes_that_are_no_numbers_are_refused(layout, part, change):
    place = PLACES[layout][part]
    for index, value in enumerate([*NO_NUMBERS, 1.5, None, 10**18]):
        key = SHAPES[index % len(SHAPES)]
        if part == 1 and layout == "paddlemix" and key != "hidden_size":
            key = "hidden_size"  # the others have other names there
        check_refused(change(layout, (*place, key), value))


@pytest.mark.parametrize("layout", PLACES)
def test_other_numbers_of_a_decoder_are_refused(layout, change):
    place = PLACES[layout][0]
    wrong = {"rms_norm_eps": ["x", float("nan"), -1.0, True], "rope_theta": [float("nan"), 0, "1e4", [1.0]]}
    wrong |= {"max_position_embeddings": [None, 0, "512", 1.5], "num_hidden_layers": [10**6]}
    wrong |= {"vocab_size": [0, 10**18, None], "tie_word_embeddings": [1, "true"], "rope_scaling": [1.5, "x", [1]]}
    for key, values in wrong.items():
        for value in values:
            check_refused(change(layout, (*place, key), value))


@pytest.mark.parametrize("layout", PLACES)
def test_a_projector_of_a_million_layers_and_other_kinds_are_refused(layout, change):
    for value in ("mlp1000000x_gelu", 5, ["x"]):
        check_refused(change(layout, PLACES[layout][2], value))


@pytest.mark.parametrize(
    ("layout", "place", "value"),
    [
        ("paddle", ("config.json", "image", "std"), [0, 0, 0]),
        ("paddle", ("config.json", "dtype"), "x"),
        ("paddle", ("config.json", "eos_token_ids"), ["x"]),
        ("paddle", ("config.json", "language"), 1.5),
        ("paddle", ("config.json", "vision"), None),
        ("paddle", ("config.json", "language", "family"), "x"),
        ("paddle", ("config.json", "vision", "family"), "x"),
        ("paddle", ("config.json", "vision", "name"), "\ud800"),
        ("paddle", ("config.json", "model_type"), "x"),
        ("paddle", ("processor_config.json", "image", "std"), [0, 0, 0]),
        ("paddle", ("processor_config.json", "template"), None),
        ("hf", ("config.json", "torch_dtype"), "x"),
        ("hf", ("config.json", "text_config", "torch_dtype"), {}),
        ("hf", ("config.json", "text_config", "eos_token_id"), ["x"]),
        ("hf", ("config.json", "pad_token_id"), 10**18),
        ("hf", ("config.json", "text_config", "initializer_range"), float("nan")),
        ("hf", ("config.json", "vision_config", "attention_dropout"), "x"),
        ("hf", ("config.json", "paddlemix"), {"has_rounded_sizes": "x"}),
        ("hf", ("config.json", "paddlemix"), {"unknown": 1}),
        ("hf", ("preprocessor_config.json", "image_std"), [0, 0, 0]),
        ("hf", ("processor_config.json", "num_additional_image_tokens"), "x"),
        ("hf", ("generation_config.json", "eos_token_id"), ["x"]),
        ("official", ("config.json", "torch_dtype"), "x"),
        ("official", ("config.json", "mm_hidden_size"), float("inf")),
        ("official", ("config.json", "mm_vision_select_layer"), 1.5),
        ("paddlemix", ("config.json", "mm_vision_select_layer"), "x"),
        ("xtuner", ("projector/config.json", "depth"), 10**6),
        ("xtuner", ("projector/config.json", "paddlemix"), {"select_layer": "x"}),
    ],
)
def test_other_values_are_refused_too(layout, place, value, change):
    check_refused(change(layout, place, value))


@pytest.mark.parametrize("pairs", [[[28, float("inf")]], [["28", 56]], [[28]], "((", 5, [[0, 28]], [[28, 10**18]]])
def test_grids_that_are_none_are_refused(pairs, change):
    folder = change("official", ("config.json", "image_grid_pinpoints"), pairs)
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**text, "image_aspect_ratio": "anyres"}))
    check_refused(folder)


def test_an_index_that_names_any_file_is_refused(folders, tmp_path):
    folder = Path(shutil.copytree(folders("hf"), tmp_path / "hf"))
    (folder / "model.safetensors").unlink()
    (folder / "evil").write_text("evil")
    for weight_map in ({"a": "evil"}, {"a": "../evil"}, {"a": 5}, [], {"a": "absent.safetensors"}):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        found = inspect(folder)
        assert found.problems and not any("\n" in problem for problem in found.problems)
        with pytest.raises(CheckpointError):
            convert(folder, tmp_path / "result", "paddle")
        assert not (tmp_path / "result").exists()


def test_an_index_of_many_files_ends_at_once(folders, tmp_path):
    """Each missing shard was counted in the whole index: 4,000 took seconds, a million for ever."""
    folder = Path(shutil.copytree(folders("hf"), tmp_path / "hf"))
    (folder / "model.safetensors").unlink()
    for number, message in ((9000, "8980 more shards are missing"), (20_000, "names 20,000 files, expected 10,000")):
        weight_map = {f"k{index}": f"model-{index}.safetensors" for index in range(number)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        start = time.process_time()
        problems = inspect(folder).problems
        assert any(message in problem for problem in problems) and len(problems) < 30
        assert time.process_time() - start < 10


def test_config_of_a_tower_alone_is_checked_too(change):
    folder = change("xtuner", ("visual_encoder/config.json", "num_hidden_layers"), 1.5) / "visual_encoder"
    assert "whole number" in inspect(folder).problems[0]
    with pytest.raises(CheckpointError, match="whole number"):
        tower.read_tower(Folder(folder))


def test_other_files_of_a_part_alone_are_checked_too(change):
    folder = change("xtuner", ("visual_encoder/preprocessor_config.json", "image_std"), [0, 0, 0]) / "visual_encoder"
    assert "image_std" in inspect(folder).problems[0]
    folder = change("xtuner", ("generation_config.json", "eos_token_id"), ["x"])
    shutil.rmtree(folder / "projector")
    assert "eos_token_id" in inspect(folder).problems[0]


def test_a_repeated_key_among_many_is_reported_at_once(folders, tmp_path):
    """200 kB of keys took a minute when each was counted in the whole list."""
    text = json.dumps({f"k{number}": 1 for number in range(20_000)})[:-1] + ', "k19999": 1}'
    folder = Path(shutil.copytree(folders("hf"), tmp_path / "hf"))
    (folder / "config.json").write_text(text)
    assert "the key 'k19999' twice" in inspect(folder).problems[0]
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text.encode())
    with pytest.raises(CheckpointError, match="the key 'k19999' twice"):
        open_safetensors(tmp_path / "a.safetensors")


def test_a_header_of_many_entries_is_refused_in_one_short_line(tmp_path):
    header = {f"t{number}": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for number in range(10_000)}
    header["x" * 100_000] = {"a": "b" * 100_000}
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError) as error:
        open_safetensors(tmp_path / "a.safetensors")
    assert len(str(error.value)) < 500


def test_names_of_tensors_cannot_look_like_lines_of_ours():
    assert preview(["a\nnothing is missing", "\x1b[31m"]) == r"a\nnothing is missing, \x1b[31m"
    assert len(preview(["x" * 10**6])) < 300


def test_a_disk_without_room_is_reported_in_units_that_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 90_000_000))
    with pytest.raises(CheckpointError, match=r"has 90\.0 MB free, but the result needs 97\.1 MB"):
        check_space(tmp_path, 30_000_000)

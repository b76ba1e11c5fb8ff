"""A folder that a command writes is the old one or the new one, whenever it is stopped, and never a foreign one."""

from __future__ import annotations

import contextlib
import json

import pytest
from kills import kill_at

from paddlemix.checkpoints.output_folder import NOTE, STAGING, OutputFolder, exchanged, finish_exchange
from paddlemix.tensor_files.stored import CheckpointError

OLD = dict.fromkeys(["config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "lora_config.json"], "old")
NEW = {"config.json": "new", "model.safetensors": "new", "llm/config.json": "new"}


def fill(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def write(folder, files, command="merge", *, sources=(), **options):
    with OutputFolder(folder, command, **options).checked(sources).filled() as place:
        fill(place, files)


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def without_note(folder):
    return {name: text for name, text in contents(folder).items() if name != NOTE}


def test_new_folder_notes_its_command_and_files(tmp_path):
    write(tmp_path / "out", NEW)
    assert json.loads((tmp_path / "out" / NOTE).read_text()) == {"command": "merge", "files": sorted(NEW)}
    assert without_note(tmp_path / "out") == NEW and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_earlier_output_of_the_same_command_is_replaced_and_other_files_stay(tmp_path):
    write(tmp_path / "out", OLD | {"more.txt": "old"})
    (tmp_path / "out" / "notes.md").write_text("mine")
    write(tmp_path / "out", NEW)
    assert without_note(tmp_path / "out") == NEW | {"notes.md": "mine"}


def test_folder_with_something_else_needs_to_be_asked_for(tmp_path):
    fill(tmp_path / "out", OLD | {"notes.md": "mine"})
    for _ in range(2):
        message = r"not an earlier output of merge, it holds config\.json.*--overwrite"
        with pytest.raises(CheckpointError, match=message):
            write(tmp_path / "out", NEW)
        assert contents(tmp_path / "out") == OLD | {"notes.md": "mine"}
    write(tmp_path / "out", NEW, is_overwriting=True)
    assert without_note(tmp_path / "out") == NEW | {"notes.md": "mine"}


def test_output_of_another_command_needs_to_be_asked_for(tmp_path):
    write(tmp_path / "out", OLD, "convert")
    with pytest.raises(CheckpointError, match="not an earlier output of merge"):
        write(tmp_path / "out", NEW)


def test_output_in_another_layout_needs_to_be_asked_for(tmp_path):
    write(tmp_path / "out", OLD, "convert", layout="hf")
    write(tmp_path / "out", OLD, "convert", layout="hf")
    with pytest.raises(CheckpointError, match="is an earlier output of convert in layout hf, and this one is paddle:"):
        write(tmp_path / "out", NEW, "convert", layout="paddle")
    assert without_note(tmp_path / "out") == OLD
    write(tmp_path / "out", NEW, "convert", layout="paddle", is_overwriting=True)
    assert without_note(tmp_path / "out") == NEW
    write(tmp_path / "out", NEW, "convert", layout="paddle")


@pytest.mark.parametrize("is_overwriting", [False, True])
def test_source_is_never_written_to(tmp_path, is_overwriting):
    fill(tmp_path / "model" / "inner", OLD)
    (tmp_path / "link").symlink_to(tmp_path / "model" / "inner")
    for place, source, text in (
        ("model/inner", "model/inner", "is also a source"),
        ("link", "model/inner", "is also a source"),
        ("model", "model/inner", "is in the destination|is not empty"),
    ):
        with pytest.raises(CheckpointError, match=text):
            write(tmp_path / place, NEW, sources=[tmp_path / source], is_overwriting=is_overwriting)
    assert contents(tmp_path / "model" / "inner") == OLD


def test_file_and_link_in_the_place_of_a_part_are_refused_before_anything_is_moved(tmp_path):
    write(tmp_path / "out", OLD)
    (tmp_path / "other").write_text("mine")
    (tmp_path / "out" / "model.safetensors").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match="is a link"):
        write(tmp_path / "out", NEW)
    assert (tmp_path / "other").read_text() == "mine" and (tmp_path / "out" / "config.json").read_text() == "old"
    assert not (tmp_path / "out" / STAGING).exists()


def test_failure_while_it_is_filled_leaves_the_old_folder(tmp_path):
    write(tmp_path / "out", OLD)
    before = contents(tmp_path / "out")
    place = OutputFolder(tmp_path / "out", "merge").checked([])
    with pytest.raises(CheckpointError, match=r"could not be written: .*nothing was left"), place.filled() as folder:
        fill(folder, NEW)
        raise OSError(28, "No space left on device")
    assert contents(tmp_path / "out") == before


def test_kill_at_any_change_leaves_the_old_the_new_or_no_model_and_the_next_start_mends_it(tmp_path, monkeypatch):
    number, seen = 0, set()
    while True:
        number += 1
        folder = tmp_path / str(number)
        write(folder, OLD)
        (folder / "notes.md").write_text("mine")

        def run(folder=folder):
            with exchanged(folder, "merge") as place:
                fill(place, NEW)

        if not kill_at(number, monkeypatch, run):
            break
        found = {name: text for name, text in without_note(folder).items() if not name.startswith(STAGING)}
        heads = {name: text for name, text in found.items() if name in ("config.json", "lora_config.json")}
        if "config.json" in found:
            assert found in (OLD | {"notes.md": "mine"}, NEW | {"notes.md": "mine"})
        elif "lora_config.json" in found:
            assert {**found, "config.json": "old"} == OLD | {"notes.md": "mine"}
        seen.add(str(sorted(heads.items())))
        finish_exchange(folder)
        assert without_note(folder) in (OLD | {"notes.md": "mine"}, NEW | {"notes.md": "mine"})
        run()
        assert without_note(folder) == NEW | {"notes.md": "mine"}
        assert not (folder / STAGING).exists()
    assert number > 10 and len(seen) > 2, (number, seen)


def test_note_that_leads_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out" / STAGING).mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    for names in (["../mine"], [str(tmp_path / "mine")], "../mine", [1], None):
        for key in ("files", "replaced"):
            note = {"command": "merge", "files": [], "replaced": [], key: names}
            (tmp_path / "out" / STAGING / NOTE).write_text(json.dumps(note))
            with pytest.raises(CheckpointError, match="is not a note of an unfinished output"):
                finish_exchange(tmp_path / "out")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("place", [NOTE, f"{STAGING}/{NOTE}"])
def test_note_that_leads_out_of_the_folder_by_a_link_removes_nothing_there(tmp_path, place):
    fill(tmp_path, {"mine/notes.md": "mine", "out/x": "x"})
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "mine")
    note = {"command": "merge", "files": ["sub/notes.md"], "replaced": ["sub/notes.md"]}
    fill(tmp_path / "out", {place: json.dumps(note)})
    with contextlib.suppress(CheckpointError):
        write(tmp_path / "out", NEW, is_overwriting=True)
    assert (tmp_path / "mine" / "notes.md").read_text() == "mine"


def test_folder_that_would_become_a_part_of_the_source_is_refused(tmp_path):
    fill(tmp_path / "model", OLD)
    with pytest.raises(CheckpointError, match="would become a part of the source"):
        write(tmp_path / "model" / "vision_tower", NEW, sources=[tmp_path / "model"])
    write(tmp_path / "model" / "merged", NEW, sources=[tmp_path / "model"])


def test_folder_that_another_process_fills_is_left_to_it(tmp_path):
    with exchanged(tmp_path / "out", "merge") as place:
        fill(place, NEW)
        with pytest.raises(ValueError, match="another process is writing"), exchanged(tmp_path / "out", "merge"):
            pytest.fail("both write")
    assert without_note(tmp_path / "out") == NEW

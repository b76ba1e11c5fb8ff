"""Files are written completely or not at all, replace regular files only, and leave no temporary files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from paddlemix.output import OutputError, appending, named_file, replacing, write_json


def write(path, content=b"new"):
    with replacing(path) as file:
        file.write(content)


def test_regular_file_is_replaced_and_a_new_one_made_with_its_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    write(tmp_path / "a")
    write(tmp_path / "sub" / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "sub" / "b").read_bytes() == b"new"
    assert {path.name for path in tmp_path.iterdir()} == {"a", "sub"}


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_link_is_not_followed_and_not_replaced(tmp_path, target):
    (tmp_path / "there").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(OutputError, match=r"is a link to .*name the file itself"):
        write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"there", "link"}


def test_pipe_folder_and_device_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path, kind in ((tmp_path / "pipe", "a pipe"), (tmp_path / "folder", "a folder"), ("/dev/null", "a device")):
        before = stat.S_IFMT(os.lstat(path).st_mode)
        with pytest.raises(OutputError, match=f"is {kind}"):
            write(path)
        assert stat.S_IFMT(os.lstat(path).st_mode) == before


@pytest.mark.parametrize("name", ["a\0b", "a" * 300])
def test_impossible_name_is_one_error(tmp_path, name):
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["~nosuchuser/a", "a/", "a/.", "..", "", "model/a", "model/sub/a", "model/../in", "~/in"]
)
def test_path_that_is_not_a_file_or_is_an_input_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    with pytest.raises(OutputError, match=r"name|no such user"):
        named_file(name, [tmp_path / "model", "~/in"])
    assert named_file("~/b", ["model"]) == tmp_path / "b"


def test_failed_write_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a", {"x": 1})
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(KeyError), replacing(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyError
    assert (tmp_path / "a").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_full_disk_is_an_error_that_names_the_file(tmp_path):
    code = (
        "import resource, sys; from paddlemix.output import replacing; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "with replacing(sys.argv[1]) as file: file.write(bytes(int(sys.argv[2])))"
    )
    for size in ("6000", "100000"):  # fails when the file is closed, and when it is written
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "x", size], capture_output=True, text=True)
        assert f"OSError: [Errno 27] File too large: '{tmp_path / 'x'}'" in done.stderr
        assert not any(tmp_path.iterdir())


def test_temporary_files_of_killed_processes_are_removed_and_those_of_running_ones_are_not(tmp_path):
    program = (
        "import os, sys; from paddlemix.output import replacing\n"
        "file = replacing(sys.argv[1]).__enter__(); file.write(b'half'); file.flush(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a[1]")], check=False)
    (tmp_path / ".a[1].mine.tmp").write_text("not one of ours by its name")
    assert len(list(tmp_path.iterdir())) == 2
    with replacing(tmp_path / "a[1]") as outer:
        outer.write(b"slow")
        write(tmp_path / "a[1]", b"fast")
        assert len(list(tmp_path.iterdir())) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"a[1]", ".a[1].mine.tmp"}
    assert (tmp_path / "a[1]").read_bytes() == b"slow"


def test_lines_are_appended_after_whole_ones_by_one_process_at_a_time(tmp_path):
    path = tmp_path / "sub" / "a"
    with appending(path) as file:
        file.write(b"one\ntw")
    with appending(path) as file:
        file.write(b"two\n")
        with pytest.raises(OutputError, match="another process is writing"), appending(path):
            pytest.fail("it was opened twice")
    assert path.read_bytes() == b"one\ntwo\n"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OutputError, match="is a link to"), appending(tmp_path / "link"):
        pytest.fail("a link was followed")

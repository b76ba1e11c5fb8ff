"""What a run does when its machines see different output folders."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from paddlemix.train import node_folders
from paddlemix.train.node_folders import check_folders, check_same_start


@pytest.fixture
def two_machines(tmp_path, monkeypatch):
    """Return a function that checks as the first of two processes; the other one has the answers that are given."""

    def check(*answers: bool, **changes) -> None:
        given = iter(answers)
        monkeypatch.setenv("PADDLE_NNODES", "2")
        monkeypatch.setattr(node_folders, "gather", lambda value, _: [value, value])
        monkeypatch.setattr(node_folders, "wait_for_all", lambda _: None)
        monkeypatch.setattr(node_folders, "is_true_anywhere", lambda value, _: value or next(given))
        args = {"output_dir": str(tmp_path), "process_index": 0, "world_size": 2, "use_hybrid_parallel": False}
        args |= {"should_save": True, "load_best_model_at_end": False, **changes}
        check_folders(types.SimpleNamespace(**args))

    return check


def test_shared_folder_needs_no_word_and_keeps_no_mark(two_machines, tmp_path, capsys):
    two_machines(False, False)
    assert capsys.readouterr().err == "" and not list(tmp_path.iterdir())


def test_own_folders_are_told_with_the_machine_that_has_the_files(two_machines, tmp_path, monkeypatch):
    notices = []
    monkeypatch.setattr(node_folders, "notice", notices.append)
    two_machines(True, False)
    (printed,) = notices
    assert f"output_dir {tmp_path} is not shared" in printed and "written on this one, that of rank 0" in printed
    assert not list(tmp_path.iterdir())


def test_own_folders_are_refused_where_a_part_of_the_state_would_be_lost(two_machines, tmp_path):
    with pytest.raises(ValueError, match=r"the optimizer's state is divided over machines \(set sharding_parallel_deg"):
        two_machines(True, True)
    with pytest.raises(ValueError, match="load_best_model_at_end reads a checkpoint on all machines"):
        two_machines(True, False, load_best_model_at_end=True)
    assert not list(tmp_path.iterdir())


def test_one_machine_is_not_asked(monkeypatch):
    monkeypatch.delenv("PADDLE_NNODES", raising=False)
    check_folders(None)


def test_machines_with_different_checkpoints_are_refused(monkeypatch):
    monkeypatch.setattr(node_folders, "gather", lambda value, _: [value, None])
    with pytest.raises(ValueError, match=r"different checkpoints \(rank 0: checkpoint-2, rank 1: none\): copy the new"):
        check_same_start(Path("out/checkpoint-2"), 2)
    check_same_start(None, 2)

"""`paddlemix prepare cache`: its options, its ranks, its summary, and the commands that read its result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_folder
from cache_folder import digests, prepare

from paddlemix import cli
from paddlemix.data.token_cache.build import Work
from paddlemix.data.token_cache.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("rows"), 12)


@pytest.fixture
def no_environment(monkeypatch):
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})  # it would stay set in later tests


def config_with(folder: Path, dataset, **values) -> str:
    values = {"model_name_or_path": str(tiny_folder.folder()), "dataset": dataset, "output_dir": str(folder), **values}
    path = folder / "read-config.json"
    path.write_text(json.dumps({"device": "cpu", "report_to": "none", **values}))
    return str(path)


def test_summary_names_rows_tokens_and_what_was_skipped(data, tmp_path, capsys):
    (rows := json.loads(data.read_text()))[3]["image"] = ["gone.png"] * 3
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([*rows, {"conversations": 3}]))
    value = {"data_files": str(file), "image_folder": str(data.parent)}
    assert prepare(tmp_path, value, tmp_path / "cache", "--on_bad_sample", "skip", "--workers", "1") == 0
    manifest = read_manifest(tmp_path / "cache")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith(f"{tmp_path / 'cache'}: 12 rows in 1 file of ")
    assert f"{manifest.totals['num_tokens']:,} tokens" in lines[-2] and manifest.checksum_after in lines[-2]
    listed = tmp_path / "cache" / "bad_samples.jsonl"
    assert lines[-1] == f"skipped: 1 missing image; cut: 0; wrong in their files: 1; listed in {listed}"
    notes = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [(note["row"], note["kind"], note["split"]) for note in notes] == [
        (4, "missing_image", "train"),
        (13, "unknown_format", "train"),
    ]


def test_flags_override_the_configuration_and_eval_has_its_own_cache(data, tmp_path):
    dataset = {"train": str(data), "eval": {"data_files": str(data), "num_samples": 5}}
    prepare(tmp_path, dataset, tmp_path / "cache", "--split", "eval", "--max_length", "99", "--seed", "7")
    plan = read_manifest(tmp_path / "cache").plan
    assert (plan.split, plan.num_rows, plan.encoding["max_length"], plan.seed) == ("eval", 5, 99, 7)


def test_second_call_changes_nothing(data, tmp_path):
    prepare(tmp_path, str(data), tmp_path / "cache", "--shuffle", "1")
    before = digests(tmp_path / "cache")
    prepare(tmp_path, str(data), tmp_path / "cache", "--shuffle", "1", "--workers", "3")
    assert digests(tmp_path / "cache") == before


def test_rank_that_a_launcher_did_not_set_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "first")
    with pytest.raises(ValueError, match="PADDLE_TRAINER_ID is 'first': expected a number"):
        prepare(tmp_path, str(data), tmp_path / "cache")


WRONG = {
    "--max_lenght 99": "unknown setting 'max_lenght': did you mean 'max_length'",
    "--workers 0": "--workers is 0: expected 1 to 256",
    "--shuffle -1": "--shuffle is -1: expected a seed",
    "--rank 1": "--rank and --ranks belong together",
    "--rank 3 --ranks 3": "--rank is 3 of 3: expected 0 to 2",
    "--format hdf5 --with-images": "--format hdf5 stores names of images",
    "--max_length x": "max_length is 'x'",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_option_is_one_error(words, data, tmp_path):
    with pytest.raises(ValueError) as caught:
        prepare(tmp_path, str(data), tmp_path / "cache", *words.split())
    assert WRONG[words] in str(caught.value) and not (tmp_path / "cache").exists()


def test_cache_of_a_cache_is_refused(data, tmp_path):
    prepare(tmp_path, str(data), tmp_path / "cache")
    entry = {"name": "token_cache", "data_files": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match="name the raw data files to make a cache of them"):
        prepare(tmp_path, entry, tmp_path / "second")


def test_ranks_of_a_launch_share_the_rows(data, tmp_path, monkeypatch, capsys):
    """As paddle.distributed.launch numbers them; the first one joins the parts, and may be the last to start."""
    prepare(tmp_path, str(data), tmp_path / "one", "--shuffle", "2")
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setattr("paddlemix.data.token_cache.plan_rows.PART_ROWS", 5)
    for rank in (1, 0):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        prepare(tmp_path, str(data), tmp_path / "two", "--shuffle", "2")
    assert "rank 1 of 2: its part is encoded" in capsys.readouterr().out
    assert read_manifest(tmp_path / "one").checksum_after == read_manifest(tmp_path / "two").checksum_after


def test_processes_of_a_launch_make_the_cache_together(data, tmp_path):
    config = config_with(tmp_path, str(data))
    script = tmp_path / "prepare.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
        "from paddlemix.cli import Parser\nfrom paddlemix.commands import prepare_cache\n"
        'if __name__ == "__main__":\n'
        '    parser = Parser(prog="prepare")\n    prepare_cache.add_arguments(parser)\n'
        "    sys.exit(prepare_cache.run(parser.parse(sys.argv[2:])))\n"
    )
    command = [
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        "2",
        "--log_dir",
        tmp_path / "log",
    ]
    command += [script, ROOT, config, "--output", tmp_path / "cache", "--shuffle", "3"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PADDLE_")}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_manifest(tmp_path / "cache").plan.num_rows == 12


@pytest.mark.parametrize("words", [(), ("--with-images", "--shuffle", "5")])
def test_inspect_data_reports_the_same_numbers(data, tmp_path, capsys, no_environment, words):
    prepare(tmp_path, str(data), tmp_path / "cache", *words)
    capsys.readouterr()
    found = []
    for value in (str(data), {"name": "token_cache", "data_files": str(tmp_path / "cache")}):
        page = tmp_path / "page.html"
        page.unlink(missing_ok=True)
        command = ["inspect-data", config_with(tmp_path, value), "--packing", "--json", "--html", str(page)]
        assert cli.main(command) == 0
        found.append((json.loads(capsys.readouterr().out), page.read_text()))
    assert found[0] == found[1]


def test_doctor_checks_a_run_on_a_cache(data, tmp_path, capsys, no_environment):
    prepare(tmp_path, str(data), tmp_path / "cache")
    entry = {"name": "token_cache", "data_files": str(tmp_path / "cache")}
    (tmp_path / "out").mkdir()
    config = config_with(tmp_path, entry, output_dir=str(tmp_path / "out"))
    assert cli.main(["doctor", config]) == 0
    assert "12 rows, template vicuna_v1" in capsys.readouterr().out
    assert cli.main(["doctor", config, "--max_length", "333"]) == 1
    assert "max_length was 2048, and is 333" in capsys.readouterr().out


def test_hdf5_files_train_like_the_raw_rows(tmp_path, capsys):
    pytest.importorskip("h5py")
    from tiny_training import settings, train

    file = tiny_folder.write_rows(tmp_path / "rows", 8, kinds="01")
    prepare(tmp_path, str(file), tmp_path / "h5", "--format", "hdf5", "--max_length", "200")
    assert capsys.readouterr().out.endswith("h5: 8 rows in HDF5; skipped: none\n")
    for changes in ({}, {"packing": True}, {"group_by_modality_length": True}):
        raw = train(settings(tmp_path, file, max_length=200, **changes)).recorder.losses
        entry = {"name": "llava_hdf5", "data_files": str(tmp_path / "h5"), "image_folder": str(file.parent)}
        cached = train(settings(tmp_path, file, max_length=200, **changes, dataset=entry)).recorder.losses
        assert cached == raw


def test_a_shuffle_of_hdf5_files_is_refused_as_it_would_change_nothing(data, tmp_path, capsys):
    words = ["--output", str(tmp_path / "h5"), "--format", "hdf5", "--shuffle", "1"]
    assert cli.main(["prepare", "cache", config_with(tmp_path, str(data)), *words]) == 1
    assert "--shuffle is for the token cache" in capsys.readouterr().err and not (tmp_path / "h5").exists()


def test_progress_is_reported_for_every_part(data, tmp_path):
    from cache_folder import make

    from paddlemix.checkpoints.processor import LlavaProcessor
    from paddlemix.data.encoding import Encoding

    processor, seen = LlavaProcessor.from_pretrained(tiny_folder.folder()), []
    encoding = Encoding(processor.tokenizer, processor.template, processor.spec, 400)
    work = Work(progress=lambda what, done, total: seen.append((what, done, total)))
    make(tmp_path / "cache", str(data), encoding, part_rows=5, shuffle=1, work=work)
    assert seen[:3] == [("encoding", 5, 12), ("encoding", 10, 12), ("encoding", 12, 12)]
    assert seen[3:] == [("shuffling", number, 3) for number in (1, 2, 3)]

"""The folder of a run: other programs' files stay, half-written ones are removed, and other runs are recognized."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny_folder
from kills import Killed, kill_at
from tiny_training import LORA, build, differing, settings, train, weights

from paddlemix.checkpoints.output_folder import NOTE
from paddlemix.output import OutputError, write_json
from paddlemix.tensor_files.stored import CheckpointError
from paddlemix.train import run
from paddlemix.train.results import append_answers
from paddlemix.train.run_folder import (
    COMPLETE,
    FORMAT,
    RUN,
    claim_folder,
    free_name,
    last_checkpoint,
    new_checkpoint,
    remove_old,
)

SAVING = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "overwrite_output_dir": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


def save(folder, step, content="new"):
    with new_checkpoint(folder, step, {}, is_writer=True, wait_for_all=lambda: None) as (unfinished, final):
        (unfinished / "weights").write_text(content)
        (unfinished / "state").write_text(content)
    return final


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.name in ("weights", "state")}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_checkpoints_of_other_programs_are_left_alone_and_named_once(tmp_path, data, caplog):
    out = tmp_path / "out"
    (out / "checkpoint-best").mkdir(parents=True)
    (out / "checkpoint-500").mkdir()
    (out / "checkpoint-500" / "weights").write_text("mine")
    (out / "checkpoint-notes.txt").write_text("mine")
    (out / "checkpoint-7").symlink_to(tmp_path)
    (out / "checkpoint-1").symlink_to(tmp_path / "nowhere")
    before = names(out)
    train(settings(tmp_path, data, **{**SAVING, "max_steps": 3, "save_total_limit": 1, "overwrite_output_dir": True}))
    notices = [line for line in caplog.messages if "is left alone" in line]
    assert len(notices) == 1 and ", ".join(before) in notices[0]
    assert set(before) < set(names(out)) and (out / "checkpoint-7").is_symlink() and (out / "checkpoint-1").is_symlink()
    assert contents(out / "checkpoint-500") == {"weights": "mine"}
    assert {path.name for path in out.glob("checkpoint-*")} - set(before) == {"checkpoint-1-1", "checkpoint-3"}


def test_folder_with_other_files_is_refused_unless_it_is_to_be_overwritten(tmp_path, data):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.md").write_text("mine")
    with pytest.raises(CheckpointError, match=r"it holds notes\.md: .*overwrite_output_dir"):
        train(settings(tmp_path, data, **SAVING))
    assert names(tmp_path / "out") == ["notes.md"]
    train(settings(tmp_path, data, **{**SAVING, "overwrite_output_dir": True}))
    assert (tmp_path / "out" / "notes.md").read_text() == "mine"


@pytest.mark.parametrize("is_overwriting", [False, True])
def test_model_that_is_trained_is_never_written_over(tmp_path, data, is_overwriting):
    values = settings(tmp_path, data, **SAVING)
    values |= {"overwrite_output_dir": is_overwriting, "output_dir": values["model_name_or_path"]}
    with pytest.raises(CheckpointError, match="is also a source"):
        train(values)


def test_folder_that_another_run_writes_is_refused(tmp_path):
    program = (
        "import sys, time; from paddlemix.train.run_folder import claim_folder\n"
        "with claim_folder(sys.argv[1], [], is_overwriting=False):\n"
        "    print('ready', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "ready\n"
        with (
            pytest.raises(OutputError, match="another run is writing"),
            claim_folder(tmp_path / "out", [], is_overwriting=True),
        ):
            pytest.fail("two runs in one folder")
    finally:
        other.kill()
        other.wait()
    with claim_folder(tmp_path / "out", [], is_overwriting=False):
        assert (tmp_path / "out" / NOTE).is_file()


def test_logs_of_a_launcher_do_not_prevent_a_run(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "train.log").touch()
    (tmp_path / f".{NOTE}.abcdefgh.tmp").touch()  # left by a run that was killed at its start
    with claim_folder(tmp_path, [], is_overwriting=False):
        assert names(tmp_path) == [NOTE, ".paddlemix.lock", "log", "train.log"]


def test_kill_at_any_change_leaves_the_old_checkpoint_the_new_one_or_none(tmp_path, monkeypatch):
    number, either = 0, [dict.fromkeys(("weights", "state"), content) for content in ("old", "new")]
    while True:
        number += 1
        out = tmp_path / str(number)
        with claim_folder(out, [], is_overwriting=False):
            save(out, 5, "old")
        if not kill_at(number, monkeypatch, lambda out=out: save(out, 5), keeps_trees=True):
            break
        last = last_checkpoint(out)
        assert last is None or contents(last) in (
            {"weights": "old", "state": "old"},
            {"weights": "new", "state": "new"},
        )
        with claim_folder(out, [], is_overwriting=False):
            last = last_checkpoint(out)
            assert contents(last) in either
            assert names(out) == [".paddlemix.json", ".paddlemix.lock", "checkpoint-5"]
    assert number > 4


def test_failed_checkpoint_leaves_nothing_and_the_next_one_takes_its_name(tmp_path):
    with (
        pytest.raises(OSError, match="full"),
        new_checkpoint(tmp_path, 3, {}, is_writer=True, wait_for_all=lambda: None) as (unfinished, _),
    ):
        (unfinished / "weights").write_text("half")
        raise OSError("full")
    assert names(tmp_path) == []
    assert save(tmp_path, 3) == tmp_path / "checkpoint-3" == last_checkpoint(tmp_path)


def test_files_that_another_process_wrote_to_a_failed_checkpoint_are_removed_at_the_next_start(tmp_path):
    with (
        pytest.raises(OSError, match="full"),
        new_checkpoint(tmp_path, 3, {}, is_writer=True, wait_for_all=lambda: None, is_shared=True) as (unfinished, _),
    ):
        (unfinished / "weights").write_text("half")
        raise OSError("full")
    (unfinished / "optimizer.shard01.pdopt").write_text("of a process that does not know of the failure")
    assert names(unfinished) == ["optimizer.shard01.pdopt", RUN] and last_checkpoint(tmp_path) is None
    with claim_folder(tmp_path, [], is_overwriting=True):
        assert names(tmp_path) == [NOTE, ".paddlemix.lock"]


def test_only_whole_checkpoints_of_this_program_are_removed_but_not_the_kept_and_the_newest(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step)
        os.utime(tmp_path / f"checkpoint-{step}" / COMPLETE, (step, step))
    (tmp_path / "checkpoint-2" / RUN).unlink()
    (tmp_path / "checkpoint-3").rename(tmp_path / "elsewhere")
    (tmp_path / "checkpoint-3").symlink_to(tmp_path / "elsewhere")
    remove_old(tmp_path, None, [])
    remove_old(tmp_path, 0, [])
    assert len(list(tmp_path.glob("checkpoint-*"))) == 5
    remove_old(tmp_path, 1, ["/moved/checkpoint-1", None])
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-5", "elsewhere"]
    assert free_name(tmp_path, 3).name == "checkpoint-3-1" and free_name(tmp_path, 5).name == "checkpoint-5"


def test_run_json_of_another_program_is_not_a_mark(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    for content in ("{", '{"mine": 1}', "[]"):
        (tmp_path / "checkpoint-1" / RUN).write_text(content)
        assert free_name(tmp_path, 1).name == "checkpoint-1-1"
    write_json(tmp_path / "checkpoint-1" / RUN, {FORMAT: 1})
    assert free_name(tmp_path, 1).name == "checkpoint-1"


def other_data(tmp_path, data):
    rows = json.loads(data.read_text())
    rows[0], rows[1] = rows[1], rows[0]
    path = data.with_name("other.json")
    path.write_text(json.dumps(rows))
    return {"dataset": str(path)}


OTHER = {
    "rank": (lambda *_: {**LORA, "lora_rank": 2}, "lora_rank was 4, and is 2"),
    "alpha": (lambda *_: {**LORA, "lora_alpha": 64}, "lora_alpha was 8, and is 64"),
    "full over LoRA": (lambda *_: {"lora": False}, "lora_rank was 4, and is none"),
    "model": (lambda *_: {"model_name_or_path": str(tiny_folder.folder("anyres"))}, "model was .*pad, and is .*anyres"),
    "data": (lambda tmp_path, data: other_data(tmp_path, data), r"data was .*train\.json, and is .*other\.json"),
    "template": (lambda *_: {"conv_mode": "llava_v1"}, "template was .*, and is llava_v1"),
    "layers": (
        lambda *_: {"lora_target_modules": ["llama.layer.*q_proj.*"]},
        "trained was .* tensors, and is .* tensors",
    ),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory, data):
    """A LoRA run that was killed after its second step."""
    folder = tmp_path_factory.mktemp("begun")
    trainer = build(settings(folder, data, **LORA, **{**SAVING, "max_steps": 4}))

    def killed(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paddlemix.train.trainer.LlavaTrainer.training_step", stopping_after(2, killed))
        with pytest.raises(Killed):
            run.execute(trainer, trainer.args)
    return folder


def stopping_after(number, stop):
    from paddlemix.train.trainer import LlavaTrainer

    step = LlavaTrainer.training_step

    def training_step(self, *values, **options):
        if self.state.global_step == number:
            stop()
        return step(self, *values, **options)

    return training_step


@pytest.mark.parametrize(("changes", "text"), OTHER.values(), ids=OTHER)
def test_run_with_other_settings_does_not_resume_from_a_checkpoint(begun, data, tmp_path, changes, text):
    before = names(begun / "out")
    values = {**settings(begun, data, **LORA, **{**SAVING, "max_steps": 4}), **changes(tmp_path, data)}
    with pytest.raises(
        ValueError, match=rf"checkpoint-2 is of a run with other settings: .*{text}.*overwrite_output_dir"
    ):
        train(values)
    assert set(names(begun / "out")) == {NOTE, *before}


def test_moved_model_and_data_are_the_same_ones(begun, data, tmp_path, caplog):
    folder = shutil.copytree(begun, tmp_path / "copy")
    model = shutil.copytree(tiny_folder.folder("pad"), tmp_path / "model")
    moved = shutil.copytree(data.parent, tmp_path / "rows") / data.name
    again = settings(folder, moved, **LORA, **{**SAVING, "max_steps": 4}, seed=7, model_name_or_path=str(model))
    trainer = train(again)
    assert trainer.state.global_step == 4 and len(trainer.recorder.losses) == 2
    assert "seed was 42, and is 7: rows of this epoch may come twice" in caplog.text


def test_finished_run_is_not_run_again_unless_it_is_longer(tmp_path, data, caplog):
    first = train(settings(tmp_path, data, **SAVING))
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    again = train(settings(tmp_path, data, **SAVING))
    assert "already finished at step 2" in caplog.text and again.recorder.losses == []
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before
    with pytest.raises(ValueError, match=r"is of a run with other settings: lora_rank was none"):
        train(settings(tmp_path, data, **SAVING, **LORA))
    for folder in (tmp_path / "out").glob("checkpoint-*"):
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"the result in .* is of a run with other settings: lora_rank was none"):
        train(settings(tmp_path, data, **SAVING, **LORA))
    longer = train(settings(tmp_path, data, **{**SAVING, "max_steps": 3}))
    assert len(longer.recorder.losses) == 3 and differing(weights(first.llava), weights(longer.llava))
    assert json.loads((tmp_path / "out" / NOTE).read_text())["finished"]["step"] == 3


def test_starting_anew_says_which_checkpoint_is_discarded_and_how_to_continue(tmp_path, data, caplog):
    values = settings(tmp_path, data, **{**SAVING, "overwrite_output_dir": True})
    train(values)
    assert "is discarded" not in caplog.text
    train(values)
    told = [line for line in caplog.messages if "is discarded" in line]
    assert len(told) == 1 and f"checkpoint-2 of an earlier run in {tmp_path / 'out'} is discarded" in told[0]
    assert "--resume_from_checkpoint true" in told[0] and "overwrite_output_dir is true" in told[0]
    caplog.clear()
    train({**values, "max_steps": 3, "resume_from_checkpoint": "true"})
    assert "is discarded" not in caplog.text


@pytest.mark.parametrize("word", [True, "true"])
def test_resume_from_checkpoint_true_means_the_last_one(tmp_path, data, word):
    with pytest.raises(ValueError, match=r"resume_from_checkpoint is true, and .* has no whole checkpoint"):
        train(settings(tmp_path, data, **SAVING, resume_from_checkpoint=word))
    train(settings(tmp_path, data, **SAVING))
    values = {**SAVING, "max_steps": 3, "overwrite_output_dir": True, "resume_from_checkpoint": word}
    assert len(train(settings(tmp_path, data, **values)).recorder.losses) == 1


def test_checkpoint_that_is_not_there_is_one_line(tmp_path, data):
    with pytest.raises(ValueError, match=r"resume_from_checkpoint .*nowhere is not a folder"):
        train(settings(tmp_path, data, **SAVING, resume_from_checkpoint=str(tmp_path / "nowhere")))


def test_result_of_another_kind_replaces_all_files_of_the_earlier_one(tmp_path, data):
    train(settings(tmp_path, data, **LORA))
    assert (tmp_path / "out" / "lora_config.json").is_file()
    train(settings(tmp_path, data))
    assert not list((tmp_path / "out").glob("lora_*")) and (tmp_path / "out" / "model.safetensors").is_file()
    train(settings(tmp_path, data, **LORA))
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_adapter_without_lora_is_one_line(tmp_path, data):
    with pytest.raises(ValueError, match="lora_path is there, and lora is not true"):
        train(settings(tmp_path, data, lora_path="there"))


def test_learning_rate_may_change_in_a_resumed_run_with_a_notice_but_not_after_its_end(begun, data, tmp_path, caplog):
    folder = shutil.copytree(begun, tmp_path / "copy")
    values = settings(folder, data, **LORA, **{**SAVING, "max_steps": 4}, learning_rate=2e-3)
    assert train(values).state.global_step == 4
    assert "learning_rate was 0.001, and is 0.002" in caplog.messages
    with pytest.raises(ValueError, match=r"the result in .* other settings: learning_rate was 0\.002, and is 0\.003"):
        train({**values, "learning_rate": 3e-3})


def test_answers_of_repeated_steps_are_replaced(tmp_path):
    path = tmp_path / "eval_answers.jsonl"
    for step, text in ((2, "a"), (4, "b\u2028c"), (6, "d"), (4, "e")):
        append_answers(tmp_path, step, [{"answer": text}])
    with path.open("a") as file:
        file.write("mine\n")
    append_answers(tmp_path, 6, [{"answer": "f"}, {"answer": "g"}])
    lines = path.read_text().split("\n")
    assert lines.pop() == "" and lines.pop(2) == "mine"
    assert [(row["step"], row["answer"]) for row in map(json.loads, lines)] == [(2, "a"), (4, "e"), (6, "f"), (6, "g")]


def test_run_that_was_killed_after_its_last_checkpoint_makes_its_result_without_a_step(tmp_path, data):
    """The result equals that of the run that was not killed."""
    values = {**SAVING, "max_steps": 3, "logging_steps": 1}
    whole = train(settings(tmp_path / "whole", data, **values))
    rest = tmp_path / "rest"
    for step in (2, 3):
        shutil.rmtree(rest, ignore_errors=True)
        shutil.copytree(tmp_path / "whole/out" / f"checkpoint-{step}", rest / "out" / f"checkpoint-{step}")
        again = train(settings(rest, data, **values))
        assert len(again.recorder.losses) == 3 - step and again.state.global_step == 3
        assert not differing(weights(whole.llava), weights(again.llava))
        states = [json.loads((one / "out/trainer_state.json").read_text()) for one in (tmp_path / "whole", rest)]
        assert states[0] == states[1]
        assert again.history.values == whole.history.values
        first, second = (
            json.loads((folder / "out/train_results.json").read_text()) for folder in (tmp_path / "whole", rest)
        )
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-6)
        rate = second["train_steps_per_second"] * second["train_runtime"]
        assert rate == pytest.approx(3 - step, rel=0.01)


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00002.safetensors", "loss.png", "eval_results.json"])
@pytest.mark.parametrize("is_link", [False, True])
def test_path_that_could_not_be_written_at_the_end_is_refused_at_the_start(tmp_path, name, is_link):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(tmp_path / "base.json") if is_link else (out / name).mkdir()
    with (
        pytest.raises(CheckpointError, match=rf"out/{name} is a .*this run will write there"),
        claim_folder(out, [], is_overwriting=True),
    ):
        pytest.fail("a run that could not write its result")
    assert names(out) == [name]


@pytest.mark.parametrize("name", [".checkpoint-2.partial", ".checkpoint-2.old"])
def test_other_files_under_the_name_of_an_unfinished_checkpoint_are_left_alone(tmp_path, name):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (out / name).mkdir(parents=True)
    (out / name / "weights").write_text("mine")
    elsewhere.mkdir()
    (elsewhere / "weights").write_text("mine")
    for _ in range(2):
        with (
            pytest.raises(CheckpointError, match=r"not begun by this program: move it away"),
            claim_folder(out, [], is_overwriting=True),
        ):
            pytest.fail("a run that would remove other files")
        assert contents(out / name) == contents(elsewhere) == {"weights": "mine"}
        if not (out / name).is_symlink():
            shutil.rmtree(out / name)
            (out / name).symlink_to(elsewhere)


def test_half_a_mark_of_a_killed_run_is_removed(tmp_path):
    (tmp_path / ".checkpoint-2.partial").mkdir()
    (tmp_path / f".checkpoint-2.partial/.{RUN}.abcd1234.tmp").touch()
    with claim_folder(tmp_path, [], is_overwriting=True):
        assert names(tmp_path) == [".paddlemix.json", ".paddlemix.lock"]


def test_copying_a_run_does_not_change_its_last_checkpoint(tmp_path):
    for step in (9, 10):
        save(tmp_path, step)
    os.utime(tmp_path / "checkpoint-9" / COMPLETE, (1 << 40, 1 << 40))  # copied after the other
    assert last_checkpoint(tmp_path).name == "checkpoint-10"


def test_checkpoint_of_a_machine_whose_clock_is_behind_is_the_last_one(tmp_path, monkeypatch):
    for step, seconds in ((1, 1000), (2, 2000), (3, 500), (4, 600)):
        monkeypatch.setattr("paddlemix.train.run_folder.time.time_ns", lambda seconds=seconds: seconds * 10**9)
        save(tmp_path, step)
        assert last_checkpoint(tmp_path).name == f"checkpoint-{step}"
    remove_old(tmp_path, 2, [])
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4"]


def test_output_inside_the_model_does_not_make_it_another_model(tmp_path, data):
    folder = tmp_path / "model"
    tiny_folder.make_folder(folder, "pad")
    values = settings(folder, data, **SAVING, model_name_or_path=str(folder))
    first, again = train(values), train({**values, "max_steps": 3})
    assert again.state.global_step == 3 and len(again.recorder.losses) == 1
    assert first.facts["model"] == again.facts["model"]


def test_result_that_lost_its_weights_is_made_again(tmp_path, data):
    first = train(settings(tmp_path, data, **SAVING))
    (tmp_path / "out/model.safetensors").unlink()
    again = train(settings(tmp_path, data, **SAVING))
    assert not again.recorder.losses and not differing(weights(first.llava), weights(again.llava))
    assert (tmp_path / "out/model.safetensors").is_file()


def test_run_that_was_killed_in_its_last_evaluation_is_evaluated(tmp_path, data):
    values = settings(tmp_path, None, **SAVING, do_eval=True, dataset={"train": str(data), "eval": str(data)})
    path = tmp_path / "out/eval_results.json"
    train(values)
    expected = json.loads(path.read_text())["eval_loss"]
    path.unlink()
    assert not train(values).recorder.losses and json.loads(path.read_text())["eval_loss"] == expected
    changed = path.stat().st_mtime_ns
    train(values)
    assert path.stat().st_mtime_ns == changed


def test_answers_before_training_leave_those_of_training(tmp_path):
    for step, text in ((2, "a"), (0, "b"), (0, "c")):
        append_answers(tmp_path, step, [{"answer": text}])
    rows = map(json.loads, (tmp_path / "eval_answers.jsonl").read_text().splitlines())
    assert [(row["step"], row["answer"]) for row in rows] == [(2, "a"), (0, "c")]

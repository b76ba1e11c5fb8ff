"""The doctor finds problems before the first step and leaves no files; --dry-run does the same."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import paddle
import pytest
import tiny_folder
from tiny_training import LORA, settings

from paddlemix import cli, device_memory
from paddlemix.checkpoints import save
from paddlemix.commands import train as train_command
from paddlemix.doctor import machine, run_checks
from paddlemix.doctor.check import FAILED, OK, SKIPPED, WARNING, Check, Diagnosis
from paddlemix.doctor.report import as_text
from paddlemix.doctor.run_checks import diagnose
from paddlemix.terminal.style import Style
from paddlemix.train import trial

NAMES = ["versions", "device", "settings", "model", "data", "memory", "disk", "trial"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("doctor"), num_rows=24, kinds="10")


def found(values: dict, **options) -> dict[str, Check]:
    diagnosis = diagnose(values, template=None, config_folder=None, **options)
    assert [check.name for check in diagnosis.checks] == NAMES
    return {check.name: check for check in diagnosis.checks}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        LORA,
        {"recompute": True, "packing": True, "max_length": 128},
        {"tune_mm_mlp_adapter": True},
        {**LORA, "load_in_4bit": True},
    ],
    ids=["whole", "lora", "packed", "projector", "qlora"],
)
def test_working_configuration_passes_and_leaves_no_files(changes, tmp_path, data):
    checks = found(settings(tmp_path, data, save_strategy="steps", save_total_limit=1, **changes))
    assert {name for name, check in checks.items() if check.status not in (OK, WARNING)} == set()
    assert checks["trial"].status == OK, checks["trial"].facts
    assert len(checks["trial"].values["losses"]) == trial.NUM_STEPS
    assert not (tmp_path / "out").exists()
    estimated = checks["memory"].values["estimate"]["total"]
    assert 0.8 * checks["trial"].values["peak"] <= estimated <= 1.3 * checks["trial"].values["peak"]


def test_folder_with_results_is_left_as_it_was(tmp_path, data):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.txt").write_text("kept")
    checks = found(settings(tmp_path, data))
    assert checks["trial"].status == OK
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept.txt"]


def test_each_check_reports_its_problem_and_checks_that_need_it_are_skipped(tmp_path, data):
    checks = found(settings(tmp_path, data, learing_rate=1))
    assert checks["settings"].status == FAILED and "did you mean 'learning_rate'" in checks["settings"].facts[0]
    assert [checks[name].status for name in NAMES[3:]] == [SKIPPED] * 5
    checks = found(settings(tmp_path, data, model_name_or_path=str(tmp_path / "absent")))
    assert checks["model"].status == FAILED and "absent" in checks["model"].facts[0]
    checks = found(settings(tmp_path, data, load_in_4bit=True), is_tried=False)
    assert checks["model"].status == FAILED and "cannot be trained" in checks["model"].facts[-1]
    checks = found(settings(tmp_path, tmp_path / "none.json"), is_tried=False)
    assert checks["data"].status == FAILED and "none.json" in checks["data"].facts[-1]
    assert checks["memory"].status == checks["trial"].status == SKIPPED


def test_run_that_only_evaluates_is_not_tried_and_one_that_does_nothing_fails(tmp_path, data):
    values = {**settings(tmp_path, data), "dataset": {"eval": str(data)}, "do_train": False}
    checks = found({**values, "do_eval": True})
    assert checks["settings"].status == WARNING and checks["data"].status == OK, checks["data"].facts
    assert "only evaluated" in checks["settings"].facts[-1] and "eval: 24 rows" in checks["data"].facts[0]
    for name in ("memory", "disk", "trial"):
        assert checks[name].status == SKIPPED, name
    checks = found(values)
    assert checks["settings"].status == FAILED and "nothing would be done" in checks["settings"].facts[0]
    del values["do_train"]
    checks = found({**values, "dataset": str(data)}, is_tried=False)
    assert checks["settings"].status == OK and "train: 24 rows" in checks["data"].facts[0]


def test_missing_weights_and_images_are_found_without_loading(tmp_path, data):
    broken = tmp_path / "model"
    broken.mkdir()
    for file in tiny_folder.folder("pad").iterdir():
        if not file.name.startswith("model"):
            (broken / file.name).write_bytes(file.read_bytes())
    rows = json.loads(data.read_text())
    rows[2]["image"] = ["absent.png"]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    values = settings(tmp_path, tmp_path / "rows.json", model_name_or_path=str(broken), image_folder=str(data.parent))
    checks = found(values)
    assert checks["model"].status == FAILED and any("weights" in fact for fact in checks["model"].facts)
    assert checks["data"].status == WARNING and "missing_image 1" in " ".join(checks["data"].facts)
    assert any("inspect-data" in text for text in checks["data"].advice)
    assert checks["trial"].status == SKIPPED
    assert found({**values, "on_bad_sample": "raise"}, is_tried=False)["data"].status == FAILED


def test_run_that_does_not_fit_gets_advice_and_is_not_tried(tmp_path, data, monkeypatch):
    monkeypatch.setattr(device_memory, "memory_of", lambda device: (1 << 20, 1 << 19))
    checks = found(settings(tmp_path, data))
    assert checks["memory"].status == FAILED and checks["trial"].status == SKIPPED
    assert checks["memory"].advice[0].startswith('"recompute": true')


def test_estimate_is_for_the_number_of_cards_that_will_train(tmp_path, data):
    values = settings(tmp_path, data, sharding="stage2")
    one, eight = (found(values, num_cards=cards, is_tried=False)["memory"].values["estimate"] for cards in (1, 8))
    assert eight["optimizer"] == pytest.approx(one["optimizer"] / 8, rel=1e-3)


def test_every_line_speaks_of_the_number_of_processes_that_will_train(tmp_path, data):
    values = settings(tmp_path, data, sharding="stage2", per_device_train_batch_size=2, gradient_accumulation_steps=3)
    checks = found(values, num_cards=8, is_tried=False)
    assert "48 samples a step on 8 processes" in " ".join(checks["settings"].facts)
    assert checks["settings"].status == OK and "one process" not in str(checks["settings"])
    one = found(values, is_tried=False)["settings"]
    assert "6 samples a step on 1 process" in " ".join(one.facts) and "without effect in one process" in str(one)
    halved = found({**values, "sharding": "", "tensor_parallel_degree": 2}, num_cards=8, is_tried=False)["settings"]
    assert "24 samples a step on 8 processes" in " ".join(halved.facts)


@pytest.mark.parametrize("kind", ["gpu", "npu"])
def test_memory_is_estimated_for_cards_that_this_machine_does_not_have(tmp_path, data, kind):
    values = settings(tmp_path, data, device=kind, bf16=True, fp16_opt_level="O2", sharding="stage2")
    checks = found(values, num_cards=8)
    assert checks["device"].status == SKIPPED and f"this machine has no {kind}: the plan" in checks["device"].facts[0]
    assert [name for name, check in checks.items() if check.status == FAILED] == []
    text = " ".join(checks["memory"].facts)
    assert f"there is no {kind} here to compare it with: a card of 16 GiB is enough" in text
    assert "bfloat16 O2, sharding stage 2 over 8" in text and checks["trial"].status == SKIPPED
    here = found({**values, "device": "cpu"}, num_cards=8, is_tried=False)["memory"].values["estimate"]
    assert checks["memory"].values["estimate"]["weights"] == here["weights"] / 2
    assert checks["disk"].status == OK


def test_plan_needs_no_weights_and_ends_calmly_with_code_0(tmp_path, data, capsys, monkeypatch):
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})
    folder = tmp_path / "bare"
    shutil.copytree(tiny_folder.folder("pad"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    file = tmp_path / "run.json"
    file.write_text(json.dumps(settings(tmp_path, data, device="Ascend", model_name_or_path=str(folder))))
    assert cli.main(["doctor", str(file), "--processes", "8"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "skipped device this machine has no npu: the plan below holds for a machine that has" in text
    assert "its weights are not here" in text and "4 steps of 16 samples" in text
    assert '-> "bf16": true, "fp16_opt_level": "O2" (about' in text and "trial needs the cards" in text
    assert text.endswith("planned for 8 npu cards: nothing failed, 1 with warnings; check again there")
    assert cli.main(["doctor", str(file)]) == 1  # no plan was asked for
    assert "is not there" in capsys.readouterr().out


def test_card_with_traces_is_missed_in_a_plan_too(tmp_path, data, monkeypatch):
    monkeypatch.setattr(run_checks, "has_traces", lambda kind: True)
    checks = found(settings(tmp_path, data, device="npu"), num_cards=8)
    assert checks["device"].status == FAILED and "device 'npu' is not there" in checks["device"].facts[0]


def test_size_of_the_card_is_the_smallest_that_leaves_a_tenth(tmp_path, data, monkeypatch):
    monkeypatch.setattr(run_checks, "CARDS", (1, 2, 4))
    values = settings(tmp_path, data, device="gpu")
    assert "a card of 2 GiB is enough" in " ".join(
        found(values, num_cards=2)["memory"].facts
    )  # 1 GiB is for the driver
    monkeypatch.setattr(run_checks, "CARDS", (1,))
    memory = found(values, num_cards=2)["memory"]
    assert memory.status == FAILED and "more than a card of 1 GiB has" in " ".join(memory.facts) and memory.advice


def test_device_without_a_known_kind_has_no_estimate(tmp_path, data):
    checks = found(settings(tmp_path, data, device="tpu"))
    assert [name for name, check in checks.items() if check.status == FAILED] == ["device"]
    assert checks["memory"].facts == ["needs the device"]


@pytest.mark.parametrize(
    ("changes", "num_cards", "text"),
    [
        ({}, 4, "the decoder divided over 2 cards"),
        ({}, 3, "tensor_parallel_degree is 2, and there are 3 processes, not a multiple of it"),
        ({"tensor_parallel_degree": 3}, 6, "num_attention_heads is 4, which cannot be cut in 3 equal parts"),
        ({"sharding": "stage2"}, 4, "sharding stage2 does not go with tensor_parallel_degree"),
    ],
)
def test_degree_is_checked_for_the_number_of_cards_that_will_train(tmp_path, data, changes, num_cards, text):
    values = settings(tmp_path, data, **{"tensor_parallel_degree": 2, **changes})
    checks = found(values, num_cards=num_cards, is_tried=False)
    assert any(text in fact for fact in checks["memory"].facts), checks["memory"]
    assert (checks["memory"].status == FAILED) == ("divided over" not in text)


def test_full_disk_is_found_before_the_first_checkpoint(tmp_path, data, monkeypatch):
    usage = machine.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    checks = found(settings(tmp_path, data, save_strategy="epoch"), is_tried=False)
    assert checks["disk"].status == FAILED and "save_total_limit" in " ".join(checks["disk"].advice)


def test_checkpoint_that_differs_from_memory_is_found(tmp_path, data, monkeypatch):
    whole = save.stored_parameters

    def rounded(parameters, dtype, shapes, read):
        return whole(parameters, dtype, shapes, lambda name: paddle.round(read(name) * 8) / 8)

    monkeypatch.setattr(save, "stored_parameters", rounded)
    check = found(settings(tmp_path, data))["trial"]
    assert check.status == FAILED and "differ from those in memory" in " ".join(check.facts)
    assert not (tmp_path / "out").exists()


def test_gradients_that_are_not_finite_are_found(tmp_path, data, monkeypatch):
    built = trial.build

    def poisoned(*arguments, **options):
        trainer = built(*arguments, **options)
        weight = trainer.llava.projector[0].weight
        weight.register_hook(lambda gradient: gradient * float("nan"))
        return trainer

    monkeypatch.setattr(trial, "build", poisoned)
    check = found(settings(tmp_path, data))["trial"]
    assert check.status == FAILED and "projector.0.weight" in " ".join(check.facts)


def test_any_exception_in_the_trial_is_its_failure(tmp_path, data, monkeypatch):
    def burst(*arguments, **options):
        raise MemoryError("Out of memory")

    monkeypatch.setattr(trial, "build", burst)
    check = found(settings(tmp_path, data))["trial"]
    assert check.status == FAILED and check.facts == ["MemoryError: Out of memory"]


def test_device_with_wrong_results_is_found(monkeypatch):
    check = Check("device")
    run_checks.check_device(check, "cpu", "float32", False)
    assert check.status == OK
    right = paddle.matmul
    monkeypatch.setattr(paddle, "matmul", lambda *arguments: right(*arguments) * 1.01)
    run_checks.check_device(check, "cpu", "float32", False)
    assert check.status == FAILED and "matrix product in float32" in " ".join(check.facts)


def test_half_precision_that_the_device_lacks_is_a_warning(tmp_path, data):
    checks = found(settings(tmp_path, data, bf16=True, fp16_opt_level="O2"), is_tried=False)
    assert checks["device"].status == WARNING and "float32" in " ".join(checks["device"].facts)
    assert any("bfloat16" in fact for fact in checks["settings"].facts)  # the notice of parsing


@pytest.mark.parametrize(("installed", "status"), [("2.9", FAILED), (None, FAILED), ("3.0.0b4", OK)])
def test_versions_are_compared_with_the_bounds(installed, status, monkeypatch):
    lines = [machine.Requirement("paddlenlp==3.0.0b4")]
    monkeypatch.setattr(machine, "_requirements", lambda: lines)
    monkeypatch.setattr(machine, "_version", lambda name: installed)
    check = Check("versions")
    machine.check_versions(check)
    assert check.status == status


@pytest.mark.parametrize(
    ("installed", "status"),
    [("3.0.0.dev20250527", OK), ("0.0.0", OK), ("3.3.1", OK), ("2.6.1.dev20240801", FAILED), ("3.4.0", FAILED)],
)
def test_nightly_build_that_plugins_require_counts_as_its_release(installed, status, monkeypatch):
    monkeypatch.setattr(machine, "_requirements", lambda: [machine.Requirement("paddlepaddle>=3.0.0,<3.4")])
    monkeypatch.setattr(machine, "_version", lambda name: installed)
    check = Check("versions")
    machine.check_versions(check)
    assert check.status == status


def test_dry_run_diagnoses_and_trains_nothing(tmp_path, data, capsys, monkeypatch):
    monkeypatch.setattr(train_command, "prepare_environment", lambda device: {})
    seen = []
    monkeypatch.setattr(run_checks, "check_trial", lambda check, *arguments: seen.append(check))
    file = tmp_path / "run.json"
    file.write_text(json.dumps({**settings(tmp_path, data), "dry_run": True}))
    assert train_command.main([str(file)], script="sft", template=None) == 0
    output = capsys.readouterr().out
    assert len(seen) == 1 and "memory" in output and not (tmp_path / "out").exists()
    assert train_command.main([str(file), "--learing_rate", "1"], script="sft", template=None) == 1
    assert train_command.main([str(file), "--dry-run", "perhaps"], script="sft", template=None) == 1
    assert "dry_run is 'perhaps'" in capsys.readouterr().err


def test_command_prints_json_and_returns_1_where_something_failed(tmp_path, data, capsys, monkeypatch):
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})
    file = tmp_path / "run.json"
    file.write_text(json.dumps(settings(tmp_path, data)))
    assert cli.main(["doctor", str(file), "--json", "--no-trial"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in values["checks"]] == NAMES and not values["has_failed"]
    assert values["checks"][5]["estimate"]["weights"] > 0
    assert cli.main(["doctor", str(file), "--json", "--no-trial", "--max_length", "0"]) == 1
    assert json.loads(capsys.readouterr().out)["has_failed"]


def test_text_names_status_facts_advice_and_the_verdict():
    diagnosis = Diagnosis()
    with diagnosis.check("first") as check:
        check.say("all is well")
        check.warn("nearly", "do this")
    with diagnosis.check("second"):
        raise ValueError("broken")
    text = as_text(diagnosis, Style(io.StringIO()))
    assert "warning  first" in text and "-> do this" in text and "FAILED   second    broken" in text
    assert text.endswith("1 failed (second): training would stop") and "\033" not in text
    style = Style(io.StringIO())
    style.has_color = True
    assert style.paint("FAILED   ", "error") in as_text(diagnosis, style)


def test_memory_of_the_host_is_known_and_a_peak_can_be_taken():
    total, free = device_memory.memory_of("cpu")
    assert 0 < free < total
    before = device_memory.allocated_memory("cpu")
    device_memory.reset_peak("cpu")
    kept = paddle.zeros([1 << 20])
    assert device_memory.peak_allocated("cpu") - before >= 4 << 20 and np.allclose(kept[0], 0)

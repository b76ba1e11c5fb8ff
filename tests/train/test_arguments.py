"""Raw values to settings: names, types, bounds, and notices for the user."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import typing
from pathlib import Path

import pytest
from paddlenlp.trainer import TrainingArguments

import paddlemix
from paddlemix.commands.train import main
from paddlemix.train.arguments import DataArguments, LlavaTrainingArguments, ModelArguments, parse
from paddlemix.train.config_file import read_values
from paddlemix.train.settings import DataSettings

CONFIGS = Path(paddlemix.__file__).parent / "config" / "llava"
# PaddleMIX's own keys beside paddlenlp's (paddlemix/examples/llava: ModelArgument, DataArgument, GenerateArgument,
# TrainingArguments), with values of the type that each has there.
USED = {
    "model_name_or_path": "model",
    "freeze_include": ["*llama*"],
    "freeze_exclude": ["*mm_projector*"],
    "lora": True,
    "lora_path": "adapter",
    "lora_rank": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "lora_target_modules": ["llama.layer.*q_proj.*"],
    "dataset": {"train": [{"name": "chatml_dataset", "data_files": "train.json"}]},
    "max_length": 64,
    "mm_projector_lr": 2e-5,
}
WITHOUT_EFFECT = {
    "text_model_name_or_path": "vicuna",
    "use_flash_attention": False,
    "prefix_tuning": False,
    "num_prefix_tokens": 128,
    "from_aistudio": False,
    "save_to_aistudio": False,
    "aistudio_repo_id": None,
    "aistudio_repo_private": True,
    "aistudio_repo_license": "Apache License 2.0",
    "aistudio_token": None,
    "neftune": False,
    "neftune_noise_alpha": 5.0,
    "task_name": None,
    "src_length": 1024,
    "eval_with_do_generation": False,
    "save_generation_output": False,
    "lazy": False,
    "chat_template": None,
    "splits": None,
    "top_k": 1,
    "top_p": 1.0,
    "benchmark": False,
    "profiler_options": None,
    "warmup_start_lr": 1e-6,
    "eta_min": 1e-5,
    "lr_scheduler_name": "CosineDecayWithWarmup",
}
SPEED_ONLY = {"mixtoken": False, "group_by_modality_length": False}


def settings(**values):
    """Parse with an output folder on the CPU; returns all fields of the three classes in one dictionary."""
    parts = parse({"output_dir": "out", "device": "cpu", **values})
    return {key: value for part in parts for key, value in vars(part).items()}


def from_line(line: list[str]) -> dict:
    return settings(**read_values(line))


def test_values_reach_the_three_classes():
    model, data, training = parse({"output_dir": "out", "device": "cpu", **USED, "max_steps": 5})
    assert (model.lora_rank, model.freeze_include) == (4, ["*llama*"])
    assert (data.max_length, data.dataset) == (64, USED["dataset"])
    assert (training.max_steps, training.mm_projector_lr, training.output_dir) == (5, 2e-5, "out")


def test_defaults_are_paddlemix_ones():
    found = settings()
    assert {key: found[key] for key in ("lora", "lora_rank", "lora_alpha", "lora_dropout", "max_length")} == {
        "lora": False,
        "lora_rank": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "max_length": 2048,
    }
    assert found["mm_projector_lr"] is None


def test_every_key_of_paddlemix_is_accepted():
    found = settings(**USED, **WITHOUT_EFFECT, **SPEED_ONLY)
    assert {key: found[key] for key in USED} == USED


def test_every_training_argument_of_paddlenlp_is_accepted_with_its_default():
    defaults = {item.name: item.default for item in dataclasses.fields(TrainingArguments) if item.init}
    assert len(defaults) > 100
    del defaults["output_dir"]
    defaults = {key: getattr(value, "value", value) for key, value in defaults.items()}
    computed = {key for key, value in defaults.items() if value is dataclasses.MISSING}
    assert computed <= {"output_dir", "logging_dir", "device"}, computed
    found = settings(**{key: value for key, value in defaults.items() if key not in {*computed, "device"}})
    assert set(defaults) - set(found) <= {"sharding_degree"}  # deprecated, and deleted by paddlenlp itself


@pytest.mark.parametrize("name", sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.json")))
def test_shipped_file_parses_into_its_own_values(name):
    values = json.loads((CONFIGS / name).read_text(encoding="utf-8"))
    found = settings(**read_values([str(CONFIGS / name)]))
    # Changed by paddlenlp: evaluation_strategy turns do_eval on; one process has nothing to shard.
    changed = {"do_eval", "sharding", "sharding_parallel_degree", "tensor_parallel_degree"}
    if values.get("bf16") or values.get("fp16"):
        changed |= {
            "bf16",
            "fp16",
            "fp16_opt_level",
            "amp_master_grad",
        }  # this machine has no kernels for them and reports it
    for key in set(values) - changed - set(WITHOUT_EFFECT) - set(SPEED_ONLY):
        assert getattr(found[key], "value", found[key]) == values[key], key


def test_flags_give_the_same_settings_as_json(tmp_path):
    values = {
        "output_dir": "out",
        "device": "cpu",
        "learning_rate": 2e-5,
        "max_steps": 3,
        "lora": True,
        "recompute": False,
        "lora_target_modules": ["a.*", "b.*"],
        "dataset": {"train": [{"data_files": "t.json"}]},
        "evaluation_strategy": "steps",
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    line = "--output_dir out --device cpu --learning-rate 2e-5 --max_steps=3 --lora --recompute false".split()
    line += ["--lora_target_modules", "a.*", "b.*", "--evaluation_strategy", "steps"]
    line += ["--dataset", '{"train": [{"data_files": "t.json"}]}']
    from_json, from_flags = from_line([str(path)]), from_line(line)
    assert {key: from_flags[key] for key in values} == {key: from_json[key] for key in values}
    assert type(from_flags["output_dir"]) is str


def test_flag_overrides_json(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"max_steps": 3, "lora": true, "lora_rank": 4}', encoding="utf-8")
    found = from_line([str(path), "--max_steps", "9", "--lora", "False"])
    assert (found["max_steps"], found["lora"], found["lora_rank"]) == (9, False, 4)


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False)]
)
def test_words_for_booleans(text, expected):
    assert from_line(["--lora", text])["lora"] is expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["--freeze_include", "*llama*"], ["*llama*"]),
        (["--freeze_include", "*llama*", "*lm_head*"], ["*llama*", "*lm_head*"]),
        (["--freeze_include", '["*llama*", "*lm_head*"]'], ["*llama*", "*lm_head*"]),
    ],
)
def test_list_from_words_or_json(line, expected):
    assert from_line(line)["freeze_include"] == expected


@pytest.mark.parametrize("line", [["--dataset", "train.json"], ["--dataset=train.json"]])
def test_dataset_may_be_a_path(line):
    assert from_line(line)["dataset"] in ("train.json", ["train.json"])


def test_dataset_as_list_of_entries_with_two_keys_stays_a_list():
    entries = [{"name": "chatml_dataset", "data_files": "train.json"}]
    assert settings(dataset=entries)["dataset"] == entries


def test_one_means_true_as_in_paddlemix_benchmark_files():
    assert settings(lora=1)["lora"] is True


@pytest.mark.parametrize(
    ("key", "near"),
    [("learing_rate", "learning_rate"), ("lora_ranks", "lora_rank"), ("datasets", "dataset"), ("topp", "top_p")],
)
def test_unknown_key_names_the_nearest(key, near):
    with pytest.raises(ValueError, match=f"unknown setting '{key}': did you mean '{near}'"):
        settings(**{key: 1})


def test_mistyped_setting_of_the_data_is_refused_without_paddlenlp_and_no_other_setting_is():
    classes = (TrainingArguments, LlavaTrainingArguments, ModelArguments, DataArguments)
    names = {item.name for one in classes for item in dataclasses.fields(one)} | set(WITHOUT_EFFECT)
    assert DataSettings.read(dict.fromkeys(names)) == DataSettings()
    for mistyped, near in (("max_lenght", "max_length"), ("image_foler", "image_folder"), ("datasets", "dataset")):
        with pytest.raises(ValueError, match=f"unknown setting '{mistyped}': did you mean '{near}'"):
            DataSettings.read({mistyped: 1})


def test_unknown_key_without_a_near_one():
    with pytest.raises(ValueError, match=r"unknown setting 'zzzzzzzz'$"):
        settings(zzzzzzzz=1)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("per_device_train_batch_size", "four", "a whole number"),
        ("per_device_train_batch_size", 1.5, "a whole number"),
        ("per_device_train_batch_size", True, "a whole number"),
        ("per_device_train_batch_size", [1], "a whole number"),
        ("max_steps", "inf", "a whole number"),
        ("learning_rate", "fast", "a number"),
        ("learning_rate", None, "a number"),
        ("learning_rate", False, "a number"),
        ("lora", "maybe", "true or false"),
        ("lora", 2, "true or false"),
        ("output_dir", 5, "a text"),
        ("model_name_or_path", ["a"], "a text"),
        ("lora_target_modules", [1, 2], "a list of texts"),
        ("freeze_include", {"a": 1}, "a list of texts"),
        ("label_names", 5, "a list of texts"),
        ("skip_data_intervals", [["a"]], "a list of lists"),
        ("dataset", 5, "an object or a list or a text"),
        ("evaluation_strategy", "sometimes", "one of no, steps, epoch"),
    ],
)
def test_wrong_type_names_key_value_and_type(key, value, expected):
    with pytest.raises(ValueError, match=rf"^{key} is .*: expected {expected}$") as caught:
        settings(**{key: value})
    assert repr(value) in str(caught.value)


def test_flag_without_its_value_is_an_error():
    with pytest.raises(ValueError, match="max_steps is True: expected a whole number"):
        from_line(["--max_steps", "--lora"])


@pytest.mark.parametrize("line", [["--dataset", '{"train": [}'], ["--freeze_include", '["a"']])
def test_broken_json_in_a_flag_is_named(line):
    with pytest.raises(ValueError, match=f"{line[0][2:]} is .*not valid JSON: .*column"):
        from_line(line)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("per_device_train_batch_size", 0),
        ("per_device_eval_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("num_train_epochs", -1),
        ("max_length", 0),
        ("lora_rank", 0),
        ("lora_dropout", -0.1),
    ],
)
def test_value_below_its_bound_is_an_error(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value}.*expected at least"):
        settings(**{key: value})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("learning_rate", 1e30, "at least 0 and at most 1"),
        ("mm_projector_lr", "nan", "at least 0 and at most 1"),
        ("weight_decay", 1e18, "at least 0 and at most 10"),
        ("adam_beta2", 1.0, "at least 0 and below 1"),
        ("adam_epsilon", 0, "above 0 and at most 1"),
        ("max_grad_norm", "nan", "at least 0"),
        ("lora_alpha", 0, "at least 1"),
        ("lora_alpha", -8, "at least 1"),
        ("lora_alpha", 2**32, "at most 1,048,576"),
        ("lora_dropout", 1.0, "at least 0 and below 1"),
        ("lora_dropout", "nan", "at least 0 and below 1"),
        ("seed", 1e300, "at least 0 and at most 4,294,967,295"),
        ("seed", 2**32, "at most 4,294,967,295"),
        ("seed", -1, "at least 0"),
        ("fp16_opt_level", "../../x", "'O0' or 'O1' or 'O2'"),
        ("loss_reduction", "mean", "'token' or 'sample'"),
        ("scale_loss", 0, "at least 1"),
        ("dataloader_num_workers", 100_000, "at most 256"),
        ("num_train_epochs", 1e300, "at most 100,000"),
        ("num_train_epochs", 0, "at least 1e-06"),
        ("max_length", 10**12, "at most 4,194,304"),
        ("warmup_ratio", 1.5, "at most 1"),
        ("minimum_eval_times", 0, "at least 1"),
        ("skip_data_intervals", [[1]], "a list of 2 values"),
        ("unified_checkpoint", True, "False"),
        ("metric_for_best_model", "accuracy", "'loss' or 'eval_loss'"),
    ],
)
def test_value_out_of_bounds_names_key_value_and_bounds(key, value, expected):
    with pytest.raises(ValueError, match=rf"^settings: {key} is .*, expected .*{re.escape(expected)}"):
        from_line([f"--{key}", value]) if value == "nan" else settings(**{key: value})


def numeric_fields():
    """Return the names of all settings that may be numbers."""
    classes = (ModelArguments, DataArguments, LlavaTrainingArguments)
    hints = {name: hint for cls in classes for name, hint in typing.get_type_hints(cls).items()}
    own = {item.name for cls in classes for item in dataclasses.fields(cls) if item.init}
    return [name for name in sorted(own) if {int, float} & {hints[name], *typing.get_args(hints[name])}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 10**13, -(10**13)])
def test_numeric_settings_refuse_nan_infinity_and_absurd_values(value):
    accepted = []
    for key in numeric_fields():
        try:
            accepted.append((key, settings(**{key: value})))
        except ValueError as error:
            assert key in str(error)
    assert len(numeric_fields()) > 50 and accepted == []


def test_whole_numbers_are_not_rounded():
    assert settings(eval_steps=2**29 + 1)["eval_steps"] == 2**29 + 1
    with pytest.raises(ValueError, match=f"seed is {2**53 + 1},"):
        settings(seed=2**53 + 1)


@pytest.mark.parametrize("rank", [0, 3])
def test_rank_in_the_only_process_is_an_error(rank):
    with pytest.raises(ValueError, match=f"local_rank is {rank}, and this is the only process"):
        settings(local_rank=rank)


def test_least_number_of_evaluations_needs_evaluations():
    with pytest.raises(ValueError, match=r"minimum_eval_times is 2: .*set eval_steps"):
        settings(minimum_eval_times=2)
    assert settings(minimum_eval_times=2, evaluation_strategy="steps", eval_steps=5)["minimum_eval_times"] == 2


@pytest.mark.parametrize(
    ("values", "trains", "evaluates"),
    [
        ({}, True, False),
        ({"evaluation_strategy": "epoch"}, True, True),
        ({"do_eval": False}, True, False),
        ({"do_eval": True}, False, True),
        ({"do_train": True, "do_eval": True}, True, True),
        ({"do_train": False, "do_eval": True}, False, True),
        ({"do_train": False, "evaluation_strategy": "epoch"}, False, True),
    ],
)
def test_run_trains_unless_its_settings_say_otherwise(values, trains, evaluates):
    found = settings(**values)
    assert (found["do_train"], found["do_eval"]) == (trains, evaluates)
    assert DataSettings.read(values).split == ("train" if trains else "eval")


def test_run_that_would_do_nothing_is_an_error(tmp_path, capsys):
    assert main(["--output_dir", str(tmp_path / "out"), "--do_train", "false"], script="sft", template=None) == 1
    assert "error: do_train is false and do_eval is not true: nothing would be done" in capsys.readouterr().err
    with pytest.raises(ValueError, match="nothing would be done"):
        assert DataSettings.read({"do_train": False}).split


def test_refusal_of_paddlenlp_by_assertion_is_a_value_error():
    with pytest.raises(ValueError, match="paddlenlp refuses these training settings"):
        settings(enable_auto_parallel=True, hybrid_parallel_topo_order="sideways")


@pytest.mark.parametrize("values", [{}, {"output_dir": ""}, {"output_dir": None}])
def test_missing_output_dir_is_an_error(values):
    with pytest.raises(ValueError, match="output_dir"):
        parse({"device": "cpu", **values})


def test_missing_device_names_the_devices_of_this_machine():
    with pytest.raises(ValueError, match=r"device 'npu' is not there: this machine has .*cpu"):
        settings(device="npu")


def test_unused_keys_are_named_in_one_notice(caplog):
    with caplog.at_level(logging.WARNING, logger="paddlemix"):
        settings(task_name="x", top_p=0.5, lora=True)
    lines = [record.message for record in caplog.records if record.name == "paddlemix"]
    assert len(lines) == 1 and lines[0].endswith("no effect, in PaddleMIX or here: task_name, top_p")


@pytest.mark.parametrize("key", ["fp16", "bf16"])
def test_half_precision_on_a_cpu_becomes_float32_with_a_notice(caplog, key):
    with caplog.at_level(logging.WARNING, logger="paddlemix"):
        found = settings(**{key: True, "fp16_opt_level": "O2", "amp_master_grad": True})
    assert (found["fp16"], found["bf16"], found["fp16_opt_level"]) == (False, False, "O1")
    assert any(record.message.startswith(f"{key}: cpu has no") for record in caplog.records)


def test_o2_without_half_precision_keeps_float32_with_a_notice(caplog):
    with caplog.at_level(logging.WARNING, logger="paddlemix"):
        assert settings(fp16_opt_level="O2")["fp16_opt_level"] == "O1"
    assert any("needs fp16 or bf16" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ({"sharding": "stage2", "sharding_parallel_degree": 8, "tensor_parallel_degree": 1}, "sharding stage2"),
        ({"tensor_parallel_degree": 2}, "tensor_parallel_degree 2"),
        ({"tensor_parallel_degree": 1}, None),
    ],
)
def test_one_process_reports_the_settings_that_it_ignores(caplog, values, start):
    with caplog.at_level(logging.WARNING, logger="paddlemix"):
        settings(**values)
    lines = [record.message for record in caplog.records if "without effect in one process" in record.message]
    assert [line.startswith(start) for line in lines] == ([True] if start else [])


def test_refusal_of_paddlenlp_is_one_line(tmp_path):
    values = {"output_dir": str(tmp_path), "load_best_model_at_end": True, "save_strategy": "steps", "device": "cpu"}
    with pytest.raises(ValueError, match=r"^paddlenlp refuses these training settings: [^\n]*$"):
        parse(values)


def test_refused_connection_between_processes_says_to_start_again(monkeypatch):
    def refused(self):
        raise RuntimeError("[/paddle/third_party/gloo/tcp/pair.cc:784] connect [127.0.0.1]:2948: Connection refused")

    monkeypatch.setattr(TrainingArguments, "__post_init__", refused)
    expected = r"\(gloo: connect \[127.0.0.1\]:2948: Connection refused\).*start the same command again"
    with pytest.raises(ValueError, match=expected):
        parse({"model_name_or_path": "a", "output_dir": "b"})

"""The whole workflow in separate processes: both stages, a run that is killed and resumed, merging, and a chat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import tiny_folder

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "paddlemix" / "examples" / "llava"
SHARED = {
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "per_device_train_batch_size": 2,
    "do_train": True,
    "disable_tqdm": True,
    "report_to": "none",
    "device": "cpu",
}
PRETRAIN = {
    "freeze_include": ["*llama*", "*lm_head*"],
    "freeze_exclude": ["*llama.mm_projector*"],
    "max_steps": 4,
    "save_strategy": "no",
    "overwrite_output_dir": True,
}
FINETUNE = {
    "lora": True,
    "lora_rank": 4,
    "lora_alpha": 8,
    "lora_target_modules": [f"llama.layer.*{name}_proj.*" for name in ("q", "k", "v", "o", "gate", "up", "down")],
    "max_steps": 30,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 1,
}


def command(script, *arguments):
    return [sys.executable, str(SCRIPTS / script), *map(str, arguments)]


def environment():
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {**kept, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def run(script, *arguments, typed=None):
    """Run a script to its end; return standard output and standard error."""
    done = subprocess.run(
        command(script, *arguments), input=typed, capture_output=True, text=True, env=environment(), timeout=600
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_config(path, model, data, output, **values):
    dataset = {"train": [{"name": "chatml_dataset", "data_files": str(data)}]}
    config = {**SHARED, "model_name_or_path": str(model), "dataset": dataset, "output_dir": str(output), **values}
    path.write_text(json.dumps(config))
    return path


def kill_after_first_checkpoint(config, output):
    """Start a fine-tuning run and kill it, like a power failure, as soon as it has a complete checkpoint."""
    with open(config.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(
            command("supervised_finetune.py", config), stdout=log, stderr=subprocess.STDOUT, env=environment()
        )
        try:
            end = time.monotonic() + 300
            while not list(output.glob("checkpoint-*/complete")):
                assert process.poll() is None and time.monotonic() < end, config.with_suffix(".log").read_text()
                time.sleep(0.02)
        finally:
            process.kill()
    assert process.wait() == -9  # it had not finished


def test_pretraining_resumed_finetuning_merging_and_chat_work_in_separate_processes(tmp_path):
    base = tiny_folder.folder("anyres")
    captions = tiny_folder.write_captions(tmp_path / "captions")
    rows = tiny_folder.write_rows(tmp_path / "rows")
    aligned, tuned, merged = (tmp_path / name for name in ("aligned", "tuned", "merged"))

    output = run("pretrain.py", write_config(tmp_path / "pretrain.json", base, captions, aligned, **PRETRAIN))
    assert "step 4 of 4 " in output and (aligned / "model.safetensors").is_file()

    config = write_config(tmp_path / "finetune.json", aligned, rows, tuned, **FINETUNE)
    kill_after_first_checkpoint(config, tuned)
    assert not (tuned / "lora_config.json").exists()
    output = run("supervised_finetune.py", config)
    assert "resuming from " in output and "step 1 of 30 " not in output and "step 30 of 30 " in output
    state = json.loads((tuned / "trainer_state.json").read_text())
    assert state["global_step"] == 30
    assert [path.name for path in tuned.glob("checkpoint-*")] == ["checkpoint-30"]

    options = ["--model_name_or_path", aligned, "--lora_path", tuned, "--merge_model_path", merged]
    assert str(merged) in run("merge_lora_params.py", *options)

    image = tiny_folder.save_image(tmp_path / "image.png", 1)
    answers = []
    for folder in (base, tuned, merged):
        options = ["--model-path", folder, "--image-file", image, "--temperature", 0, "--max-new-tokens", 12]
        output = run("run_predict_multiround.py", *options, typed="What colour is shape 1?\nHow many shapes?\n\n")
        found = [line for line in output.splitlines() if line.startswith("ASSISTANT: ")]
        assert len(found) == 2 and output.count("exit...") == 1
        answers.append(found)
    assert answers[1] == answers[2] != answers[0]

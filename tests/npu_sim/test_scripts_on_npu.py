"""The example scripts train and answer the same with `"device": "npu"` as the only change as on the CPU.

All runs of a device share one process; the CPU's process has no plugin.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
import tiny_folder
from safetensors import safe_open
from tiny_training import LORA, PRETRAIN_FREEZE, settings

SCRIPTS = Path(__file__).parents[2] / "paddlemix" / "examples" / "llava"
RUNNER = Path(__file__).parent / "scripts_in_turn.py"
QUESTIONS = "What colour is shape 1?\nHow many shapes?\n\n"
HALVES = [("bf16", "O1"), ("bf16", "O2"), ("fp16", "O1"), ("fp16", "O2")]
STORED = {"bf16": "BF16", "fp16": "F16"}
SMOOTH = {"max_grad_norm": 1.0, "adam_epsilon": 0.01}  # keeps rounding errors small where gradients are tiny
EVALUATED = {"do_eval": True, "evaluation_strategy": "steps", "eval_steps": 2}
SAVED = {"save_strategy": "steps", "save_steps": 2, "overwrite_output_dir": False}


class Runs:
    """The jobs of one device, and their results."""

    def __init__(self, folder: Path, device: str):
        self.folder, self.device, self.jobs, self.results = folder, device, {}, {}
        self.rows = folder.parent / "rows/train.json"
        folder.mkdir()

    def add(self, name: str, script: str, *arguments, typed: str = "") -> None:
        path = script if script.startswith("paddlemix.") else str(SCRIPTS / script)
        self.jobs[name] = {"script": path, "arguments": [str(word) for word in arguments], "typed": typed}

    def train(self, name: str, script: str = "supervised_finetune.py", rows=None, output: str | None = None, **changes):
        values = {**settings(self.folder, rows or self.rows, "anyres"), **SMOOTH, "device": self.device, "max_steps": 3}
        values |= {"output_dir": str(self.folder / (output or name)), **changes}
        config = self.folder / f"{name}.json"
        config.write_text(json.dumps(values))
        self.add(name, script, config, "--verbose")  # which prints the losses with all digits

    def chat(self, name: str, model: Path | str, *options, script: str = "run_predict_multiround.py", words=()):
        image = self.folder.parent / "image.png"
        common = ["--model-path", model, "--image-file", image, "--temperature", 0, "--max-new-tokens", 10]
        self.add(name, script, *words, *common, "--device", self.device, *options, typed=QUESTIONS)

    def losses(self, name: str, key: str = "loss") -> list[float]:
        return [float(value) for value in re.findall(rf"\b{key}: ([\d.]+)", self.results[name]["text"])]

    def answers(self, name: str) -> list[str]:
        found = [line for line in self.results[name]["text"].splitlines() if line.startswith("ASSISTANT: ")]
        assert len(found) == 2
        return found

    def weights(self, name: str) -> dict[str, np.ndarray]:
        adapter = self.folder / name / "lora_model_state.pdparams"
        if adapter.is_file():
            return {key: value.numpy() for key, value in paddle.load(str(adapter)).items()}
        (path,) = (self.folder / name).glob("*.safetensors")
        with safe_open(path, framework="np") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def plan(folder: Path, device: str) -> Runs:
    """Return the float32 jobs that both devices run."""
    runs = Runs(folder, device)
    base, shared = tiny_folder.folder("anyres"), folder.parent
    captions, texts = shared / "captions/pretrain.json", shared / "texts/train.json"
    evaluated = {**EVALUATED, "dataset": {split: [{"data_files": str(runs.rows)}] for split in ("train", "eval")}}
    runs.train("aligned", "pretrain.py", captions, **PRETRAIN_FREEZE)
    runs.train("full", model_name_or_path=str(folder / "aligned"), **evaluated)
    runs.train("plain")
    runs.train("lora", **LORA)
    runs.train("whole", max_steps=4, **LORA)
    runs.train("first half", output="resumed", max_steps=2, **LORA, **SAVED)
    runs.train("resumed", max_steps=4, **LORA, **SAVED)
    options = ["--lora_path", folder / "lora", "--merge_model_path", folder / "merged", "--device", device]
    runs.add("merged", "merge_lora_params.py", *options)
    runs.chat("answers of merged", folder / "merged")
    runs.chat("answers of LoRA", folder / "lora")
    runs.train("packed", mixtoken=True, max_length=400)
    runs.train("text only", rows=texts)
    for bits in (4, 8):
        runs.train(f"qlora{bits}", **LORA, **{f"load_in_{bits}bit": True})
        runs.chat(f"answers in {bits} bits", base, f"--load-{bits}bit", script="paddlemix.cli", words=("chat",))
    return runs


@pytest.fixture(scope="module")
def both(npu_sim, tmp_path_factory):
    """Return the runs on the simulated device and on the CPU."""
    folder = tmp_path_factory.mktemp("scripts")
    tiny_folder.write_rows(folder / "rows", kinds="0120")
    tiny_folder.write_rows(folder / "texts", kinds="0")
    tiny_folder.write_captions(folder / "captions")
    tiny_folder.save_image(folder / "image.png", 1)
    runs = [plan(folder / device, device) for device in ("npu", "cpu")]
    on_npu = runs[0]
    for name, level in HALVES:
        on_npu.train(f"{name} {level}", fp16_opt_level=level, **{name: True})
    for dtype in ("float16", "bfloat16"):
        on_npu.chat(f"answers in {dtype}", tiny_folder.folder("anyres"), "--dtype", dtype)
    on_npu.train("doctor", do_eval=False)
    on_npu.jobs["doctor"]["arguments"].append("--dry-run")
    for one in runs:
        jobs, results = one.folder / "jobs.json", one.folder / "results.json"
        jobs.write_text(json.dumps(one.jobs))
        variables = {"CUSTOM_DEVICE_ROOT": ""} if one.device == "cpu" else {}
        done = npu_sim.run([RUNNER, jobs, results], environment=variables, timeout=600)
        assert done.returncode == 0, done.text[-3000:]
        assert len(done.statistics) == (one.device == "npu"), done.text[-3000:]
        one.results = json.loads(results.read_text())
        failed = [name for name, result in one.results.items() if result["code"] != 0]
        assert not failed, {name: one.results[name]["text"][-2000:] for name in failed}
    return runs


TRAINED = "aligned,plain,full,lora,whole,first half,resumed,packed,text only,qlora4,qlora8".split(",")


@pytest.mark.parametrize("name", TRAINED)
def test_float32_losses_equal_the_cpu(both, name):
    found, wanted = (runs.losses(name) for runs in both)
    assert len(wanted) >= 2
    assert found == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "first half"] + ["merged"])
def test_saved_weights_equal_the_cpu(both, name):
    found, wanted = (runs.weights(name) for runs in both)
    assert found.keys() == wanted.keys()
    assert max(np.abs(found[key].astype(np.float32) - wanted[key].astype(np.float32)).max() for key in found) < 2e-5


def test_evaluation_loss_equals_the_cpu(both):
    found, wanted = (runs.losses("full", "eval_loss") for runs in both)
    assert len(wanted) >= 2 and found == pytest.approx(wanted, abs=2e-5)


def test_resumed_run_equals_an_uninterrupted_one(both):
    runs = both[0]
    assert "resuming from " in runs.results["resumed"]["text"]
    assert runs.losses("first half") + runs.losses("resumed") == pytest.approx(runs.losses("whole"), abs=1e-6)


@pytest.mark.parametrize("name", ["of merged", "of LoRA", "in 4 bits", "in 8 bits"])
def test_greedy_answers_equal_the_cpu(both, name):
    assert both[0].answers(f"answers {name}") == both[1].answers(f"answers {name}")


def test_merged_model_answers_like_its_lora(both):
    assert both[0].answers("answers of merged") == both[0].answers("answers of LoRA")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_chat_answers_in_half_precision(both, dtype):
    assert all(len(answer) > len("ASSISTANT: ") for answer in both[0].answers(f"answers in {dtype}"))
    assert "using float32" not in both[0].results[f"answers in {dtype}"]["text"]


@pytest.mark.parametrize(("name", "level"), HALVES)
def test_half_precision_trains_close_to_float32(both, name, level):
    runs = both[0]
    wanted = both[1].losses("plain")
    found = runs.losses(f"{name} {level}")
    assert found == pytest.approx(wanted, abs=5e-2) and found != pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("name", "level"), HALVES)
def test_saved_dtype_is_half_only_with_o2(both, name, level):
    path = both[0].folder / f"{name} {level}" / "model.safetensors"
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    dtypes = {entry["dtype"] for key, entry in header.items() if key != "__metadata__"}
    assert dtypes == ({STORED[name]} if level == "O2" else {"F32"})


def test_dry_run_passes(both):
    text = both[0].results["doctor"]["text"]
    assert "nothing failed" in text and "npu" in text


def test_variables_are_set_and_reported_once(both):
    reporting = [name for name, result in both[0].results.items() if "set for npu: " in result["text"]]
    assert reporting == [next(iter(both[0].jobs))]
    assert not any("set for npu" in result["text"] for result in both[1].results.values())

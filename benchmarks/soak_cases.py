"""The commands of the soak tests: their inputs and outputs, and earlier output that they find."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = "out"  # the output of a command, in the folder `work`
NUM_ROWS, NUM_STEPS = 8, 4
ADAPTED = [f"llama.layer.*{name}_proj.*" for name in ("q", "v", "gate", "down")]
LORA = {"lora": True, "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.1, "lora_target_modules": ADAPTED}
OVER = {"overwrite_output_dir": True}
SHARD = "60KB"  # gives a tiny model several weight files
TRAINING = {
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "learning_rate": 1e-3,
    "max_steps": NUM_STEPS,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "do_train": True,
    "disable_tqdm": True,
    "report_to": "none",
    "device": "cpu",
}


@dataclass(frozen=True)
class Case:
    """A command that is interrupted by faults.

    words: its command line after `paddlemix`; for training, the settings are `values` instead. earlier, earlier_words:
    settings or command line of an earlier run with the same output folder. is_kept: no complete checkpoint is deleted.
    share: weight when faults are divided between cases. is_launched: run by paddle's launcher in real processes.
    """

    name: str
    words: tuple[str, ...] = ()
    values: dict | None = None
    earlier: dict | None = None
    earlier_words: tuple[str, ...] = ()
    num_processes: int = 1
    is_kept: bool = True
    is_launched: bool = False
    output: str = OUT
    share: float = 1.0

    @property
    def trains(self) -> bool:
        return self.values is not None


def all_cases(root: Path) -> list[Case]:
    """Return all cases; they read the inputs that `make_inputs` writes."""
    bad = {"dataset": str(root / "data/bad.json"), "on_bad_sample": "skip", "dataloader_num_workers": 1}
    best = {"do_eval": True, "evaluation_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    best |= {"dataset": {split: [{"data_files": str(root / "data/train.json")}] for split in ("train", "eval")}}
    packed = {"packing": True, "max_length": 256, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    other = {**LORA, "lora_alpha": 64}
    over = {"share": 2.0, "is_kept": False}
    return [
        Case("full", values={}, share=2.0),
        Case("lora", values=LORA, share=2.0),
        Case("packed", values=packed),
        Case("bad-rows", values={**bad, "save_total_limit": 1}, is_kept=False),
        Case("best", values={**LORA, **best, "num_eval_answers": 1}, share=0.5),
        Case("tasks", values=_tasks(root), share=0.5),
        Case("two", values={}, num_processes=2, share=2.0),
        Case("two-lora", values={**LORA, "sharding": "stage1"}, num_processes=2),
        Case("launched", values={}, num_processes=2, is_launched=True, share=0.3),
        Case("over-full", values=OVER, earlier={"learning_rate": 3e-3}, **over),
        Case("over-alpha", values={**other, **OVER}, earlier=LORA, **over),
        Case("over-model", values=OVER, earlier={"model_name_or_path": str(root / "anyres")}, **over),
        Case("full-over-lora", values=OVER, earlier=LORA, **over),
        Case("lora-over-full", values={**LORA, **OVER}, earlier={}, **over),
        Case("merge", words=_merge(root, "lora")),
        Case("merge-over", words=_merge(root, "lora"), earlier_words=_merge(root, "anyres-lora"), share=2.0),
        *[Case(f"to-{layout}", words=_convert(root, "model", layout)) for layout in LAYOUTS],
        Case("to-peft", words=_convert(root, "lora", "peft")),
        Case("delta", words=_delta(root)),
        Case("compose", words=_compose(root)),
        Case("projector", words=_projector(root), output="projector.bin"),
    ]


def _tasks(root: Path) -> dict:
    """Return the settings of a run that answers questions after every second step, and not after its last one."""
    task = {"task": "custom", "data_dir": str(root / "data/questions.jsonl"), "rule": "regex", "max_new_tokens": 8}
    return {"eval_tasks": [task], "evaluation_strategy": "steps", "eval_steps": 2, "max_steps": 5}


LAYOUTS = ("paddle", "paddlemix", "hf", "official", "xtuner")


def _merge(root: Path, adapter: str) -> tuple[str, ...]:
    return ("merge", "--lora_path", str(root / adapter), "--output", str(root / "work" / OUT), "--device", "cpu")


def _convert(root: Path, source: str, layout: str) -> tuple[str, ...]:
    sizes = () if layout == "peft" else ("--max-shard-size", SHARD)
    return ("convert", str(root / source), str(root / "work" / OUT), "--to", layout, *sizes)


def _delta(root: Path) -> tuple[str, ...]:
    folders = {"base": root / "official", "target": root / "official", "delta": root / "work" / OUT}
    return ("make-delta", *(word for name, path in folders.items() for word in (f"--{name}", str(path))))


def _compose(root: Path) -> tuple[str, ...]:
    model = str(root / "model")
    return ("compose", "--language-model", model, "--vision-tower", model, "--output", str(root / "work" / OUT))


def _projector(root: Path) -> tuple[str, ...]:
    return ("extract-projector", str(root / "model"), "--output", str(root / "work/projector.bin"))


def settings(root: Path, values: dict) -> dict:
    """Return the configuration of a training run."""
    paths = {
        "model_name_or_path": str(root / "model"),
        "dataset": str(root / "data/train.json"),
        "output_dir": str(root / "work" / OUT),
    }
    return {**paths, **TRAINING, **values}


def command(root: Path, case: Case, *, is_earlier: bool = False) -> list[str]:
    """Return the command line of a case or of its earlier run; for training, write the configuration file."""
    values, words = (case.earlier, case.earlier_words) if is_earlier else (case.values, case.words)
    if values is None:
        return list(words)
    config = root / f"{case.name}{'-earlier' * is_earlier}.json"
    config.write_text(json.dumps(settings(root, values), indent=1))
    return ["sft", str(config)]


def make_inputs(root: Path, run: Callable[[Callable[[], int]], None]) -> None:
    """Write two tiny models, rows, an adapter for each model, and the first model in the official layout.

    run: calls a function in a separate process.
    """
    sys.path.append(str(ROOT / "tests"))
    run(lambda: _make_models(root))
    for name, model in (("lora", "model"), ("anyres-lora", "anyres")):
        paths = {"model_name_or_path": str(root / model), "output_dir": str(root / name)}
        values = {**LORA, **paths, "save_strategy": "no"}
        run(lambda values=values: _call(["sft", _written(root / "adapter.json", settings(root, values))]))
    run(lambda: _call(["convert", str(root / "model"), str(root / "official"), "--to", "official"]))


def _make_models(root: Path) -> int:
    import tiny_folder

    tiny_folder.make_folder(root / "model", "pad")
    tiny_folder.make_folder(root / "anyres", "anyres", seed=1)
    rows = json.loads(tiny_folder.write_rows(root / "data", NUM_ROWS).read_text())
    rows[2]["image"] = "images/nowhere.png"
    rows[5]["conversations"][1]["from"] = "robot"
    (root / "data/bad.json").write_text(json.dumps(rows))
    questions = [{"question": f"What colour is shape {number}?", "answer": "[a-m]"} for number in range(4)]
    (root / "data/questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return 0


def _written(path: Path, values: dict) -> str:
    path.write_text(json.dumps(values))
    return str(path)


def _call(words: list[str]) -> int:
    from paddlemix.cli import main

    return main(words)

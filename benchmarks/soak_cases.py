"""The commands of the soak: what each reads and writes, and what stands in its place before it starts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = "out"  # what a command writes, in the folder `work`
NUM_ROWS, NUM_STEPS = 8, 4
ADAPTED = [f"llama.layer.*{name}_proj.*" for name in ("q", "v", "gate", "down")]
LORA = {"lora": True, "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.1, "lora_target_modules": ADAPTED}
OVER = {"overwrite_output_dir": True}
SHARD = "60KB"  # so that a tiny model has several files
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
    """A command that is struck.

    words: its command line after `paddlemix`; where it trains, the settings are `values`. earlier: the values of a run
    before, whose output lies in its place; earlier_words: the same of other commands. is_kept: every whole checkpoint
    stays until the end. share: of the kills, as a weight. is_launched: in real processes, by paddle's launcher.
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


def all_cases(home: Path) -> list[Case]:
    """Return the cases over the inputs that `make_inputs` lays down."""
    bad = {"dataset": str(home / "data/bad.json"), "on_bad_sample": "skip", "dataloader_num_workers": 1}
    best = {"do_eval": True, "evaluation_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    best |= {"dataset": {split: [{"data_files": str(home / "data/train.json")}] for split in ("train", "eval")}}
    packed = {"packing": True, "max_length": 256, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    other = {**LORA, "lora_alpha": 64}
    over = {"share": 2.0, "is_kept": False}
    return [
        Case("full", values={}, share=2.0),
        Case("lora", values=LORA, share=2.0),
        Case("packed", values=packed),
        Case("bad-rows", values={**bad, "save_total_limit": 1}, is_kept=False),
        Case("best", values={**LORA, **best, "num_eval_answers": 1}, share=0.5),
        Case("two", values={}, num_processes=2, share=2.0),
        Case("two-lora", values={**LORA, "sharding": "stage1"}, num_processes=2),
        Case("launched", values={}, num_processes=2, is_launched=True, share=0.3),
        Case("over-full", values=OVER, earlier={"learning_rate": 3e-3}, **over),
        Case("over-alpha", values={**other, **OVER}, earlier=LORA, **over),
        Case("over-model", values=OVER, earlier={"model_name_or_path": str(home / "anyres")}, **over),
        Case("full-over-lora", values=OVER, earlier=LORA, **over),
        Case("lora-over-full", values={**LORA, **OVER}, earlier={}, **over),
        Case("merge", words=_merge(home, "lora")),
        Case("merge-over", words=_merge(home, "lora"), earlier_words=_merge(home, "anyres-lora"), share=2.0),
        *[Case(f"to-{layout}", words=_convert(home, "model", layout)) for layout in LAYOUTS],
        Case("to-peft", words=_convert(home, "lora", "peft")),
        Case("delta", words=_delta(home)),
        Case("compose", words=_compose(home)),
        Case("projector", words=_projector(home), output="projector.bin"),
    ]


LAYOUTS = ("paddle", "paddlemix", "hf", "official", "xtuner")


def _merge(home: Path, adapter: str) -> tuple[str, ...]:
    return ("merge", "--lora_path", str(home / adapter), "--output", str(home / "work" / OUT), "--device", "cpu")


def _convert(home: Path, source: str, layout: str) -> tuple[str, ...]:
    sizes = () if layout == "peft" else ("--max-shard-size", SHARD)
    return ("convert", str(home / source), str(home / "work" / OUT), "--to", layout, *sizes)


def _delta(home: Path) -> tuple[str, ...]:
    folders = {"base": home / "official", "target": home / "official", "delta": home / "work" / OUT}
    return ("make-delta", *(word for name, path in folders.items() for word in (f"--{name}", str(path))))


def _compose(home: Path) -> tuple[str, ...]:
    model = str(home / "model")
    return ("compose", "--language-model", model, "--vision-tower", model, "--output", str(home / "work" / OUT))


def _projector(home: Path) -> tuple[str, ...]:
    return ("extract-projector", str(home / "model"), "--output", str(home / "work/projector.bin"))


def settings(home: Path, values: dict) -> dict:
    """Return the configuration of a training run."""
    places = {
        "model_name_or_path": str(home / "model"),
        "dataset": str(home / "data/train.json"),
        "output_dir": str(home / "work" / OUT),
    }
    return {**places, **TRAINING, **values}


def command(home: Path, case: Case, *, is_earlier: bool = False) -> list[str]:
    """Return the command line of a case, or of what comes before it; write its configuration where it trains."""
    values, words = (case.earlier, case.earlier_words) if is_earlier else (case.values, case.words)
    if values is None:
        return list(words)
    config = home / f"{case.name}{'-earlier' * is_earlier}.json"
    config.write_text(json.dumps(settings(home, values), indent=1))
    return ["sft", str(config)]


def make_inputs(home: Path, run: Callable[[Callable[[], int]], None]) -> None:
    """Lay down two tiny models, rows, an adapter of each, and the first in LLaVA's layout.

    run: calls in a process of its own.
    """
    sys.path.append(str(ROOT / "tests"))
    run(lambda: _make_models(home))
    for name, model in (("lora", "model"), ("anyres-lora", "anyres")):
        places = {"model_name_or_path": str(home / model), "output_dir": str(home / name)}
        values = {**LORA, **places, "save_strategy": "no"}
        run(lambda values=values: _call(["sft", _written(home / "adapter.json", settings(home, values))]))
    run(lambda: _call(["convert", str(home / "model"), str(home / "official"), "--to", "official"]))


def _make_models(home: Path) -> int:
    import tiny_folder

    tiny_folder.make_folder(home / "model", "pad")
    tiny_folder.make_folder(home / "anyres", "anyres", seed=1)
    rows = json.loads(tiny_folder.write_rows(home / "data", NUM_ROWS).read_text())
    rows[2]["image"] = "images/nowhere.png"
    rows[5]["conversations"][1]["from"] = "robot"
    (home / "data/bad.json").write_text(json.dumps(rows))
    return 0


def _written(path: Path, values: dict) -> str:
    path.write_text(json.dumps(values))
    return str(path)


def _call(words: list[str]) -> int:
    from paddlemix.cli import main

    return main(words)

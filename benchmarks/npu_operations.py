"""Write npu_operations.md: how the operations of a training and a decoding step would run on an Ascend card.

Runs a tiny model with a head_dim of 64 on the simulated device of tests/npu_sim. An operation is native if the real
backend has a kernel for it in that dtype, a CPU fallback if only paddle's CPU build has one, and missing otherwise.

    python benchmarks/npu_operations.py [--output benchmarks/npu_operations.md]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SIMULATOR = ROOT / "tests" / "npu_sim"
sys.path[:0] = [str(SIMULATOR)]

import audit  # noqa: E402
import simulator  # noqa: E402

STEPS = {
    "train:full:bf16-O2": "train full bf16-O2",
    "train:lora:fp16-O2": "train lora fp16-O2",
    "chat:bfloat16": "sampled bfloat16",
    "chat:float16": "sampled float16",
}


def measure(tasks: list[str]) -> dict[str, tuple[list[audit.Operation], list[int]]]:
    """Run tasks of tiny_steps; return the operations and the copies to the card (bytes) of each marked section."""
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder, "kernels")
        variables = {**audit.LOGGING, "SIM_NPU_DUMP": str(dump), "OMP_NUM_THREADS": "1"}
        script = [SIMULATOR / "tiny_steps.py", Path(folder, "work"), *tasks]
        done = simulator.run(script, environment=variables, timeout=1200)
        if done.returncode:
            raise RuntimeError(f"the steps failed:\n{done.errors[-4000:]}")
        kernels = dump.read_text(encoding="utf-8")
    found = audit.sections(done.errors)
    return {name: (audit.operations(text, kernels), audit.sent(text)) for name, text in found.items()}


def table(measured: dict[str, tuple[list[audit.Operation], list[int]]], names: list[str]) -> str:
    """Return a Markdown table with a row for each operation and dtype and a column for each step."""
    counts = {name: {(one.name, one.dtype): one for one in measured[name][0]} for name in names}
    keys = sorted({key for of_step in counts.values() for key in of_step})
    lines = [f"| operation | dtype | on Ascend | {' | '.join(names)} |", "|---|---|---|" + "---:|" * len(names)]
    for key in keys:
        found = [of_step.get(key) for of_step in counts.values()]
        kind = next(one.kind for one in found if one)
        numbers = " | ".join(str(one.count) if one else "" for one in found)
        lines.append(f"| {key[0]} | {key[1]} | {kind} | {numbers} |")
    return "\n".join(lines)


def summary(measured: dict[str, tuple[list[audit.Operation], list[int]]], names: list[str]) -> str:
    """Return a Markdown table with the number of operations of each kind and the copies of each step."""
    kinds = (audit.NATIVE, audit.FALLBACK, audit.MISSING)
    lines = [f"| step | {' | '.join(kinds)} | copies to the card | bytes |", "|---|" + "---:|" * 5]
    for name in names:
        operations, copies = measured[name]
        counts = [sum(one.count for one in operations if one.kind == kind) for kind in kinds]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {len(copies)} | {sum(copies):,} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    measured = measure(list(STEPS))
    names = list(STEPS.values())
    text = f"""# Operations of a step on Ascend

Written by `python benchmarks/npu_operations.py` for one optimizer step of a tiny LLaVA (two decoder layers, three
layers of the vision tower) and one sampled token. Calls are counted on the simulated device. The table of
PaddleCustomDevice's kernels in `tests/npu_sim/plugin/npu_table.h` says which of them an Ascend card has a kernel for.
Only forward calls of the plugin's own operations (`flash_attention_npu`, `fused_rope`, `rms_norm_npu`) are counted.

{summary(measured, names)}

{table(measured, names)}
"""
    arguments.output.write_text(text, encoding="utf-8")
    print(summary(measured, names))


if __name__ == "__main__":
    main()

"""Feed mutated rows and configurations to the reader and the training command, and count the outcomes.

    python benchmarks/soak_inputs.py [--rows 2000] [--configurations 500] [--seed 0]

A row, of any format, in JSON lines or in a list, must be read or be reported as a bad row, and good rows beside it must
be read as usual. A configuration of two steps must train, or exit with 1 and one line that starts with "error:". These
are failures: a traceback, a hang, a process that dies, a run that exits with 0 and non-finite weights, and a checkpoint
with such weights that is marked complete. The exit code is 1 if there is a failure. --only-row N and
--only-configuration N repeat a single one.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import typing
from collections import Counter
from pathlib import Path

import numpy as np
from soak_cases import LORA, make_inputs, settings
from soak_children import End, run_forked, tail
from soak_launched import processor_name, warm_up
from soak_mutations import as_flags, damaged_text, good_rows, mutated_row, mutated_settings
from tqdm import tqdm

ROWS_PER_FILE = 40
GOOD_EVERY = 4  # one of this many rows is not mutated
DAMAGED = 0.25  # share of the mutated lines whose text is damaged
LIMIT = 60.0  # seconds after which a child counts as hung
MAX_MEMORY = 16 << 30
OK, BAD_ROW, ONE_LINE, SKIPPED = "ok", "bad row", "one line", "a good row is skipped"
GOOD = (OK, BAD_ROW, ONE_LINE, "nothing trained")
NUM_STEPS = 2
MAX_SHOWN = 80  # characters of a value


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    warm_up()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder, start = Path(name).resolve(), time.monotonic()
        (folder / "work").mkdir()
        make_inputs(folder, functools.partial(run_or_exit, folder))
        counts, failures = {}, []
        for what, play, number in (
            ("rows", play_rows, arguments.rows),
            ("configurations", play_configurations, arguments.configurations),
        ):
            counts[what], found = play(folder, number, arguments)
            failures += found
        show(counts, failures, arguments, time.monotonic() - start)
    return int(bool(failures))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--configurations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-row", type=int, default=None, metavar="N", help="only the file of this row")
    parser.add_argument("--only-configuration", type=int, default=None, metavar="N", help="only this configuration")
    parser.add_argument("--list", action="store_true", help="print the outcome of each")
    return parser.parse_args(argv)


def run_or_exit(folder: Path, function) -> None:
    """Run a function that writes inputs in a child process. Raises SystemExit if it fails."""
    end = run_forked(function, folder=folder, watched=folder / "work", limit=10 * LIMIT)
    if end.code:
        raise SystemExit(f"writing the inputs failed with exit code {end.code}\n{end.logs[0][-3000:]}")


def play_rows(folder: Path, num_rows: int, arguments: argparse.Namespace) -> tuple[Counter, list[str]]:
    """Read and encode files of mutated rows."""
    counts, failures = Counter(), []
    images = sorted(str(path.relative_to(folder / "data")) for path in (folder / "data/images").iterdir())
    goods = good_rows(images)
    with tqdm(total=num_rows, desc="rows", disable=None) as bar:
        for number, first in enumerate(range(0, num_rows, ROWS_PER_FILE)):
            size = min(ROWS_PER_FILE, num_rows - first)
            wanted = arguments.only_row
            if wanted is None or first <= wanted < first + size:
                generator = np.random.default_rng([arguments.seed, 1, number])
                path, is_whole = write_rows(folder / "data", number, size, goods, generator)
                for index, outcome, text in outcomes_of(folder, path, size, goods, is_whole):
                    counts[outcome] += 1
                    report = f"--seed {arguments.seed} --only-row {first + index}: {outcome}: {text}"
                    if arguments.list:
                        tqdm.write(visible(report))
                    if outcome not in GOOD:
                        failures.append(report)
            bar.update(size)
    return counts, failures


def write_rows(
    folder: Path, number: int, size: int, goods: list[dict], generator: np.random.Generator
) -> tuple[Path, bool]:
    """Write a file of rows; return its path, and whether the brackets of its JSON text match."""
    is_lines = number % 3 != 0
    lines = []
    for index in range(size):
        row = goods[int(generator.integers(len(goods)))]
        if index % GOOD_EVERY == 0:
            row = goods[index // GOOD_EVERY % len(goods)]
            lines.append(json.dumps(row).encode())
            continue
        text = json.dumps(mutated_row(row, generator))
        is_damaged = is_lines and generator.random() < DAMAGED
        lines.append(damaged_text(text, generator) if is_damaged else text.encode())
    path = folder / f"mutated-{number}.{'jsonl' if is_lines else 'json'}"
    is_whole = is_lines or number % 2 == 0
    text = b"\n".join(lines) if is_lines else b"[" + b",\n".join(lines) + b"]"
    path.write_bytes(text if is_whole else damaged_text(text.decode(), generator))
    return path, is_whole


def outcomes_of(folder: Path, path: Path, size: int, goods: list[dict], is_whole: bool) -> list[tuple[int, str, str]]:
    """Return (index, outcome, text) of every row of a file; a row that kills its process is reported and skipped."""
    notes = folder / "outcomes.jsonl"
    notes.unlink(missing_ok=True)
    found, start = [], 0
    while True:
        read = functools.partial(read_file, folder, path, goods if is_whole else [], notes, start)
        end = run_forked(read, folder=folder, watched=folder / "work", limit=LIMIT, max_memory=MAX_MEMORY)
        found = [tuple(json.loads(line)) for line in notes.read_text().splitlines()] if notes.exists() else []
        refused = next((text for index, _, text in found if index < 0), None)
        if refused is not None:
            outcome = ONE_LINE if not is_whole else "a file is refused for a row"
            return [(index, outcome, refused) for index in range(size)]
        if end.code == 0 and not end.is_hung:
            return found
        culprit = next((index for index in range(start, size) if index not in {one[0] for one in found}), size)
        outcome = "hang" if end.is_hung else "traceback" if end.has_traceback else f"dies by {end.code}"
        with notes.open("a") as file:
            file.write(json.dumps((culprit, outcome, tail(end))) + "\n")
        if culprit >= size - 1:
            return [*found, (culprit, outcome, tail(end))]
        start = culprit + 1


def read_file(folder: Path, path: Path, goods: list[dict], notes: Path, start: int) -> int:
    """Read and encode the rows of a file from index `start` on and write the outcome of each to `notes`.

    goods: the rows that were not mutated, in order; empty if damage may have shifted the rows.
    """
    from paddlemix.checkpoints.processor import LlavaProcessor
    from paddlemix.data.bad_rows import BadRowPolicy
    from paddlemix.data.dataset import ConversationDataset
    from paddlemix.data.readers.files import scan_rows

    encode = functools.partial(LlavaProcessor.from_pretrained(folder / "model").encode_to_train, max_length=400)
    with notes.open("a") as file:

        def note(index: int, outcome: str, text: str = "") -> None:
            file.write(json.dumps((index, outcome, text)) + "\n")
            file.flush()

        try:
            rows, bad = scan_rows(path, folders=(str(path.parent),))
        except ValueError as error:
            note(-1, ONE_LINE, str(error))
            return 0
        if not start:
            for one in bad:
                note(one.number - 1, SKIPPED if is_good(one.number, goods) else BAD_ROW, one.reason)
        data = ConversationDataset(rows, encode, policy=BadRowPolicy("skip", len(rows)))
        for index, row in enumerate(rows):
            if row.number > start:
                note(row.number - 1, *encoded(data, index, encode, goods))
    return 0


def is_good(number: int, goods: list[dict]) -> bool:
    """Return whether a row, counted from 1, was not mutated."""
    return bool(goods) and (number - 1) % GOOD_EVERY == 0


def encoded(data, index: int, encode, goods: list[dict]) -> tuple[str, str]:
    """Return the outcome of encoding a row, and the reason."""
    from paddlemix.data.readers.files import read_row

    row = data.rows[index]
    try:
        sample = data[index]
    except Exception:  # none is expected
        return "traceback", " | ".join(traceback.format_exc().splitlines()[-4:])
    if sample.where != row.where:
        return SKIPPED if is_good(row.number, goods) else BAD_ROW, sample.notes[0].reason
    if is_good(row.number, goods):
        good = goods[(row.number - 1) // GOOD_EVERY % len(goods)]
        expected, _ = encode(read_row(good)[0], folders=row.folders)
        if not np.array_equal(expected.token_ids, sample.token_ids):
            return "a good row is read differently", row.where
    return OK, ""


def play_configurations(folder: Path, number: int, arguments: argparse.Namespace) -> tuple[Counter, list[str]]:
    """Train with mutated configurations."""
    from paddlemix.train.arguments import DataArguments, LlavaTrainingArguments, ModelArguments

    classes = (ModelArguments, DataArguments, LlavaTrainingArguments)
    hints = {name: hint for cls in classes for name, hint in typing.get_type_hints(cls).items()}
    hints = {item.name: hints[item.name] for cls in classes for item in dataclasses.fields(cls) if item.init}
    counts, failures = Counter(), []
    wanted = arguments.only_configuration
    for index in tqdm(range(number) if wanted is None else [wanted], desc="configurations", disable=None):
        generator = np.random.default_rng([arguments.seed, 2, index])
        bases = base_configurations(folder)
        base = bases[int(generator.integers(len(bases)))]
        values = mutated_settings(base, hints, generator)
        changed = [
            f"{key} {repr(values[key])[:MAX_SHOWN] if key in values else 'removed'}"
            for key in {**base, **values}
            if repr(base.get(key)) != repr(values.get(key))
        ]
        shutil.rmtree(folder / "work")
        (folder / "work/a/b/c").mkdir(parents=True)  # keeps "../../x" inside work
        config = folder / "work/a/b/c/config.json"
        config.write_text(json.dumps(values))
        words = as_flags(values) if index % GOOD_EVERY == 0 else [str(config)]
        options = {"folder": config.parent, "watched": folder / "work", "limit": LIMIT, "max_memory": MAX_MEMORY}
        outcome, text = judged(run_forked(functools.partial(train, words), **options), folder / "work")
        counts[outcome] += 1
        report = f"--seed {arguments.seed} --only-configuration {index}: {outcome}: {', '.join(changed)}: {text}"
        if arguments.list:
            tqdm.write(visible(report))
        if outcome not in GOOD:
            failures.append(report)
    return counts, failures


def base_configurations(folder: Path) -> list[dict]:
    """Return the configurations to mutate: runs of two steps."""
    splits = {split: [{"data_files": str(folder / "data/train.json")}] for split in ("train", "eval")}
    evaluated = {"do_eval": True, "evaluation_strategy": "steps", "eval_steps": 1, "dataset": splits}
    changes = ({}, LORA, {"packing": True, "max_length": 256}, evaluated, {**LORA, **evaluated})
    return [settings(folder, {"max_steps": NUM_STEPS, "output_dir": "out", **change}) for change in changes]


def train(words: list[str]) -> int:
    from paddlemix.commands.train import main as run

    return run(words, script="supervised_finetune.py", template=None)


def judged(end: End, folder: Path) -> tuple[str, str]:
    """Return the outcome of a run, judged by its exit and by the weights that it wrote."""
    from soak_states import MARK, weights_of

    if end.is_hung:
        return "hang", tail(end)
    if end.has_traceback:
        return "traceback", tail(end)
    files = {path: weights_of(path) for path in folder.rglob("*") if path.suffix in (".safetensors", ".pdparams")}
    wrong = [path for path, arrays in files.items() if not all(np.isfinite(array).all() for array in arrays)]
    marked = [path for path in wrong if end.code == 0 or (path.parent / MARK).exists()]
    if marked:
        return "weights that are not finite", f"{marked[0].relative_to(folder)}, exit code {end.code}"
    if end.code == 0:
        return (OK, "") if files else ("nothing trained", "")
    if end.code == 1:
        return (ONE_LINE, tail(end)) if end.has_one_line else ("more than one line", tail(end))
    return f"exit code {end.code}", tail(end)


def visible(text: str) -> str:
    """Return a text with non-printable characters escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def show(counts: dict[str, Counter], failures: list[str], arguments: argparse.Namespace, seconds: float) -> None:
    """Print the failures, and the number of each outcome."""
    for text in failures:
        print(visible(text))
    outcomes = list(dict.fromkeys([*GOOD, *(outcome for counter in counts.values() for outcome in counter)]))
    print(f"\n{'outcome':28}" + "".join(f"{what:>16}" for what in counts))
    for outcome in outcomes:
        print(f"{outcome:28}" + "".join(f"{counter[outcome]:16}" for counter in counts.values()))
    print(f"seed {arguments.seed}; {seconds:.0f} s, {os.cpu_count()} x {processor_name()}")


if __name__ == "__main__":
    sys.exit(main())

"""Give mutated rows and mutated configurations to the reader and to the training command, and count what comes of them.

    python benchmarks/soak_inputs.py [--rows 2000] [--configurations 500] [--seed 0]

A row, of any format, in JSON lines or in a list, must be read or be a bad row; good rows beside it give what they give
alone. A configuration of two steps must train or end with 1 and one line that begins with "error:". What must not be:
a traceback, a hang, a process that dies, a run that ends with 0 and weights that are not finite, a checkpoint marked as
whole with such weights. Exit code 1 where there is one. --only-row N and --only-configuration N repeat one.
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

ROWS_A_FILE = 40
GOOD_EVERY = 4  # of so many rows one is left as it is
DAMAGED = 0.25  # share of the mutated lines whose text is damaged
LIMIT = 60.0  # seconds until a child is taken for hung
MAX_MEMORY = 16 << 30
OK, BAD_ROW, ONE_LINE, LEFT_OUT = "ok", "bad row", "one line", "a good row is left out"
GOOD = (OK, BAD_ROW, ONE_LINE, "nothing trained")
NUM_STEPS = 2
MOST_SHOWN = 80  # characters of a value


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    warm_up()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        home, start = Path(name).resolve(), time.monotonic()
        (home / "work").mkdir()
        make_inputs(home, functools.partial(lay_down, home))
        counts, breaks = {}, []
        for what, play, number in (
            ("rows", play_rows, arguments.rows),
            ("configurations", play_configurations, arguments.configurations),
        ):
            counts[what], found = play(home, number, arguments)
            breaks += found
        show(counts, breaks, arguments, time.monotonic() - start)
    return int(bool(breaks))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--configurations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-row", type=int, default=None, metavar="N", help="the file of this row alone")
    parser.add_argument("--only-configuration", type=int, default=None, metavar="N", help="this configuration alone")
    parser.add_argument("--list", action="store_true", help="tell what came of each")
    return parser.parse_args(argv)


def lay_down(home: Path, function) -> None:
    """Make an input. Raises SystemExit where that fails."""
    end = run_forked(function, home=home, watched=home / "work", limit=10 * LIMIT)
    if end.code:
        raise SystemExit(f"the inputs cannot be made: exit code {end.code}\n{end.logs[0][-3000:]}")


def play_rows(home: Path, num_rows: int, arguments: argparse.Namespace) -> tuple[Counter, list[str]]:
    """Read and encode files of mutated rows."""
    counts, breaks = Counter(), []
    pictures = sorted(str(path.relative_to(home / "data")) for path in (home / "data/images").iterdir())
    goods = good_rows(pictures)
    with tqdm(total=num_rows, desc="rows", disable=None) as bar:
        for number, first in enumerate(range(0, num_rows, ROWS_A_FILE)):
            size = min(ROWS_A_FILE, num_rows - first)
            wanted = arguments.only_row
            if wanted is None or first <= wanted < first + size:
                generator = np.random.default_rng([arguments.seed, 1, number])
                path, is_whole = write_rows(home / "data", number, size, goods, generator)
                for index, outcome, text in outcomes_of(home, path, size, goods, is_whole):
                    counts[outcome] += 1
                    told = f"--seed {arguments.seed} --only-row {first + index}: {outcome}: {text}"
                    if arguments.list:
                        tqdm.write(visible(told))
                    if outcome not in GOOD:
                        breaks.append(told)
            bar.update(size)
    return counts, breaks


def write_rows(
    folder: Path, number: int, size: int, goods: list[dict], generator: np.random.Generator
) -> tuple[Path, bool]:
    """Write a file of rows; return its path, and whether its text is JSON by its brackets."""
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


def outcomes_of(home: Path, path: Path, size: int, goods: list[dict], is_whole: bool) -> list[tuple[int, str, str]]:
    """Return (index, outcome, text) of every row of a file; a row that ends its process is found and passed over."""
    notes = home / "outcomes.jsonl"
    notes.unlink(missing_ok=True)
    found, start = [], 0
    while True:
        read = functools.partial(read_file, home, path, goods if is_whole else [], notes, start)
        end = run_forked(read, home=home, watched=home / "work", limit=LIMIT, max_memory=MAX_MEMORY)
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


def read_file(home: Path, path: Path, goods: list[dict], notes: Path, start: int) -> int:
    """Read and encode the rows of a file from one on, in a process of its own; write down what came of each.

    goods: the rows that were left as they are, in turn; none where damage may have moved them.
    """
    from paddlemix.checkpoints.processor import LlavaProcessor
    from paddlemix.data.bad_rows import BadRowPolicy
    from paddlemix.data.dataset import ConversationDataset
    from paddlemix.data.readers.files import scan_rows

    encode = functools.partial(LlavaProcessor.from_pretrained(home / "model").encode_to_train, max_length=400)
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
                note(one.number - 1, LEFT_OUT if is_good(one.number, goods) else BAD_ROW, one.reason)
        data = ConversationDataset(rows, encode, policy=BadRowPolicy("skip", len(rows)))
        for index, row in enumerate(rows):
            if row.number > start:
                note(row.number - 1, *encoded(data, index, encode, goods))
    return 0


def is_good(number: int, goods: list[dict]) -> bool:
    """Tell whether a row, counted from 1, was left as it is."""
    return bool(goods) and (number - 1) % GOOD_EVERY == 0


def encoded(data, index: int, encode, goods: list[dict]) -> tuple[str, str]:
    """Return what comes of encoding a row, and why."""
    from paddlemix.data.readers.files import read_row

    row = data.rows[index]
    try:
        sample = data[index]
    except Exception:  # the claim is that there is none
        return "traceback", " | ".join(traceback.format_exc().splitlines()[-4:])
    if sample.where != row.where:
        return LEFT_OUT if is_good(row.number, goods) else BAD_ROW, sample.notes[0].reason
    if is_good(row.number, goods):
        good = goods[(row.number - 1) // GOOD_EVERY % len(goods)]
        expected, _ = encode(read_row(good)[0], folders=row.folders)
        if not np.array_equal(expected.token_ids, sample.token_ids):
            return "a good row reads otherwise", row.where
    return OK, ""


def play_configurations(home: Path, number: int, arguments: argparse.Namespace) -> tuple[Counter, list[str]]:
    """Train with mutated configurations."""
    from paddlemix.train.arguments import DataArguments, LlavaTrainingArguments, ModelArguments

    classes = (ModelArguments, DataArguments, LlavaTrainingArguments)
    hints = {name: hint for cls in classes for name, hint in typing.get_type_hints(cls).items()}
    hints = {item.name: hints[item.name] for cls in classes for item in dataclasses.fields(cls) if item.init}
    counts, breaks = Counter(), []
    wanted = arguments.only_configuration
    for index in tqdm(range(number) if wanted is None else [wanted], desc="configurations", disable=None):
        generator = np.random.default_rng([arguments.seed, 2, index])
        bases = base_configurations(home)
        base = bases[int(generator.integers(len(bases)))]
        values = mutated_settings(base, hints, generator)
        changed = [
            f"{key} {repr(values[key])[:MOST_SHOWN] if key in values else 'left out'}"
            for key in {**base, **values}
            if repr(base.get(key)) != repr(values.get(key))
        ]
        shutil.rmtree(home / "work")
        (home / "work/a/b/c").mkdir(parents=True)  # so that "../../x" stays within
        config = home / "work/a/b/c/config.json"
        config.write_text(json.dumps(values))
        words = as_flags(values) if index % GOOD_EVERY == 0 else [str(config)]
        options = {"home": config.parent, "watched": home / "work", "limit": LIMIT, "max_memory": MAX_MEMORY}
        outcome, text = judged(run_forked(functools.partial(train, words), **options), home / "work")
        counts[outcome] += 1
        told = f"--seed {arguments.seed} --only-configuration {index}: {outcome}: {', '.join(changed)}: {text}"
        if arguments.list:
            tqdm.write(visible(told))
        if outcome not in GOOD:
            breaks.append(told)
    return counts, breaks


def base_configurations(home: Path) -> list[dict]:
    """Return what is mutated: runs of two steps."""
    splits = {split: [{"data_files": str(home / "data/train.json")}] for split in ("train", "eval")}
    evaluated = {"do_eval": True, "evaluation_strategy": "steps", "eval_steps": 1, "dataset": splits}
    changes = ({}, LORA, {"packing": True, "max_length": 256}, evaluated, {**LORA, **evaluated})
    return [settings(home, {"max_steps": NUM_STEPS, "output_dir": "out", **change}) for change in changes]


def train(words: list[str]) -> int:
    from paddlemix.train.run import main as run

    return run(words, script="supervised_finetune.py", template=None)


def judged(end: End, folder: Path) -> tuple[str, str]:
    """Return what came of a run, by its end and by the weights that it left."""
    from soak_whole import MARK, weights_of

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
    """Return a text that a terminal takes for nothing but text."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def show(counts: dict[str, Counter], breaks: list[str], arguments: argparse.Namespace, seconds: float) -> None:
    """Print what must not be, and how many there are of each outcome."""
    for text in breaks:
        print(visible(text))
    outcomes = list(dict.fromkeys([*GOOD, *(outcome for counter in counts.values() for outcome in counter)]))
    print(f"\n{'outcome':28}" + "".join(f"{what:>16}" for what in counts))
    for outcome in outcomes:
        print(f"{outcome:28}" + "".join(f"{counter[outcome]:16}" for counter in counts.values()))
    print(f"seed {arguments.seed}; {seconds:.0f} s, {os.cpu_count()} x {processor_name()}")


if __name__ == "__main__":
    sys.exit(main())

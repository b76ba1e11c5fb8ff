"""Interrupt runs at random moments, restart them, and check that nothing is mixed up, lost or damaged.

    python benchmarks/soak_kills.py [--kills 200] [--seed 0] [--only full,merge] [--sweep]

A command (training: full, with LoRA, packed, with two processes, over an earlier run's output; merge, convert and the
other commands that write models) is killed, interrupted or finds the disk full, up to three times in a row. Then the
same command runs to its end. After each fault, every file of a checkpoint that is marked complete, and of a folder that
loads, must be what it was before or what an uninterrupted run writes. At the end every file must equal that of an
uninterrupted run, nothing may be left over, and foreign files must be unchanged. Faults occur at any time, or at any
call that opens a file for writing, renames or removes. --sweep kills at each such call of a case in turn. A round is
identified by its case and number and can be repeated alone: --only CASE --round N.

The exit code is 1 if a check fails. Children are forked from this process, which has imported everything and computed
nothing; paddle's launcher starts real processes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from soak_cases import Case, all_cases
from soak_children import Fault
from soak_launched import processor_name, warm_up
from soak_trial import Soak, Trial
from tqdm import tqdm

AGAIN = 0.3  # chance of another fault before the command runs to its end
MAX_FAULTS = 3
CONTINUED = 0.3  # chance that a run over an earlier one is first restarted without overwrite_output_dir
SHARES = {"kill": 0.5, "cut": 0.12, "full": 0.12, "fail": 0.06, "term": 0.1, "int": 0.1}
AT_ANY_TIME = {"kill": 0.35, "term": 0.5, "int": 0.5}  # share of a signal that is sent at any time
MAX_EXPONENT = 5.5  # "cut" occurs in files of up to 10 to this power bytes


@dataclass
class Outcome:
    """The outcome of the rounds of a case. failures: a sentence each, with the round."""

    faults: Counter = field(default_factory=Counter)
    num_rounds: int = 0
    failures: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    warm_up()
    with folder_of(arguments.folder) as folder:
        cases = chosen(all_cases(folder), arguments.only)
        soak, start = Soak(folder), time.monotonic()
        outcomes = {}
        for case, num_faults in zip(cases, split(arguments.kills, cases), strict=True):
            trial = soak.begin(case)
            outcomes[case.name] = play(trial, arguments, num_faults)
        show(outcomes, arguments, time.monotonic() - start)
    return int(any(outcome.failures for outcome in outcomes.values()))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="faults in all cases together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=None, metavar="CASES", help="comma-separated names of cases")
    parser.add_argument("--round", type=int, default=None, metavar="N", help="only this round of each case")
    parser.add_argument("--sweep", action="store_true", help="kill at every call that changes a file in turn")
    parser.add_argument("--folder", type=Path, default=None, help="new folder to work in, which is kept")
    return parser.parse_args(argv)


@contextlib.contextmanager
def folder_of(folder: Path | None) -> Iterator[Path]:
    """Yield a folder to work in: a temporary one, or a new one that is kept."""
    if folder is not None:
        folder.mkdir(parents=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        yield Path(temporary).resolve()


def chosen(cases: list[Case], only: str | None) -> list[Case]:
    """Return the selected cases. Raises SystemExit for an unknown name."""
    names = [case.name for case in cases] if only is None else only.split(",")
    unknown = sorted(set(names) - {case.name for case in cases})
    if unknown:
        raise SystemExit(f"unknown case {unknown[0]!r}, expected one of {', '.join(case.name for case in cases)}")
    return [case for case in cases if case.name in names]


def split(num_faults: int, cases: list[Case]) -> list[int]:
    """Divide num_faults between the cases by their shares."""
    ends = np.cumsum([case.share for case in cases])
    ends = np.round(ends / ends[-1] * num_faults).astype(int)
    return np.diff(ends, prepend=0).tolist()


def play(trial: Trial, arguments: argparse.Namespace, num_faults: int) -> Outcome:
    """Run the rounds of a case."""
    outcome, name = Outcome(), trial.case.name
    if arguments.round is None:
        outcome.failures += [f"--only {name}, twice without a fault: {text}" for text in trial.repeat()]
    total = trial.num_calls if arguments.sweep else num_faults
    with tqdm(total=total, desc=f"{name:16}", unit="fault", disable=None) as bar:
        for number, faults, is_continued in rounds(trial, arguments, num_faults):
            found = trial.play(faults, is_continued)
            outcome.num_rounds += 1
            outcome.faults.update(fault.kind for fault in faults)
            command = (
                f"--only {name} "
                + ("--sweep" if arguments.sweep else f"--seed {arguments.seed}")
                + f" --round {number}"
            )
            what = f"{', '.join(map(str, faults))}{', then without overwrite_output_dir' * is_continued}"
            outcome.failures += [f"{command} ({what}): {text}" for text in found]
            bar.update(len(faults))
            bar.set_postfix(failures=len(outcome.failures))
    return outcome


def rounds(trial: Trial, arguments: argparse.Namespace, num_faults: int) -> Iterator[tuple[int, list[Fault], bool]]:
    """Yield the number of a round, its faults, and whether the run is first resumed without overwrite_output_dir."""
    if arguments.sweep:
        for number in range(1, trial.num_calls + 1):
            if arguments.round in (None, number):
                yield number, [Fault("kill", call=number, rank=0)], False
        return
    number = 0
    while num_faults > 0 or (arguments.round is not None and number <= arguments.round):
        generator = np.random.default_rng([arguments.seed, zlib.crc32(trial.case.name.encode()), number])
        faults = [draw_fault(generator, trial)]
        while generator.random() < AGAIN and len(faults) < MAX_FAULTS:
            faults.append(draw_fault(generator, trial))
        is_continued = trial.case.trains and trial.case.earlier is not None and generator.random() < CONTINUED
        if arguments.round in (None, number):
            yield number, faults, bool(is_continued)
        num_faults -= len(faults)
        number += 1


def draw_fault(generator: np.random.Generator, trial: Trial) -> Fault:
    """Draw a random fault and its time."""
    kind = str(generator.choice(list(SHARES), p=list(SHARES.values())))
    call = int(generator.integers(1, max(trial.num_calls, 1) + 1))
    moment, is_timed = generator.uniform(0.0, trial.seconds), generator.random() < AT_ANY_TIME.get(kind, 0.0)
    num_bytes = int(10 ** generator.uniform(0, MAX_EXPONENT))
    rank = int(generator.integers(trial.case.num_processes)) if generator.random() < 0.5 else None
    if trial.case.is_launched:
        return Fault(kind if kind in AT_ANY_TIME else "kill", after=moment)
    if is_timed:
        return Fault(kind, after=moment, rank=rank if kind == "kill" else None)
    # The first process writes; the others make few calls.
    return Fault(kind, call=call, num_bytes=num_bytes if kind == "cut" else 0, rank=0)


def show(outcomes: dict[str, Outcome], arguments: argparse.Namespace, seconds: float) -> None:
    """Print the failures, and a table of the rounds."""
    for outcome in outcomes.values():
        for text in outcome.failures:
            print(text)
    kinds = [kind for kind in SHARES if any(outcome.faults[kind] for outcome in outcomes.values())]
    print(f"\n{'case':16}{'rounds':>8}" + "".join(f"{kind:>8}" for kind in kinds) + f"{'failures':>10}")
    for name, outcome in [*outcomes.items(), ("all", total_of(outcomes))]:
        counts = "".join(f"{outcome.faults[kind]:8}" for kind in kinds)
        print(f"{name:16}{outcome.num_rounds:8}{counts}{len(outcome.failures):10}")
    what = "every call" if arguments.sweep else f"seed {arguments.seed}"
    print(f"{what}; {seconds:.0f} s, {os.cpu_count()} x {processor_name()}")


def total_of(outcomes: dict[str, Outcome]) -> Outcome:
    """Return the sums over all cases."""
    total = Outcome()
    for outcome in outcomes.values():
        total.faults += outcome.faults
        total.num_rounds += outcome.num_rounds
        total.failures += outcome.failures
    return total


if __name__ == "__main__":
    sys.exit(main())

"""Strike runs at random moments, start them again, and look whether anything is half done, lost or harmed.

    python benchmarks/soak_kills.py [--kills 200] [--seed 0] [--only full,merge] [--sweep]

A command (training whole, with LoRA, packed, by two processes, over an earlier run's output; merge, convert and the
others that write models) is killed, interrupted, or finds the disk full, up to three times in turn; then the same
command runs to its end. What must hold after each strike: a checkpoint that is marked whole, and a folder that loads,
is in every file what it was before or what an uninterrupted run makes of it. At the end: every file is as of a run that
was never struck, nothing is left over, and what is not the run's own is untouched. The moments: any time, and any call
that opens a file to write, renames or removes. --sweep kills at each such call of a case, one after the other. A round
is known by its case and number, and can be repeated alone: --only CASE --round N.

Exit code 1 where something does not hold. Children are forked from this process, which has imported everything and
computed nothing; paddle's launcher starts real ones.
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

AGAIN = 0.3  # chance that what was struck is struck once more before it comes to its end
MOST_STRIKES = 3
CONTINUED = 0.3  # chance that a run over an earlier one is first started again without overwrite_output_dir
SHARES = {"kill": 0.5, "cut": 0.12, "full": 0.12, "fail": 0.06, "term": 0.1, "int": 0.1}
BY_THE_CLOCK = {"kill": 0.35, "term": 0.5, "int": 0.5}  # the share of a signal that comes at any time
MOST_BYTES = 5.5  # power of ten: of the file in whose writing "cut" strikes


@dataclass
class Story:
    """What happened in the rounds of a case. breaks: a sentence each, with its round."""

    strikes: Counter = field(default_factory=Counter)
    num_rounds: int = 0
    num_missed: int = 0  # that ended before they were struck
    breaks: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    warm_up()
    with folder_of(arguments.folder) as home:
        cases = chosen(all_cases(home), arguments.only)
        soak, start = Soak(home), time.monotonic()
        stories = {}
        for case, num_strikes in zip(cases, split(arguments.kills, cases), strict=True):
            trial = soak.begin(case)
            stories[case.name] = play(trial, arguments, num_strikes)
        show(stories, arguments, time.monotonic() - start)
    return int(any(story.breaks for story in stories.values()))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="strikes, over all cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=None, metavar="CASES", help="names of cases, with commas")
    parser.add_argument("--round", type=int, default=None, metavar="N", help="this round of each case alone")
    parser.add_argument("--sweep", action="store_true", help="kill at every call that changes a file in turn")
    parser.add_argument("--folder", type=Path, default=None, help="a new folder to work in, which is kept")
    return parser.parse_args(argv)


@contextlib.contextmanager
def folder_of(folder: Path | None) -> Iterator[Path]:
    """Give a folder to work in: a temporary one, or a new one that is kept."""
    if folder is not None:
        folder.mkdir(parents=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="soak-") as home:
        yield Path(home).resolve()


def chosen(cases: list[Case], only: str | None) -> list[Case]:
    """Return the cases that are asked for. Raises SystemExit for a name that none has."""
    names = [case.name for case in cases] if only is None else only.split(",")
    unknown = sorted(set(names) - {case.name for case in cases})
    if unknown:
        raise SystemExit(f"no case is called {unknown[0]!r}: there are {', '.join(case.name for case in cases)}")
    return [case for case in cases if case.name in names]


def split(num_strikes: int, cases: list[Case]) -> list[int]:
    """Return how many strikes each case gets, by their shares, in all num_strikes."""
    ends = np.cumsum([case.share for case in cases])
    ends = np.round(ends / ends[-1] * num_strikes).astype(int)
    return np.diff(ends, prepend=0).tolist()


def play(trial: Trial, arguments: argparse.Namespace, num_strikes: int) -> Story:
    """Play the rounds of a case."""
    story, name = Story(), trial.case.name
    if arguments.round is None:
        story.breaks += [f"--only {name}, twice without any strike: {text}" for text in trial.repeat()]
    total = trial.num_calls if arguments.sweep else num_strikes
    with tqdm(total=total, desc=f"{name:16}", unit="strike", disable=None) as bar:
        for number, faults, is_continued in rounds(trial, arguments, num_strikes):
            found = trial.play(faults, is_continued)
            story.num_rounds += 1
            story.strikes.update(fault.kind for fault in faults)
            again = (
                f"--only {name} "
                + ("--sweep" if arguments.sweep else f"--seed {arguments.seed}")
                + f" --round {number}"
            )
            told = f"{', '.join(map(str, faults))}{', then without overwrite_output_dir' * is_continued}"
            story.breaks += [f"{again} ({told}): {text}" for text in found]
            bar.update(len(faults))
            bar.set_postfix(breaks=len(story.breaks))
    return story


def rounds(trial: Trial, arguments: argparse.Namespace, num_strikes: int) -> Iterator[tuple[int, list[Fault], bool]]:
    """Yield the number of a round, its strikes, and whether the run goes on without overwrite_output_dir first."""
    if arguments.sweep:
        for number in range(1, trial.num_calls + 1):
            if arguments.round in (None, number):
                yield number, [Fault("kill", call=number, rank=0)], False
        return
    number = 0
    while num_strikes > 0 or (arguments.round is not None and number <= arguments.round):
        generator = np.random.default_rng([arguments.seed, zlib.crc32(trial.case.name.encode()), number])
        faults = [draw_fault(generator, trial)]
        while generator.random() < AGAIN and len(faults) < MOST_STRIKES:
            faults.append(draw_fault(generator, trial))
        is_continued = trial.case.trains and trial.case.earlier is not None and generator.random() < CONTINUED
        if arguments.round in (None, number):
            yield number, faults, bool(is_continued)
        num_strikes -= len(faults)
        number += 1


def draw_fault(generator: np.random.Generator, trial: Trial) -> Fault:
    """Draw what strikes, and when."""
    kind = str(generator.choice(list(SHARES), p=list(SHARES.values())))
    call = int(generator.integers(1, max(trial.num_calls, 1) + 1))
    moment, is_timed = generator.uniform(0.0, trial.seconds), generator.random() < BY_THE_CLOCK.get(kind, 0.0)
    num_bytes = int(10 ** generator.uniform(0, MOST_BYTES))
    rank = int(generator.integers(trial.case.num_processes)) if generator.random() < 0.5 else None
    if trial.case.is_launched:
        return Fault(kind if kind in BY_THE_CLOCK else "kill", after=moment)
    if is_timed:
        return Fault(kind, after=moment, rank=rank if kind == "kill" else None)
    # The first process writes; the calls of the others are few.
    return Fault(kind, call=call, num_bytes=num_bytes if kind == "cut" else 0, rank=0)


def show(stories: dict[str, Story], arguments: argparse.Namespace, seconds: float) -> None:
    """Print the breaks, and a table of the rounds."""
    for story in stories.values():
        for text in story.breaks:
            print(text)
    kinds = [kind for kind in SHARES if any(story.strikes[kind] for story in stories.values())]
    print(f"\n{'case':16}{'rounds':>8}" + "".join(f"{kind:>8}" for kind in kinds) + f"{'breaks':>8}")
    for name, story in [*stories.items(), ("all", total_of(stories))]:
        counts = "".join(f"{story.strikes[kind]:8}" for kind in kinds)
        print(f"{name:16}{story.num_rounds:8}{counts}{len(story.breaks):8}")
    what = "every call" if arguments.sweep else f"seed {arguments.seed}"
    print(f"{what}; {seconds:.0f} s, {os.cpu_count()} x {processor_name()}")


def total_of(stories: dict[str, Story]) -> Story:
    """Return the sums over all cases."""
    total = Story()
    for story in stories.values():
        total.strikes += story.strikes
        total.num_rounds += story.num_rounds
        total.breaks += story.breaks
    return total


if __name__ == "__main__":
    sys.exit(main())

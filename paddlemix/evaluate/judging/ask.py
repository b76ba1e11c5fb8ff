"""Have a judge read the answers to a task, several at a time, and keep what it wrote."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ...terminal.sizes import plural
from ..item import Problem, Question
from ..results import Saved
from ..tasks.task import Task
from .journal import Journal, Line, hash_of, read_lines, texts_by_prompt
from .judge import Judge, NoAnswer
from .replies import RefusedRequest, Reply
from .rules import OWN_RULES, Messages, Protocol
from .side_by_side import side_by_side

NUM_PARALLEL = 8
MAX_AGAIN = 3  # further requests after one that brought no grade
MAX_FAILED_IN_A_ROW = 5  # questions without an answer, after which a judge is left alone
MAX_REFUSED = 3  # requests that are refused before one is answered: the settings are wrong, not the texts


@dataclass(frozen=True)
class Judged:
    """What a judge wrote about the answers to a task.

    texts: by the id of a question, one for each run. problems: answers that could not be judged; a rerun asks for them
    again. judge: its name, "" if nothing was judged. notes: what a reader of the figures has to know.
    """

    texts: Mapping[str, tuple[str, ...]]
    problems: tuple[Problem, ...] = ()
    judge: str = ""
    notes: tuple[str, ...] = ()

    def add_to(self, saved: Mapping[str, Saved]) -> dict[str, Saved]:
        """Return saved answers with their judgements."""
        return {name: replace(one, judgement=self.texts.get(name, ())) for name, one in saved.items()}


@dataclass(frozen=True)
class Job:
    """A request to a judge: about which question, and what it is asked."""

    id: str
    messages: Messages
    answer: str


def judge_all(
    task: Task,
    questions: Sequence[Question],
    saved: Mapping[str, Saved],
    judge: Judge,
    journal: str | Path,
    protocol: Protocol,
    *,
    num_parallel: int = NUM_PARALLEL,
    is_shown: bool = True,
) -> Judged:
    """Return the judgements of all answers; those that the journal has are not asked for again.

    An answer, or instructions, that changed since are judged again. journal: a file of JSON lines, to which each
    judgement is added as it ends. is_shown: whether a terminal shows the progress. Questions without an answer are not
    judged. Raises ValueError if the journal is another judge's, JudgeError if the judge's server refuses.
    """
    jobs, problems = _jobs(task, questions, saved, protocol)
    keys = {job.id: (job.id, hash_of(job.messages)) for job in jobs}
    with Journal(journal, judge.model) as book:
        known = texts_by_prompt(book.lines)
        missing = [job for job in jobs for _ in range(protocol.num_runs - len(known.get(keys[job.id], ())))]

        def write(job: Job, reply: Reply) -> None:
            hashes = (keys[job.id][1], hash_of(job.answer))
            book.add(Line(job.id, judge.model, protocol.rules, *hashes, (reply.text,), reply.model))

        problems += ask_jobs(
            judge,
            protocol,
            missing,
            write,
            where=task.name,
            title=f"judging {task.name}" if is_shown else "",
            num_parallel=num_parallel,
            has_replied=bool(book.lines),
        )
        known = texts_by_prompt(book.lines)
        texts = {name: known.get(key, ())[: protocol.num_runs] for name, key in keys.items()}
        used = {name: found for name, found in texts.items() if len(found) == protocol.num_runs}
        lines = [line for line in book.lines if line.id in used and line.prompt == keys[line.id][1]]
    notes = [*_notes(lines), *_unsupported(judge)]
    return Judged(used, tuple(problems), judge.model if used else "", tuple(notes))


def saved_judgements(questions: Sequence[Question], saved: Mapping[str, Saved], journal: str | Path) -> Judged:
    """Return the judgements that a journal has of the answers, without asking anyone.

    If an answer was judged under several instructions, the last ones count. Answers with fewer runs than others are
    left out, as a killed run leaves them. Raises ValueError if a line is damaged.
    """
    answers = {one.id: saved[one.id].output for one in questions if one.id in saved}
    hashes = {name: hash_of(text) for name, text in answers.items() if text is not None}
    written = read_lines(journal)
    lines = [line for line in written if line.answer == hashes.get(line.id)]
    last = {line.id: line.prompt for line in lines}
    lines = [line for line in lines if line.prompt == last[line.id]]
    found = {name: texts for (name, _), texts in texts_by_prompt(lines).items()}
    num_runs = max(map(len, found.values()), default=0)
    texts = {name: some for name, some in found.items() if len(some) == num_runs}
    counts = (
        (len({line.id for line in written} & hashes.keys() - found.keys()), "changed after judging"),
        (
            len(found) - len(texts),
            f"judged fewer than {num_runs} times; run the judge again to complete the judgements",
        ),
    )
    notes = [f"{plural(count, 'answer')} {text}" for count, text in counts if count]
    return Judged(texts, (), lines[0].judge if lines else "", (*_notes(lines), *notes))


def _jobs(
    task: Task, questions: Sequence[Question], saved: Mapping[str, Saved], protocol: Protocol
) -> tuple[list[Job], list[Problem]]:
    jobs, problems = [], []
    for one in questions:
        answer = saved[one.id].output if one.id in saved else None
        if answer is None or task.needs not in one.fields:
            continue  # both are counted where answers are scored
        missing = [name for name in protocol.needs if name not in one.fields]
        if missing:
            text = f"it cannot be judged: the files have no {', '.join(missing)}"
            problems.append(Problem(task.name, text, one.id))
        else:
            jobs.append(Job(one.id, protocol.messages(one.fields, answer), answer))
    return jobs, problems


def _notes(lines: Sequence[Line]) -> list[str]:
    """Return which models judged by which instructions."""
    served = sorted({line.served for line in lines if line.served and line.served != line.judge})
    notes = [f"judged by {lines[0].judge}" + (f" (served as {', '.join(served)})" if served else "")] if lines else []
    for rules in sorted({line.rules for line in lines}):
        whose = "paddlemix's own, not those of the benchmark's project" if rules == OWN_RULES else rules
        notes.append(f"instructions of the judge: {whose}")
    return [*notes, "figures of different judges or instructions do not compare"] if lines else []


def _unsupported(judge: Judge) -> list[str]:
    return ["the judge takes no temperature; it used its own"] if "temperature" in judge.unsupported else []


def ask_jobs(
    judge: Judge,
    protocol: Protocol,
    jobs: Sequence[Job],
    write: Callable[[Job, Reply], None],
    *,
    where: str,
    title: str = "",
    num_parallel: int = NUM_PARALLEL,
    has_replied: bool = False,
) -> list[Problem]:
    """Ask a judge and pass each reply to `write`, in the order in which they end; return what failed.

    A reply without a grade is asked for again, MAX_AGAIN times; the last one counts. where: of the problems. title: of
    the progress that a terminal shows, "" for none. has_replied: whether this judge has replied before, so that it is
    the text of a request that it refuses, and not the settings. Raises JudgeError if the server refuses; replies to
    requests that were on their way are written before.
    """
    assert num_parallel >= 1
    if not jobs:
        return []
    stop = threading.Event()
    outcome = _Outcome(where, stop, has_replied)
    with tqdm(total=len(jobs), desc=title, disable=None if title else True, unit="answer") as bar:
        work = partial(outcome.of, partial(_reply, judge, protocol, stop, bar.set_postfix_str))
        with closing(side_by_side(work, jobs, min(num_parallel, len(jobs)), stop)) as ended:
            for job, reply in ended:
                bar.update()
                if reply is not None:
                    write(job, reply)
                    bar.set_postfix_str("", refresh=False)
    outcome.check()
    return outcome.named_problems(jobs)


def _reply(judge: Judge, protocol: Protocol, stop: threading.Event, on_wait: Callable[[str], None], job: Job) -> Reply:
    """Return the first reply that has a grade, or the last one."""
    for number in range(MAX_AGAIN + 1):
        messages, temperature = protocol.asked(job.messages, number)
        reply = judge.ask(messages, temperature=temperature, max_tokens=protocol.max_tokens, stop=stop, on_wait=on_wait)
        if protocol.is_readable(reply.text):
            break
    return reply


class _Outcome:
    """How the requests of several threads ended so far, and whether more make sense. stop: is set if not."""

    def __init__(self, where: str, stop: threading.Event, has_replied: bool):
        self.where = where
        self.stop = stop
        self.has_replied = has_replied
        self.failed_in_a_row = 0
        self.problems: dict[str, Problem] = {}
        self.refused: list[RefusedRequest] = []
        self.fatal: Exception | None = None
        self.ended: set[str] = set()
        self._lock = threading.Lock()

    def of(self, ask: Callable[[Job], Reply], job: Job) -> Reply | None:
        """Return the reply to a job, None if there is none. It is added here, before the thread takes another job."""
        try:
            result = ask(job)
        except Exception as error:  # named in the problems, or raised by `check`
            result = error
        with self._lock:
            self.ended.add(job.id)
            self._add(job, result)
        return result if isinstance(result, Reply) else None

    def _add(self, job: Job, result: Reply | Exception) -> None:
        if isinstance(result, Reply):
            self.has_replied = True
            self.failed_in_a_row = 0
        elif isinstance(result, RefusedRequest | NoAnswer):
            self.problems[job.id] = Problem(self.where, f"the judge gave no judgement: {result}", job.id)
            self.failed_in_a_row += isinstance(result, NoAnswer)
            self.refused += [result] if isinstance(result, RefusedRequest) else []
            if not self.has_replied and len(self.refused) >= MAX_REFUSED:
                self.fatal = self.fatal or self.refused[0]
        else:
            self.fatal = self.fatal or result  # JudgeError, or a mistake of our own
        if self.fatal is not None or self.failed_in_a_row >= MAX_FAILED_IN_A_ROW:
            self.stop.set()

    def check(self) -> None:
        """Raise what makes further requests useless."""
        if self.fatal is None and self.refused and not self.has_replied:
            self.fatal = self.refused[0]
        if self.fatal is not None:
            raise self.fatal

    def named_problems(self, jobs: Sequence[Job]) -> list[Problem]:
        """Return the problems in the order of the jobs, one for each question."""
        left = {job.id for job in jobs} - self.ended
        text = f"it was not judged: the judge failed {self.failed_in_a_row} times in a row"
        found = {**{name: Problem(self.where, text, name) for name in left}, **self.problems}
        return [found[name] for name in dict.fromkeys(job.id for job in jobs) if name in found]
